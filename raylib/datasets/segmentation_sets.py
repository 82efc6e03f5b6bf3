"""The labelled photographs of a configuration, split so that no person is on both sides."""

from __future__ import annotations

from dataclasses import dataclass

from raylib.config import SegmentationData
from raylib.datasets.celebamask import list_celebamask
from raylib.datasets.fasseg import list_fasseg
from raylib.datasets.helen import list_helen
from raylib.datasets.labelled import LabelledPhoto, split_by_person
from raylib.errors import ConfigError


@dataclass(frozen=True)
class Splits:
    """Labelled photographs by use.

    Attributes:
        train: what the network learns from.
        validation: what chooses the checkpoint.
        test: what nothing is chosen by.
        left_out: one sentence for each file of the folders that is in none of them.
    """

    train: tuple[LabelledPhoto, ...]
    validation: tuple[LabelledPhoto, ...]
    test: tuple[LabelledPhoto, ...]
    left_out: tuple[str, ...]


def split_photos(data: SegmentationData) -> Splits:
    """Returns the photographs of all given folders.

    Raises:
        ConfigError: no folder is given, or one is not what it is said to be.
    """
    train: list[LabelledPhoto] = []
    validation: list[LabelledPhoto] = []
    test: list[LabelledPhoto] = []
    left_out: list[str] = []
    if data.fasseg is not None:
        listing = list_fasseg(data.fasseg, data.fasseg_versions)
        others, tested = split_by_person(listing.photos, set(data.fasseg_test))
        others, validated = split_by_person(others, set(data.fasseg_validation))
        train += others
        validation += validated
        test += tested
        left_out += listing.left_out
    if data.celebamask is not None:
        listing = list_celebamask(data.celebamask)
        held_out = data.celebamask_test + data.celebamask_validation
        if len(listing.photos) <= held_out:
            raise ConfigError(
                f"CelebAMask-HQ folder {data.celebamask} has {len(listing.photos)} photographs, expected more than "
                f"the {held_out} of celebamask_test and celebamask_validation"
            )
        test += listing.photos[: data.celebamask_test]
        validation += listing.photos[data.celebamask_test : held_out]
        train += listing.photos[held_out:]
        left_out += listing.left_out
    if data.helen is not None:
        helen = list_helen(data.helen)
        train += helen.exemplars
        validation += helen.tuning
        test += helen.testing
        left_out += helen.left_out
    if data.fasseg is None and data.celebamask is None and data.helen is None:
        raise ConfigError("data names no folder, expected at least one of data.fasseg, data.celebamask, data.helen")
    return Splits(tuple(train), tuple(validation), tuple(test), tuple(left_out))
