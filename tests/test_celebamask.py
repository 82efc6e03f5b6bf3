from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raylib.datasets.celebamask import list_celebamask, to_labels
from raylib.datasets.labelled import CELEBAMASK_CLASSES, CELEBAMASK_TO_LABEL
from raylib.errors import ConfigError
from raylib.segmentation.labels import Label

CLASS = {name: number for number, name in enumerate(CELEBAMASK_CLASSES)}


def _mask() -> np.ndarray:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:18, 2:18] = CLASS["skin"]
    mask[5:8, 4:8], mask[5:8, 12:16] = CLASS["l_eye"], CLASS["r_eye"]
    mask[9:12, 8:12] = CLASS["nose"]
    mask[14:16, 6:14] = CLASS["u_lip"]
    mask[0:2] = CLASS["hair"]
    mask[18:] = CLASS["cloth"]
    return mask


def write_palette(root: Path, names: list[str]) -> None:
    (root / "images").mkdir()
    (root / "masks").mkdir()
    for name in names:
        Image.new("RGB", (20, 20), (9, 8, 7)).save(root / "images" / f"{name}.jpg")
        mask = Image.fromarray(_mask(), "P")
        mask.putpalette([value for number in range(19) for value in (number, number, 3 * number)])
        mask.save(root / "masks" / f"{name}.png")


def _write_original(root: Path, numbers: list[int]) -> None:
    """As the authors ship it: 1024-pixel photographs, one 512-pixel RGB mask per part, folders of 2000."""
    (root / "CelebA-HQ-img").mkdir()
    for number in numbers:
        Image.new("RGB", (40, 40)).save(root / "CelebA-HQ-img" / f"{number}.jpg")
        folder = root / "CelebAMask-HQ-mask-anno" / str(number // 2000)
        folder.mkdir(parents=True, exist_ok=True)
        mask = _mask()
        for name in CELEBAMASK_CLASSES[1:]:
            # The skin mask of the authors covers the parts that lie on it.
            on = (
                np.isin(mask, [CLASS[n] for n in ("skin", "l_eye", "r_eye", "nose", "u_lip")])
                if name == "skin"
                else mask == CLASS[name]
            )
            if on.any():
                Image.fromarray(np.where(on, 255, 0).astype(np.uint8)).convert("RGB").save(
                    folder / f"{number:05d}_{name}.png"
                )


def test_every_class_has_a_label():
    assert set(CELEBAMASK_TO_LABEL) == set(CELEBAMASK_CLASSES)


def test_palette_masks_become_labels(tmp_path):
    write_palette(tmp_path, ["b", "a"])
    photos = list_celebamask(tmp_path).photos
    assert [photo.name for photo in photos] == ["a", "b"]
    image, labels = photos[0].load()
    assert image.shape == (20, 20, 3)
    expected = np.array([CELEBAMASK_TO_LABEL[CELEBAMASK_CLASSES[c]] for c in _mask().ravel()]).reshape(20, 20)
    assert (labels == expected).all()


def test_the_original_layout_gives_the_same_labels(tmp_path):
    _write_original(tmp_path, [7, 2001])
    photos = list_celebamask(tmp_path).photos
    assert [photo.name for photo in photos] == ["7", "2001"]
    for photo in photos:
        _, labels = photo.load()
        assert (labels == np.kron(to_labels(_mask()), np.ones((2, 2), np.uint8))).all()


def test_eyes_show_through_clear_glasses_and_dark_ones_are_background():
    clear = _mask()
    clear[4:9, 3:17][np.isin(clear[4:9, 3:17], [CLASS["skin"]])] = CLASS["eye_g"]
    assert (to_labels(clear)[5:8, 4:8] == Label.EYES).all()
    assert to_labels(clear)[4, 4] == Label.SKIN
    dark = _mask()
    dark[4:9, 3:17] = CLASS["eye_g"]
    assert (to_labels(dark)[4:9, 3:17] == Label.BACKGROUND).all()


def test_eyes_are_painted_over_glasses_in_the_original_layout(tmp_path):
    _write_original(tmp_path, [0])
    folder = tmp_path / "CelebAMask-HQ-mask-anno/0"
    glasses = np.zeros((20, 20), np.uint8)
    glasses[4:9, 3:17] = 255
    Image.fromarray(glasses).save(folder / "00000_eye_g.png")
    _, labels = list_celebamask(tmp_path).photos[0].load()
    assert (labels[10:16, 8:16] == Label.EYES).all()


def test_photographs_without_masks_are_reported(tmp_path):
    write_palette(tmp_path, ["a", "b"])
    (tmp_path / "masks/a.png").unlink()
    (tmp_path / "images/readme.txt").write_text("hello")
    listing = list_celebamask(tmp_path)
    assert [photo.name for photo in listing.photos] == ["b"]
    assert len(listing.left_out) == 2


def test_a_colour_picture_is_no_palette_mask(tmp_path):
    write_palette(tmp_path, ["a"])
    Image.new("RGB", (20, 20)).save(tmp_path / "masks/a.png")
    with pytest.raises(ConfigError, match="no palette mask"):
        list_celebamask(tmp_path).photos[0].load()


def test_a_wrong_folder_says_what_was_expected(tmp_path):
    with pytest.raises(ConfigError, match="expected images/ and masks/"):
        list_celebamask(tmp_path)


def test_the_real_folder_is_read(shared_data):
    listing = list_celebamask(shared_data("celebamask"))
    assert len(listing.photos) == 800
    assert listing.left_out == ()
    shown = set()
    for photo in listing.photos[::80]:
        image, labels = photo.load()
        assert image.shape[:2] == labels.shape == (512, 512)
        shown |= set(np.unique(labels))
    assert shown == {int(label) for label in Label}
