"""The paper's own networks, losses, templates and scene."""
