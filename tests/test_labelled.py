import pytest
from face_drawings import write_fasseg_v3

from raylib.config import SegmentationData
from raylib.datasets.labelled import CELEBAMASK_TO_LABEL, HELEN_CLASSES, HELEN_TO_LABEL
from raylib.datasets.segmentation_sets import split_photos
from raylib.errors import ConfigError


def test_helen_classes_all_have_a_label():
    assert set(HELEN_TO_LABEL) == set(HELEN_CLASSES)


def test_left_and_right_parts_share_a_label():
    """What lets augmentation mirror pictures without renaming anything."""
    for table, pairs in (
        (CELEBAMASK_TO_LABEL, [(f"l_{part}", f"r_{part}") for part in ("eye", "brow", "ear")]),
        (HELEN_TO_LABEL, [(f"left_{part}", f"right_{part}") for part in ("eye", "brow")]),
    ):
        assert all(table[left] == table[right] for left, right in pairs)


def test_splits_share_no_person_and_no_photograph(tmp_path):
    write_fasseg_v3(tmp_path, persons=5, shots=3, size=16)
    splits = split_photos(
        SegmentationData(
            fasseg=str(tmp_path),
            fasseg_versions=("V3",),
            fasseg_test=("V3/01", "V3/04"),
            fasseg_validation=("V3/02",),
        )
    )
    persons = [{photo.person for photo in part} for part in (splits.train, splits.validation, splits.test)]
    assert persons == [{"V3/03", "V3/05"}, {"V3/02"}, {"V3/01", "V3/04"}]
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 15


def test_no_folder_at_all_is_an_error():
    with pytest.raises(ConfigError, match=r"data\.fasseg, data\.celebamask, data\.helen"):
        split_photos(SegmentationData())


def test_a_person_cannot_be_in_two_splits():
    with pytest.raises(ConfigError, match="fasseg_validation"):
        SegmentationData(fasseg_test=("V3/01",), fasseg_validation=("V3/01",))
