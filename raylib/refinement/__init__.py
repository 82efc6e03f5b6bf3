"""Faces refined by rendering them."""
