"""Weights of ImageNet's classification networks, as torchvision publishes them or from a file."""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import Tensor

from raylib.errors import ConfigError

TORCHVISION = "torchvision"
"""Source of weights that are downloaded once."""


def read_state(source: str, network: str, instead: str) -> dict[str, Tensor]:
    """Returns the weights of a network of torchvision by their names there.

    Args:
        source: "torchvision" for the weights that torchvision downloads to its cache, or a local file with its state
            (.pth, .pt or .safetensors).
        network: name of the network's weights in torchvision, such as "VGG19_Weights".
        instead: what the error advises, besides a local file, where nothing can be downloaded.

    Raises:
        ConfigError: the weights cannot be had.
    """
    try:
        if source == TORCHVISION:
            from torchvision.models import get_weight

            state = get_weight(f"{network}.IMAGENET1K_V1").get_state_dict(progress=False)
        elif source.endswith(".safetensors"):
            state = load_file(source)
        else:
            state = torch.load(source, map_location="cpu", weights_only=True)
        return dict(state)
    except Exception as error:
        name = network.removesuffix("_Weights").lower()
        hint = "" if source != TORCHVISION else f"; give a local file, or {instead}"
        reason = " ".join(str(error).split())[:200]
        message = f"{name} weights {source!r} cannot be read: {type(error).__name__}: {reason}{hint}"
        raise ConfigError(message) from error


def weights_plan(name: str, source: str, load: Callable[[str], object]) -> str:
    """Returns a line on where a network's weights come from; reads a file, but downloads nothing.

    Args:
        name: of the weights, for the line.
        source: see `read_state`.
        load: what will read them.

    Raises:
        ConfigError: a file's weights are not the network's.
    """
    if source == TORCHVISION:
        return f"{name}: torchvision's, downloaded where its cache lacks them"
    load(source)
    return f"{name}: {source}"
