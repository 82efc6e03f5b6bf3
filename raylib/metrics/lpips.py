"""Learned perceptual image patch similarity (LPIPS 0.1 on AlexNet, Zhang et al., CVPR 2018) inside a mask.

The computation and the learned weights of the layers are those of the authors' package; AlexNet's own weights, which
it does not carry, are torchvision's.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from raylib.errors import ConfigError
from raylib.io.imagenet_weights import read_state


def load_lpips(source: str) -> nn.Module:
    """Returns the distance as a map over the picture, frozen.

    Args:
        source: AlexNet's weights: "torchvision", which downloads them once, or a file (see
            `io.imagenet_weights.read_state`).

    Raises:
        ConfigError: the weights cannot be had or are not AlexNet's.
    """
    state = read_state(source, "AlexNet_Weights", "leave lpips out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package asks torchvision for AlexNet in a way that has a newer name
        from lpips import LPIPS

        distance = LPIPS(net="alex", pnet_rand=True, spatial=True, verbose=False)
    own = distance.net.state_dict()  # its layers keep torchvision's numbers: slice2.3.weight is features.3.weight
    try:
        distance.net.load_state_dict({name: state[f"features.{name.split('.', 1)[1]}"] for name in own})
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"alexnet weights {source!r} are not torchvision's AlexNet: {reason}") from error
    return distance.requires_grad_(False)


def masked_lpips(
    distance: nn.Module,
    a: Float[np.ndarray, "h w 3"],
    b: Float[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
) -> float:
    """Returns the mean of the distance's map at the mask's pixels, of sRGB pictures in 0..1 of at least 32 pixels.

    Layers see beyond the mask's border: pictures that must not differ there are to be made equal before.
    """
    stack = np.stack([a, b]).astype(np.float32)
    batch = torch.from_numpy(stack).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = distance(batch[:1], batch[1:], normalize=True)
    return float(found[0, 0].numpy()[mask].mean())
