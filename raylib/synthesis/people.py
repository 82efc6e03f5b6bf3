"""Seeds: which person and which picture of that person a seed means, and that splits never share a person."""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
PEOPLE_PER_SPLIT = 10**9
"""People number 0 .. 1e9 - 1 are for training, the next 1e9 for validation, the next for tests."""


def person_of(seed: int, shots: int = 1) -> int:
    """Returns the number of the person whom a seed shows, given how many pictures each person has."""
    return seed // shots


def split_of(person: int) -> Split:
    """Returns the split that a person belongs to.

    Raises:
        ValueError: there is no such person.
    """
    if not 0 <= person < PEOPLE_PER_SPLIT * len(SPLITS):
        raise ValueError(f"person is {person}, expected 0 to {PEOPLE_PER_SPLIT * len(SPLITS) - 1}")
    return SPLITS[person // PEOPLE_PER_SPLIT]


def seeds_of(split: Split, count: int, first: int = 0, shots: int = 1) -> range:
    """Returns the seeds of `count` pictures of a split, from its picture number `first` on.

    Raises:
        ValueError: the split has fewer.
    """
    if not 0 <= first <= first + count <= PEOPLE_PER_SPLIT * shots:
        raise ValueError(f"pictures {first} to {first + count} are more than the split {split!r} has")
    start = SPLITS.index(split) * PEOPLE_PER_SPLIT * shots + first
    return range(start, start + count)


def random_for(number: int, aspect: str) -> np.random.Generator:
    """Returns random numbers that belong to one aspect of one person or picture, independent of all others."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([number, zlib.crc32(aspect.encode())])))
