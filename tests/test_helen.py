from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raylib.datasets.helen import list_helen, read_landmarks
from raylib.datasets.labelled import HELEN_CLASSES, HELEN_TO_LABEL
from raylib.errors import ConfigError
from raylib.segmentation.labels import Label


def _write_helen(root: Path, names: dict[str, list[str]], size: tuple[int, int] = (12, 10)) -> dict[str, np.ndarray]:
    """Writes photographs, eleven soft masks each, and the lists; returns the probabilities per photograph."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    written = {}
    for split in ("exemplars", "tuning", "testing"):
        lines = []
        for number, name in enumerate(names.get(split, []), 1):
            lines.append(f"{number} , {name}")
            Image.new("RGB", size).save(root / "images" / f"{name}.jpg")
            folder = root / "labels" / name
            folder.mkdir(parents=True)
            masks = rng.integers(0, 256, (11, size[1], size[0]), dtype=np.uint8)
            for part, mask in enumerate(masks):
                Image.fromarray(mask).save(folder / f"{name}_lbl{part:02d}.png")
            written[name] = masks
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return written


def test_the_most_probable_part_wins(tmp_path):
    masks = _write_helen(tmp_path, {"exemplars": ["100_1", "200_1"], "tuning": ["300_1"], "testing": ["400_1"]})
    listing = list_helen(tmp_path)
    assert [p.name for p in listing.exemplars] == ["100_1", "200_1"]
    assert [p.name for p in (*listing.tuning, *listing.testing)] == ["300_1", "400_1"]
    assert listing.left_out == ()
    for photo in (*listing.exemplars, *listing.testing):
        _, labels = photo.load()
        table = np.array([HELEN_TO_LABEL[name] for name in HELEN_CLASSES])
        assert (labels == table[masks[photo.name].argmax(0)]).all()


def test_pixels_without_any_part_are_background(tmp_path):
    _write_helen(tmp_path, {"testing": ["1_1"]})
    for path in (tmp_path / "labels/1_1").iterdir():
        Image.new("L", (12, 10)).save(path)
    _, labels = list_helen(tmp_path).testing[0].load()
    assert (labels == Label.BACKGROUND).all()


def test_listed_photographs_that_are_not_whole_are_reported(tmp_path):
    _write_helen(tmp_path, {"exemplars": ["1_1", "2_1", "3_1"]})
    (tmp_path / "labels/1_1/1_1_lbl10.png").unlink()
    (tmp_path / "images/2_1.jpg").unlink()
    listing = list_helen(tmp_path)
    assert [photo.name for photo in listing.exemplars] == ["3_1"]
    assert [line.split(":")[0] for line in listing.left_out] == [
        "exemplars photograph 1_1",
        "exemplars photograph 2_1",
    ]


def test_masks_of_another_size_are_refused(tmp_path):
    _write_helen(tmp_path, {"tuning": ["1_1"]})
    Image.new("L", (5, 5)).save(tmp_path / "labels/1_1/1_1_lbl03.png")
    with pytest.raises(ConfigError, match=r"lbl03\.png is \(5, 5\) pixels, expected \(10, 12\)"):
        list_helen(tmp_path).tuning[0].load()


def test_a_wrong_folder_says_what_was_expected(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ConfigError, match=r"expected labels, exemplars\.txt, tuning\.txt, testing\.txt"):
        list_helen(tmp_path)


def test_a_broken_list_names_its_line(tmp_path):
    _write_helen(tmp_path, {"tuning": ["1_1"]})
    (tmp_path / "tuning.txt").write_text("1 , 1_1\nnonsense\n")
    with pytest.raises(ConfigError, match=r"tuning\.txt line 2 is 'nonsense'"):
        list_helen(tmp_path)


def test_the_194_landmarks_are_read(tmp_path):
    points = np.random.default_rng(1).uniform(0, 400, (194, 2)).astype(np.float32)
    path = tmp_path / "1.txt"
    path.write_text("\n".join(["100032540_1", *(f"{x:.6f} , {y:.6f}" for x, y in points)]) + "\n")
    name, read = read_landmarks(path)
    assert name == "100032540_1"
    assert read == pytest.approx(points, abs=1e-4)


@pytest.mark.parametrize(
    ("lines", "message"), [(["name", "1 , 2"], "has 1 lines"), (["name", "a , b"], "expected lines")]
)
def test_broken_landmarks_say_what_was_expected(tmp_path, lines, message):
    (tmp_path / "1.txt").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=message):
        read_landmarks(tmp_path / "1.txt")
    with pytest.raises(ConfigError, match="expected a text file"):
        read_landmarks(tmp_path / "absent.txt")
