"""Features of VGG19 and the distance of pictures in them (Simonyan and Zisserman 2015).

The layers and their weights are those of pix2pixHD's perceptual loss (Wang et al., CVPR 2018), which most programs
call "the VGG loss": relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1, mean absolute differences weighted 1/32, 1/16,
1/8, 1/4 and 1. The paper names neither. Nothing behind relu5_1 is ever computed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from raylib.errors import ConfigError
from raylib.io.imagenet_weights import read_state

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)

_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
_CONVS = tuple(f"conv{block}_{i + 1}" for block, (n, _) in enumerate(_BLOCKS, 1) for i in range(n))
_TORCHVISION_INDEX = dict(zip(_CONVS, (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34), strict=True))
_TORCHVISION_MEAN, _TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


class VggFeatures(nn.Module):
    """VGG19 up to the last of `LAYERS`, with frozen weights; any picture of at least 16 pixels.

    Args:
        weights: convolutions' weights and biases by layer (conv1_1), for pictures that `scale` and `shift` prepare.
        scale: factor of each channel of an RGB picture in 0..1.
        shift: what is added to each channel after that.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, weights: dict[str, tuple[Tensor, Tensor]], scale: Tensor, shift: Tensor):
        super().__init__()
        needed = _CONVS[: 1 + _CONVS.index(LAYERS[-1].replace("relu", "conv"))]
        self.names = tuple(name.replace("conv", "relu") for name in needed)
        self.convs = nn.ModuleList()
        for name in needed:
            kernel, bias = weights[name]
            conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
            conv.load_state_dict({"weight": kernel, "bias": bias})
            self.convs.append(conv)
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("shift", shift.view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Returns the outputs of `LAYERS` for RGB pictures in 0..1."""
        x = (image * self.scale + self.shift).contiguous(memory_format=torch.channels_last)
        found: dict[str, Tensor] = {}
        for before, (name, conv) in zip(("", *self.names), zip(self.names, self.convs, strict=True), strict=False):
            if before and before[4] != name[4]:
                x = functional.max_pool2d(x, 2)
            x = functional.relu(conv(x))
            found[name] = x
        return [found[name] for name in LAYERS]


def vgg_distance(
    ours: Sequence[Float[Tensor, "b _ _ _"]],
    theirs: Sequence[Float[Tensor, "b _ _ _"]],
    weights: Sequence[float] = LAYER_WEIGHTS,
) -> Float[Tensor, " b"]:
    """Returns for each picture the weighted sum of mean absolute differences of features."""
    terms = [w * (a.float() - b.float()).abs().mean((1, 2, 3)) for w, a, b in zip(weights, ours, theirs, strict=True)]
    return torch.stack(terms).sum(0)


def load_vgg(source: str) -> VggFeatures:
    """Returns VGG19's features.

    Args:
        source: torchvision's weights (see `io.imagenet_weights.read_state`), or Caffe's numbers as an array file
            (.npz) with
            `block1_conv1.kernel` (height, width, in, out) and `block1_conv1.bias`, for pictures in BGR and 0..255.

    Raises:
        ConfigError: the weights cannot be had or are not VGG19's.
    """
    if source.endswith(".npz"):
        return _from_caffe(source)
    state = read_state(source, "VGG19_Weights", "set the loss's weight of vgg to 0")
    try:
        weights = {
            name: (state[f"features.{i}.weight"], state[f"features.{i}.bias"])
            for name, i in _TORCHVISION_INDEX.items()
        }
    except KeyError as error:
        raise ConfigError(f"vgg19 weights {source!r} lack {error}, expected torchvision's VGG19") from error
    mean, std = torch.tensor(_TORCHVISION_MEAN), torch.tensor(_TORCHVISION_STD)
    return VggFeatures(weights, 1 / std, -mean / std)


def random_vgg() -> VggFeatures:
    """Returns the same computation with random weights, for timing and tests."""
    generator = torch.Generator().manual_seed(0)
    weights, channels = {}, 3
    for name in _CONVS:
        width = _BLOCKS[int(name[4]) - 1][1]
        kernel = torch.randn(width, channels, 3, 3, generator=generator) * (2 / (9 * channels)) ** 0.5
        weights[name] = (kernel, torch.zeros(width))
        channels = width
    return VggFeatures(weights, torch.ones(3), torch.full((3,), -0.5))


def _from_caffe(source: str) -> VggFeatures:
    try:
        with np.load(source) as arrays:
            names = {name: f"block{name[4]}_conv{name[6]}" for name in _CONVS}
            raw = {name: (arrays[f"{there}.kernel"], arrays[f"{there}.bias"]) for name, there in names.items()}
    except KeyError as error:
        raise ConfigError(f"vgg19 weights {source!r} lack {error}, expected VGG19 by Keras's names") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"vgg19 weights {source!r} cannot be read: {' '.join(str(error).split())[:200]}") from error
    weights = {
        name: (torch.from_numpy(kernel).float().permute(3, 2, 0, 1), torch.from_numpy(bias).float())
        for name, (kernel, bias) in raw.items()
    }
    # The pictures stay RGB; the first layer's channels change places instead.
    kernel, bias = weights["conv1_1"]
    weights["conv1_1"] = (kernel.flip(1), bias)
    return VggFeatures(weights, torch.full((3,), 255.0), -torch.tensor(_CAFFE_MEAN_BGR[::-1]))
