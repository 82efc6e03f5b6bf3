"""Random changes to batches of photographs and labels: framing, light, colour, blur, compression, occluders.

Everything works on a whole batch where it lies, CPU or GPU, and draws from one generator: the same seed gives the
same batch. Photographs are floats in 0..1, labels class numbers or IGNORE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor
from torch.nn import functional

from raylib.datasets.labelled import IGNORE
from raylib.segmentation.labels import Label


@dataclass(frozen=True)
class Augmentation:
    """How strongly training pictures vary; probabilities are per picture.

    Attributes:
        flip: probability of a mirror image.
        rotation_deg: largest rotation, either way.
        scale: smallest and largest magnification.
        aspect: largest ratio by which one axis is stretched against the other.
        shift: largest displacement as a part of the picture's width.
        partial: probability that the picture is pushed so far that part of the face is outside.
        occlusion: probability of an occluder.
        colour: strength of light and colour changes, 1 is the usual one.
        degrade: probability of blur, of low resolution, of JPEG artefacts and of noise, each.
    """

    flip: float = 0.5
    rotation_deg: float = 30.0
    scale: tuple[float, float] = (0.75, 1.5)
    aspect: float = 1.25
    shift: float = 0.12
    partial: float = 0.1
    occlusion: float = 0.4
    colour: float = 1.0
    degrade: float = 0.15

    def scaled(self, strength: float) -> Augmentation:
        """Returns these changes made weaker or stronger; 0 leaves every picture as it is but for its size.

        Occluders stay as frequent at any strength: faces are covered in reality, too.
        """
        return Augmentation(
            flip=self.flip if strength > 0 else 0.0,
            rotation_deg=self.rotation_deg * strength,
            scale=(self.scale[0] ** strength, self.scale[1] ** strength),
            aspect=self.aspect**strength,
            shift=self.shift * strength,
            partial=min(1.0, self.partial * strength),
            occlusion=self.occlusion if strength > 0 else 0.0,
            colour=self.colour * strength,
            degrade=min(1.0, self.degrade * strength),
        )


def _uniform(rng: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=rng, device=rng.device)


def _chance(rng: Generator, probability: float, count: int) -> Tensor:
    return torch.rand(count, generator=rng, device=rng.device) < probability


def random_framing(
    image: Float[Tensor, "b c h w"], labels: UInt8[Tensor, "b h w"], size: int, how: Augmentation, rng: Generator
) -> tuple[Float[Tensor, "b c s s"], UInt8[Tensor, "b s s"]]:
    """Returns pictures of `size` pixels seen through a random similarity with some stretch.

    Half of the pictures are continued beyond their border by repeating it, with the label IGNORE; the other half
    show one colour there, often black, which is background.
    """
    count = len(image)
    angle = _uniform(rng, -1, 1, count) ** 3 * math.radians(how.rotation_deg)  # mostly upright, the extremes rare
    angle = torch.where(_chance(rng, 0.5, count), angle, _uniform(rng, -1, 1, count) * math.radians(how.rotation_deg))
    zoom = torch.exp(_uniform(rng, math.log(how.scale[0]), math.log(how.scale[1]), count))
    stretch = torch.exp(_uniform(rng, -0.5, 0.5, count) * math.log(how.aspect))
    mirror = torch.where(_chance(rng, how.flip, count), -1.0, 1.0)
    shift = _uniform(rng, -2, 2, count, 2) * how.shift
    far = _chance(rng, how.partial, count)
    shift = torch.where(far[:, None], shift.sign() * _uniform(rng, 0.3, 0.8, count, 2), shift)
    cos, sin = torch.cos(angle), torch.sin(angle)
    # Output to input: the inverse of "stretch, rotate, magnify, shift".
    theta = torch.stack(
        [
            torch.stack([mirror * cos * stretch / zoom, mirror * sin * stretch / zoom, shift[:, 0]], -1),
            torch.stack([-sin / stretch / zoom, cos / stretch / zoom, shift[:, 1]], -1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, [count, 1, size, size], align_corners=False).to(image.dtype)
    framed = functional.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    moved = functional.grid_sample(
        labels[:, None].to(image.dtype), grid, mode="nearest", padding_mode="border", align_corners=False
    )[:, 0].to(torch.uint8)
    outside = (grid.abs().amax(-1) > 1) | (moved == IGNORE)
    filled = outside & _chance(rng, 0.5, count)[:, None, None]
    colour = _uniform(rng, 0, 1, count, 3, 1, 1) * (~_chance(rng, 0.5, count)).to(image.dtype)[:, None, None, None]
    framed = torch.where(filled[:, None], colour.to(image.dtype), framed)
    moved = torch.where(filled, int(Label.BACKGROUND), torch.where(outside, IGNORE, moved)).to(torch.uint8)
    return framed, moved


def random_colour(image: Float[Tensor, "b c h w"], how: Augmentation, rng: Generator) -> Float[Tensor, "b c h w"]:
    """Returns pictures under another light: gain, gamma, contrast, white balance, saturation, a lateral gradient."""
    count, _, height, width = image.shape
    strength = how.colour
    one = (count, 1, 1, 1)
    gamma = torch.exp(_uniform(rng, -0.5, 0.5, *one) * strength)
    gain = torch.exp(_uniform(rng, -0.35, 0.35, *one) * strength)
    contrast = torch.exp(_uniform(rng, -0.4, 0.4, *one) * strength)
    balance = torch.exp(_uniform(rng, -0.2, 0.2, count, 3, 1, 1) * strength)
    saturation = torch.exp(_uniform(rng, -0.7, 0.5, *one) * strength)
    saturation = torch.where(_chance(rng, 0.1 * min(strength, 1), count).view(one), 0.0, saturation)
    # A light from one side: brightness falls across the picture in a random direction.
    direction = _uniform(rng, 0, 2 * math.pi, *one)
    depth = torch.where(_chance(rng, 0.4, count).view(one), _uniform(rng, 0, 1.0, *one) * strength, 0.0)
    y = torch.linspace(-1, 1, height, device=image.device).view(1, 1, -1, 1)
    x = torch.linspace(-1, 1, width, device=image.device).view(1, 1, 1, -1)
    shade = torch.exp2(depth * (torch.cos(direction) * x + torch.sin(direction) * y))
    out = image.clamp_min(1e-4).pow(gamma) * (gain * shade * balance)
    mean = out.mean((1, 2, 3), keepdim=True)
    out = (out - mean) * contrast + mean
    grey = (out * torch.tensor([0.299, 0.587, 0.114], device=image.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return (grey + (out - grey) * saturation).clamp(0, 1)


def _compressed(image: Float[Tensor, "c h w"], quality: int) -> Float[Tensor, "c h w"]:
    # Imported here: torchvision brings torch's compiler along, seconds that a driver need not spend.
    from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

    data = encode_jpeg((image * 255).round().to(torch.uint8).cpu(), quality)
    return decode_jpeg(data, ImageReadMode.RGB).to(image) / 255


def random_degradation(
    image: Float[Tensor, "b c h w"], how: Augmentation, rng: Generator
) -> Float[Tensor, "b c h w"]:
    """Returns pictures of which some are blurred, of low resolution, JPEG compressed or noisy."""
    count, _, height, width = image.shape
    out = image.clone()
    pick = _chance(rng, how.degrade, count).nonzero()[:, 0]
    if len(pick):
        sigma = float(_uniform(rng, 0.6, 2.2, 1)) * width / 256
        reach = max(1, math.ceil(2.5 * sigma))
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / sigma) ** 2)
        taps = (taps / taps.sum()).to(image.dtype)
        part = functional.pad(out[pick], (reach,) * 4, mode="replicate")
        part = functional.conv2d(part, taps.view(1, 1, 1, -1).repeat(3, 1, 1, 1), groups=3)
        out[pick] = functional.conv2d(part, taps.view(1, 1, -1, 1).repeat(3, 1, 1, 1), groups=3)
    pick = _chance(rng, how.degrade, count).nonzero()[:, 0]
    if len(pick):
        factor = float(_uniform(rng, 0.25, 0.7, 1))
        small = functional.interpolate(out[pick], scale_factor=factor, mode="bilinear", antialias=True)
        out[pick] = functional.interpolate(small, size=(height, width), mode="bilinear")
    for index in _chance(rng, how.degrade, count).nonzero()[:, 0].tolist():
        out[index] = _compressed(out[index], int(_uniform(rng, 20, 80, 1)))
    pick = _chance(rng, how.degrade, count).nonzero()[:, 0]
    if len(pick):
        noise = torch.randn(len(pick), *image.shape[1:], generator=rng, device=rng.device, dtype=image.dtype)
        out[pick] += noise * _uniform(rng, 0.01, 0.06, len(pick), 1, 1, 1)
    return out.clamp(0, 1)


def _capsules(points: Tensor, radii: Tensor, height: int, width: int) -> Bool[Tensor, "b h w"]:
    """Returns the union of thick line segments.

    Args:
        points: (b n 2 2) ends of the segments as x, y in 0..1.
        radii: (b n) half thickness in the same unit.
    """
    y = (torch.arange(height, device=points.device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=points.device, dtype=torch.float32) + 0.5) / width
    a, b = points[:, :, 0, :, None, None], points[:, :, 1, :, None, None]
    dx, dy = x.view(1, 1, 1, -1) - a[:, :, 0], y.view(1, 1, -1, 1) - a[:, :, 1]
    ex, ey = b[:, :, 0] - a[:, :, 0], b[:, :, 1] - a[:, :, 1]
    along = ((dx * ex + dy * ey) / (ex * ex + ey * ey).clamp_min(1e-8)).clamp(0, 1)
    return (((dx - along * ex) ** 2 + (dy - along * ey) ** 2) < (radii**2)[..., None, None]).any(1)


def _hands(centre: Tensor, size: Tensor, rng: Generator, height: int, width: int) -> Bool[Tensor, "b h w"]:
    """Returns a palm with four spread fingers, a thumb and a forearm around each centre."""
    count = len(centre)
    palm_to = _uniform(rng, 0, 2 * math.pi, count)
    fan = torch.linspace(-0.35, 0.35, 4, device=centre.device) * _uniform(rng, 0.4, 1.4, count, 1)
    angles = torch.cat([palm_to[:, None] + fan, palm_to[:, None] + 1.2, palm_to[:, None] + math.pi], 1)
    reach = torch.tensor([1.0, 1.1, 1.05, 0.85, 0.8, 3.0], device=centre.device) * size[:, None]
    ends = centre[:, None] + torch.stack([angles.cos(), angles.sin()], -1) * reach[..., None]
    starts = centre[:, None].expand_as(ends)
    palm = torch.stack([centre, centre + 1e-3], 1)[:, None]
    points = torch.cat([torch.stack([starts, ends], 2), palm], 1)
    radii = torch.tensor([0.13, 0.13, 0.13, 0.12, 0.14, 0.33, 0.42], device=centre.device) * size[:, None]
    return _capsules(points, radii, height, width)


def _glasses(labels: UInt8[Tensor, "b h w"], rng: Generator) -> Bool[Tensor, "b h w"]:
    """Returns dark glasses over the labelled eyes: two lenses and a bridge; nothing where no eye is labelled."""
    count, height, width = labels.shape
    eyes = (labels == int(Label.EYES)).to(torch.float32)
    x = ((torch.arange(width, device=labels.device) + 0.5) / width).view(1, 1, -1)
    y = ((torch.arange(height, device=labels.device) + 0.5) / height).view(1, -1, 1)
    mass = eyes.sum((1, 2)).clamp_min(1)
    cx, cy = (eyes * x).sum((1, 2)) / mass, (eyes * y).sum((1, 2)) / mass
    # The line through both eyes is the long axis of their pixels; each lens sits at one standard deviation.
    dx, dy = x - cx.view(-1, 1, 1), y - cy.view(-1, 1, 1)
    xx, xy, yy = ((eyes * p).sum((1, 2)) / mass for p in (dx * dx, dx * dy, dy * dy))
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    spread = torch.sqrt((0.5 * (xx + yy) + torch.sqrt(0.25 * (xx - yy) ** 2 + xy * xy)).clamp_min(0))
    axis = torch.stack([angle.cos(), angle.sin()], -1) * spread[:, None]
    centre = torch.stack([cx, cy], -1)
    lens = axis * _uniform(rng, 0.2, 0.45, count, 1)
    left, right = centre - axis, centre + axis
    points = torch.stack(
        [
            torch.stack([left - lens, left + lens], 1),
            torch.stack([right - lens, right + lens], 1),
            torch.stack([left, right], 1),
        ],
        1,
    )
    radii = (
        spread[:, None] * torch.tensor([1.0, 1.0, 0.2], device=labels.device) * _uniform(rng, 0.45, 0.75, count, 1)
    )
    enough = eyes.sum((1, 2)) > 8
    return _capsules(points, radii, height, width) & enough[:, None, None]


def _fill(image: Float[Tensor, "b c h w"], rng: Generator) -> Float[Tensor, "b c h w"]:
    """Returns what an occluder shows: one or two colours with coarse and fine texture.

    Never a part of another photograph: that would be a face, labelled background.
    """
    count, _, height, width = image.shape
    colour = _uniform(rng, 0, 1, count, 3, 1, 1)
    # Skin-like tones, because hands are what most often covers a face.
    tone = torch.tensor([0.75, 0.55, 0.45], device=image.device).view(1, 3, 1, 1)
    tone = tone * _uniform(rng, 0.35, 1.3, count, 1, 1, 1) + _uniform(rng, -0.06, 0.06, count, 3, 1, 1)
    colour = torch.where(_chance(rng, 0.4, count).view(-1, 1, 1, 1), tone, colour)
    coarse = torch.randn(count, 3, 8, 8, generator=rng, device=rng.device)
    coarse = coarse.mean(1, keepdim=True) + 0.3 * coarse
    coarse = functional.interpolate(coarse, size=(height, width), mode="bicubic")
    fine = torch.randn(count, 1, height // 2, width // 2, generator=rng, device=rng.device)
    fine = functional.interpolate(fine, size=(height, width)) * _uniform(rng, 0, 0.08, count, 1, 1, 1)
    # Where the coarse texture changes sign: the outlines of a second colour, as in patterned cloth.
    patterned = _chance(rng, 0.3, count).view(-1, 1, 1, 1) & (coarse.mean(1, keepdim=True) > 0)
    colour = torch.where(patterned, _uniform(rng, 0, 1, count, 3, 1, 1), colour)
    return (colour + coarse * _uniform(rng, 0, 0.2, count, 1, 1, 1) + fine).to(image.dtype).clamp(0, 1)


def random_occlusion(
    image: Float[Tensor, "b 3 h w"], labels: UInt8[Tensor, "b h w"], how: Augmentation, rng: Generator
) -> tuple[Float[Tensor, "b 3 h w"], UInt8[Tensor, "b h w"]]:
    """Returns pictures of which some are covered by a hand, dark glasses, a bar or a blob, labelled background."""
    pick = _chance(rng, how.occlusion, len(image)).nonzero()[:, 0]
    if not len(pick):
        return image, labels
    count, height, width = len(pick), *labels.shape[1:]
    centre = _uniform(rng, 0.15, 0.85, count, 2)
    size = _uniform(rng, 0.08, 0.3, count)
    kind = torch.rand(count, generator=rng, device=rng.device)
    turn = _uniform(rng, 0, 2 * math.pi, count, 2)
    arm = torch.stack([turn.cos(), turn.sin()], -1) * (size * _uniform(rng, 0.0, 1.5, count))[:, None, None]
    strokes = torch.stack([centre[:, None] - arm, centre[:, None] + arm], 2)
    blob = _capsules(strokes, size[:, None] * _uniform(rng, 0.3, 0.7, count, 2), height, width)
    y = ((torch.arange(height, device=labels.device) + 0.5) / height).view(1, -1, 1)
    x = ((torch.arange(width, device=labels.device) + 0.5) / width).view(1, 1, -1)
    half = (size[:, None] * _uniform(rng, 0.4, 1.2, count, 2))[:, :, None, None]
    box = ((x - centre[:, :1, None]).abs() < half[:, 0]) & ((y - centre[:, 1:, None]).abs() < half[:, 1])
    mask = torch.where((kind < 0.35).view(-1, 1, 1), _hands(centre, size, rng, height, width), box)
    mask = torch.where(((kind >= 0.6) & (kind < 0.8)).view(-1, 1, 1), blob, mask)
    mask = torch.where((kind >= 0.8).view(-1, 1, 1), _glasses(labels[pick], rng), mask)
    # A soft edge, as a lens gives it.
    soft = functional.avg_pool2d(mask[:, None].to(image.dtype), 3, 1, 1)
    fill = _fill(image[pick], rng)
    image, labels = image.clone(), labels.clone()
    image[pick] = image[pick] * (1 - soft) + fill * soft
    covered = mask & (labels[pick] != IGNORE)
    labels[pick] = torch.where(covered, int(Label.BACKGROUND), labels[pick]).to(torch.uint8)
    return image, labels


def augment(
    image: UInt8[Tensor, "b h w 3"], labels: UInt8[Tensor, "b h w"], size: int, how: Augmentation, rng: Generator
) -> tuple[Float[Tensor, "b 3 s s"], UInt8[Tensor, "b s s"]]:
    """Returns a training batch of `size` pixels from stored photographs and labels, everything applied in turn."""
    planes = image.permute(0, 3, 1, 2).to(torch.float32) / 255
    planes, labels = random_framing(planes, labels, size, how, rng)
    planes, labels = random_occlusion(planes, labels, how, rng)
    planes = random_colour(planes, how, rng)
    return random_degradation(planes, how, rng), labels
