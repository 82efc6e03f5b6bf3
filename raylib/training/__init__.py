"""Training loops that Ray Train runs, and their checkpoints."""
