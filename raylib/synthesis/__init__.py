"""Synthetic faces whose geometry, albedo, light, pose, expression and labels are known."""

from raylib.synthesis.generator import GENERATOR_VERSION, FaceSynthesizer, SyntheticFaces
from raylib.synthesis.people import PEOPLE_PER_SPLIT, SPLITS, person_of, seeds_of, split_of

__all__ = [
    "GENERATOR_VERSION",
    "PEOPLE_PER_SPLIT",
    "SPLITS",
    "FaceSynthesizer",
    "SyntheticFaces",
    "person_of",
    "seeds_of",
    "split_of",
]
