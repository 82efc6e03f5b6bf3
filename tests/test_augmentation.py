import numpy as np
import pytest
import torch
from face_drawings import drawn_face

from raylib.datasets.labelled import IGNORE
from raylib.segmentation.labels import FASSEG_COLOURS, Label
from raylib.training.augmentation import (
    Augmentation,
    augment,
    random_colour,
    random_degradation,
    random_framing,
    random_occlusion,
)

COLOURS = torch.from_numpy(FASSEG_COLOURS).float() / 255


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _faces(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = [drawn_face(size, np.random.default_rng(i)) for i in range(count)]
    return torch.from_numpy(np.stack([d[0] for d in drawn])), torch.from_numpy(np.stack([d[1] for d in drawn]))


def _painted(labels: torch.Tensor) -> torch.Tensor:
    return COLOURS[labels.long()].permute(0, 3, 1, 2)


def test_no_strength_changes_nothing():
    images, labels = _faces(3, 48)
    out, out_labels = augment(images, labels, 48, Augmentation().scaled(0), _rng())
    torch.testing.assert_close(out, images.permute(0, 3, 1, 2) / 255, atol=2e-3, rtol=0)
    assert torch.equal(out_labels, labels)


def test_the_same_seed_gives_the_same_batch():
    images, labels = _faces(6, 48)
    first, second, other = (augment(images, labels, 40, Augmentation(degrade=0.5), _rng(s)) for s in (1, 1, 2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_labels_move_with_the_pixels():
    """A picture painted with its labels' colours stays painted with them, edges apart."""
    _, labels = _faces(24, 96)
    out, moved = random_framing(_painted(labels), labels, 96, Augmentation(), _rng(3))
    known = moved != IGNORE
    wrong = (out - _painted(torch.where(known, moved, 0))).abs().amax(1) > 0.5
    # One colour continues beyond the border and stands for background.
    wrong &= known & (moved != Label.BACKGROUND)
    assert wrong.float().mean() < 0.01
    assert {int(v) for v in moved.unique()} <= {*range(6), IGNORE}


def test_a_mirrored_picture_is_the_picture_mirrored():
    _, labels = _faces(4, 48)
    still = Augmentation().scaled(0)
    image = _painted(labels)
    out, moved = random_framing(image, labels, 48, Augmentation(**{**still.__dict__, "flip": 1.0}), _rng())
    torch.testing.assert_close(out, image.flip(-1), atol=1e-4, rtol=0)
    assert torch.equal(moved, labels.flip(-1))


@pytest.mark.parametrize("degrees", [10.0, 30.0])
def test_rotation_stays_within_its_bound(degrees):
    """The line from the mean of the left to that of the right half-plane turns by at most the given angle."""
    size = 64
    labels = torch.zeros(64, size, size, dtype=torch.uint8)
    labels[:, :, : size // 2] = int(Label.HAIR)
    how = Augmentation(0, degrees, (1, 1), 1.0, 0.0, 0.0)
    _, moved = random_framing(_painted(labels), labels, size, how, _rng(5))
    y, x = torch.meshgrid(torch.arange(size) - 31.5, torch.arange(size) - 31.5, indexing="ij")
    inside = (x**2 + y**2 < 30**2).float()
    hair = (moved == Label.HAIR).float() * inside
    angle = torch.rad2deg(torch.atan2((hair * y).sum((1, 2)), -(hair * x).sum((1, 2))))
    assert angle.abs().max() < degrees + 2
    assert angle.abs().max() > 0.7 * degrees


def test_occluded_pixels_are_background_and_the_rest_is_untouched():
    images, labels = _faces(40, 64)
    planes = images.permute(0, 3, 1, 2).float() / 255
    out, covered = random_occlusion(planes, labels, Augmentation(occlusion=1.0), _rng(2))
    changed = covered != labels
    assert (covered[changed] == Label.BACKGROUND).all()
    # Where a shape lies on true background labels cannot tell; beyond two pixels of any change, pixels are the same.
    same = (out == planes).all(1)
    assert (~same[changed]).float().mean() > 0.95
    share = changed.float().mean((1, 2))
    assert (share > 0).float().mean() > 0.7
    assert share.mean() > 0.03


def test_dark_glasses_cover_the_eyes():
    images, labels = _faces(64, 64)
    planes = images.permute(0, 3, 1, 2).float() / 255
    _, covered = random_occlusion(planes, labels, Augmentation(occlusion=1.0), _rng(4))
    left = (covered == Label.EYES).sum((1, 2)) / (labels == Label.EYES).sum((1, 2))
    assert (left == 0).any()


def test_nothing_is_occluded_at_probability_zero():
    images, labels = _faces(2, 32)
    planes = images.permute(0, 3, 1, 2).float() / 255
    out, same = random_occlusion(planes, labels, Augmentation(occlusion=0.0), _rng())
    assert torch.equal(out, planes)
    assert torch.equal(same, labels)


def test_colour_changes_light_and_keeps_the_range():
    image = torch.rand(16, 3, 24, 24)
    out = random_colour(image, Augmentation(), _rng())
    assert out.min() >= 0
    assert out.max() <= 1
    assert (out.mean((1, 2, 3)) - image.mean((1, 2, 3))).abs().max() > 0.1


def test_degradation_loses_detail():
    image = torch.rand(16, 3, 32, 32)
    out = random_degradation(image, Augmentation(degrade=1.0), _rng())
    assert out.shape == image.shape
    # Low resolution and blur take the fine structure of noise away; compression and noise give less back.
    assert out.std() < 0.7 * image.std()
    assert torch.equal(random_degradation(image, Augmentation(degrade=0.0), _rng()), image)
