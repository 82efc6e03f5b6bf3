"""Linear (morphable) face models: the shipped prior, and readers of published models."""
