from pathlib import Path

import numpy as np
import pytest
from face_drawings import drawn_face, write_fasseg_v3
from PIL import Image

from raylib.datasets.fasseg import TRAIN_IN_TEST, list_fasseg
from raylib.datasets.labelled import split_by_person
from raylib.errors import ConfigError
from raylib.segmentation.labels import Label, draw_labels


def _write_frontal(root: Path, version: str, split: str, numbers: list[str], labels_word: str = "Labels") -> None:
    rng = np.random.default_rng(0)
    for number in numbers:
        image, labels = drawn_face(32, rng)
        for folder, picture in ((f"{split}_RGB", image), (f"{split}_{labels_word}", draw_labels(labels))):
            path = root / version / folder / f"{number}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)


def test_multi_pose_photographs_know_person_and_yaw(tmp_path):
    write_fasseg_v3(tmp_path, persons=3, shots=3, size=32)
    listing = list_fasseg(tmp_path, ("V3",))
    assert len(listing.photos) == 9
    assert listing.left_out == ()
    assert {photo.person for photo in listing.photos} == {"V3/01", "V3/02", "V3/03"}
    assert {photo.yaw_deg for photo in listing.photos} == {0.0, 15.0, -90.0}
    rng = np.random.default_rng(0)
    expected_image, expected_labels = drawn_face(32, rng)
    first = next(p for p in listing.photos if p.person == "V3/01" and p.yaw_deg == 0)
    image, labels = first.load()
    assert (image == expected_image).all()
    assert (labels == expected_labels).all()


@pytest.mark.parametrize("word", ["Labels", "labels"])
@pytest.mark.parametrize("version", ["V1", "V2"])
def test_both_spellings_of_the_label_folder_are_read(tmp_path, version, word):
    _write_frontal(tmp_path, version, "Train", ["1", "2"], word)
    _write_frontal(tmp_path, version, "Test", ["1"], word)
    names = [photo.name for photo in list_fasseg(tmp_path, (version,)).photos]
    assert names == [f"{version}/train/1", f"{version}/train/2", f"{version}/test/1"]


def test_a_person_of_both_frontal_folders_never_stands_on_both_sides(tmp_path):
    numbers = sorted(TRAIN_IN_TEST, key=int)
    _write_frontal(tmp_path, "V2", "Train", [*numbers, "2"])
    _write_frontal(tmp_path, "V2", "Test", [*TRAIN_IN_TEST.values(), "2"])
    photos = list_fasseg(tmp_path, ("V2",)).photos
    # Train 2 and test 2 are different people; every leaked pair is one.
    assert len({photo.person for photo in photos}) == len(numbers) + 2
    held_out = {photo.person for photo in photos if "/test/" in photo.name}
    train, test = split_by_person(photos, held_out)
    assert [photo.name for photo in train] == ["V2/train/2"]
    assert len(test) == 2 * len(numbers) + 1


def test_unusable_files_are_reported_and_left_out(tmp_path):
    _write_frontal(tmp_path, "V1", "Train", ["1", "2", "3", "4"])
    (tmp_path / "V1/Train_Labels/2.bmp").unlink()
    (tmp_path / "V1/Train_RGB/4.bmp").unlink()
    Image.new("RGB", (32, 30)).save(tmp_path / "V1/Train_Labels/3.bmp")
    (tmp_path / "V1/Train_RGB/.DS_Store").write_bytes(b"no photograph")
    listing = list_fasseg(tmp_path, ("V1",))
    assert [photo.name for photo in listing.photos] == ["V1/train/1"]
    assert len(listing.left_out) == 3
    assert any("4.bmp: no photograph" in line for line in listing.left_out)
    assert any("2.bmp: no labels" in line for line in listing.left_out)
    assert any("3.bmp: (32, 32) pixels, its labels (32, 30)" in line for line in listing.left_out)


def test_antialiased_edges_snap_to_a_class(tmp_path):
    _write_frontal(tmp_path, "V2", "Train", ["1"])
    path = tmp_path / "V2/Train_Labels/1.bmp"
    _, labels = drawn_face(32, np.random.default_rng(0))
    large = Image.fromarray(draw_labels(labels)).resize((256, 256), Image.Resampling.NEAREST)
    large.resize((32, 32), Image.Resampling.LANCZOS).save(path)
    _, read = list_fasseg(tmp_path, ("V2",)).photos[0].load()
    assert (read == labels).mean() > 0.98


@pytest.mark.parametrize(("versions", "message"), [(("V4",), "expected one of"), (("V1",), "expected V1/Train_RGB")])
def test_a_wrong_folder_says_what_was_expected(tmp_path, versions, message):
    with pytest.raises(ConfigError, match=message):
        list_fasseg(tmp_path, versions)


def test_photographs_without_a_label_folder_say_so(tmp_path):
    (tmp_path / "V2/Train_RGB").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"expected .*Train_Labels or .*Train_labels"):
        list_fasseg(tmp_path, ("V2",))


def test_an_unknown_person_cannot_be_held_out(tmp_path):
    write_fasseg_v3(tmp_path, persons=1, shots=1, size=32)
    with pytest.raises(ConfigError, match=r"'V3/09' is in no photograph"):
        split_by_person(list_fasseg(tmp_path, ("V3",)).photos, {"V3/09"})


def test_a_broken_file_names_itself(tmp_path):
    _write_frontal(tmp_path, "V2", "Train", ["1"])
    photo = list_fasseg(tmp_path, ("V2",)).photos[0]
    photo.image_path.write_bytes(b"BM no bitmap")
    with pytest.raises(ConfigError, match=r"V2/train/1: cannot read .*1\.bmp"):
        photo.load()


def test_the_real_folder_is_read_whole(shared_data):
    listing = list_fasseg(shared_data("fasseg"))
    assert len(listing.photos) == 202
    assert listing.left_out == ()
    multi_pose = [photo for photo in listing.photos if photo.person.startswith("V3/")]
    assert len({photo.person for photo in multi_pose}) == 7
    assert len({photo.yaw_deg for photo in multi_pose}) == 13


def test_the_authors_bitmaps_snap_to_what_the_snapped_copies_hold(shared_data):
    sample = {photo.name: photo for photo in list_fasseg(shared_data("fasseg_bmp_sample"), ("V2",)).photos}
    copies = {photo.name: photo for photo in list_fasseg(shared_data("fasseg"), ("V2",)).photos}
    assert len(sample) == 2
    for name, photo in sample.items():
        image, labels = photo.load()
        _, snapped = copies[name].load()
        height, width = snapped.shape
        resized = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
        assert (resized == snapped).mean() > 0.98
        assert set(np.unique(labels)) == {int(label) for label in Label}
        assert image.shape[:2] == labels.shape
