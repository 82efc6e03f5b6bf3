"""Derives the shipped face prior: the hemisphere template wrapped onto another model's mean face."""
