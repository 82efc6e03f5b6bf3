from pathlib import Path

import numpy as np
import pytest
import torch
from face_drawings import drawn_face
from PIL import Image
from safetensors.torch import save_file

from raylib.config import FaceSettings
from raylib.detection.alignment import crop_face
from raylib.detection.detector import FaceDetector
from raylib.errors import ConfigError
from raylib.segmentation.labels import (
    FASSEG_COLOURS,
    Label,
    draw_labels,
    face_mask,
    occlusion,
    region_fractions,
    snap_to_labels,
)
from raylib.segmentation.segmenter import FaceSegmenter, load_weights, save_weights, shipped_weights
from raylib.segmentation.unet import UNet


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_weights(UNet((4, 8, 8)), path, input_px=24)
    return path


def test_drawing_and_snapping_are_inverse():
    labels = np.random.default_rng(0).integers(0, 6, (3, 17, 23), dtype=np.uint8)
    assert (np.stack([snap_to_labels(drawn) for drawn in draw_labels(labels)]) == labels).all()


def test_snapping_takes_the_nearest_colour():
    rgb = np.random.default_rng(1).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    snapped = snap_to_labels(rgb)
    for y, x in np.ndindex(9, 11):
        distance = ((FASSEG_COLOURS.astype(int) - rgb[y, x].astype(int)) ** 2).sum(1)
        assert distance[snapped[y, x]] == distance.min()


def test_face_is_neither_hair_nor_background():
    labels = np.arange(6, dtype=np.uint8)[None]
    assert face_mask(labels).tolist() == [[False, False, True, True, True, True]]


def test_fractions_count_every_pixel_once():
    _, labels = drawn_face(40, np.random.default_rng(2))
    fractions = region_fractions(labels)
    assert list(fractions) == [label.name.lower() for label in Label]
    assert sum(fractions.values()) == pytest.approx(1)
    assert fractions["eyes"] == (labels == Label.EYES).mean()


def _landmarks() -> np.ndarray:
    """68 points of a round face of radius 40 about (50, 50)."""
    points = np.full((68, 2), 50.0)
    jaw = np.linspace(np.pi, 0, 17)
    points[:17] = 50 + 40 * np.stack([np.cos(jaw), np.sin(jaw)], -1)
    points[17:27] = np.stack([np.linspace(15, 85, 10), np.full(10, 35.0)], -1)
    points[36:42], points[42:48] = (35, 45), (65, 45)
    return points


def test_occlusion_is_the_covered_share_of_the_face():
    labels = np.full((100, 100), Label.SKIN, np.uint8)
    assert occlusion(labels, _landmarks()) == 0
    labels[:, 50:] = Label.BACKGROUND
    assert occlusion(labels, _landmarks()) == pytest.approx(0.5, abs=0.02)
    labels[:] = Label.HAIR
    assert occlusion(labels, _landmarks()) == 1


def test_brows_are_no_occluders():
    labels = np.full((100, 100), Label.SKIN, np.uint8)
    labels[33:38, 15:45] = labels[33:38, 55:85] = Label.HAIR
    assert occlusion(labels, _landmarks()) < 0.005


def test_occlusion_of_a_face_outside_the_crop_is_zero():
    labels = np.zeros((100, 100), np.uint8)
    assert occlusion(labels, _landmarks() + 1000) == 0


def test_weights_survive_the_file_up_to_half_precision(weights):
    torch.manual_seed(0)
    original = UNet((4, 8, 8))
    network, input_px = load_weights(weights)
    assert input_px == 24
    assert network.widths == (4, 8, 8)
    assert not network.training
    for name, value in original.state_dict().items():
        assert torch.equal(network.state_dict()[name], value.half().float())


def test_a_file_that_is_no_unet_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.safetensors.*expected a safetensors file"):
        load_weights(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors here, only words")
    with pytest.raises(ConfigError, match="expected a safetensors file"):
        FaceSegmenter(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="format and labels"):
        load_weights(tmp_path / "other.safetensors")


@pytest.mark.parametrize("size", [(24, 24), (31, 57), (64, 48)])
def test_batches_give_what_single_crops_give(weights, size):
    crops = np.random.default_rng(0).integers(0, 256, (5, *size, 3), dtype=np.uint8)
    segmenter = FaceSegmenter(weights, batch_size=2)
    labels = segmenter.segment(crops)
    assert labels.shape == (5, *size)
    assert labels.dtype == np.uint8
    probabilities = segmenter.probabilities(crops)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5, *size))
    single = torch.cat([segmenter.probabilities(crop[None]) for crop in crops])
    torch.testing.assert_close(probabilities, single, atol=1e-5, rtol=0)
    assert (probabilities.argmax(1).numpy() == labels).all()


def test_read_only_and_strided_crops_are_taken(weights):
    crops = np.random.default_rng(0).integers(0, 256, (2, 30, 30, 3), dtype=np.uint8)
    expected = FaceSegmenter(weights).segment(crops)
    frozen = np.flip(np.flip(crops, 2).copy(), 2)
    frozen.flags.writeable = False
    assert (FaceSegmenter(weights).segment(frozen) == expected).all()


def test_no_crops_give_no_labels(weights):
    assert FaceSegmenter(weights).segment(np.zeros((0, 16, 20, 3), np.uint8)).shape == (0, 16, 20)


@pytest.mark.parametrize("crops", [np.zeros((1, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)])
def test_wrong_crops_are_refused(weights, crops):
    with pytest.raises(ValueError, match="expected uint8"):
        FaceSegmenter(weights).segment(crops)


def test_shipped_weights_are_small():
    assert shipped_weights().stat().st_size <= 10_000_000


def test_shipped_weights_find_the_parts_of_a_photograph_that_no_set_holds(astronaut):
    """NASA's portrait of Eileen Collins: eyes, nose and mouth where dlib's landmarks have them."""
    face = FaceDetector(FaceSettings(detector="hog"))(astronaut)[0]
    crop = crop_face(astronaut, face.landmarks)
    landmarks = crop.points_from_photo(face.landmarks)
    segmenter = FaceSegmenter()
    labels = segmenter.segment(crop.rgb[None])[0]

    def label_at(points: np.ndarray) -> int:
        x, y = np.floor(points.mean(0)).astype(int)
        return int(labels[y, x])

    assert label_at(landmarks[36:42]) == label_at(landmarks[42:48]) == Label.EYES
    assert label_at(landmarks[29:31]) == Label.NOSE
    assert label_at(landmarks[60:68]) == Label.MOUTH
    assert label_at((landmarks[8:9] + landmarks[57:58]) / 2) == Label.SKIN
    assert occlusion(labels, landmarks) < 0.06
    covered = crop.rgb.copy()
    x, y = np.floor(landmarks[30]).astype(int)
    covered[y : y + 70, x - 40 : x + 40] = (30, 90, 200)
    assert occlusion(segmenter.segment(covered[None])[0], landmarks) > 0.12


def test_label_pictures_survive_a_png(tmp_path):
    _, labels = drawn_face(33, np.random.default_rng(0))
    Image.fromarray(draw_labels(labels)).save(tmp_path / "labels.png")
    assert (snap_to_labels(np.asarray(Image.open(tmp_path / "labels.png"))) == labels).all()
