"""Datasets as records: what lies where, which label set, which person."""
