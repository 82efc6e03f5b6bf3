"""Training of the paper's networks."""
