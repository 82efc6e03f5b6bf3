"""What each pixel of a face crop shows: the declared label set, its drawing in FASSEG colours, U-Net inference."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional

from raylib.errors import ConfigError
from raylib.segmentation.labels import Label
from raylib.segmentation.unet import UNet

_FORMAT = "raylib.unet.1"


def shipped_weights() -> Path:
    """Returns the weights file that comes with the package."""
    return Path(str(files("raylib") / "weights" / "unet.safetensors"))


def save_weights(network: UNet, path: Path, input_px: int) -> None:
    """Writes a network's weights in half precision with all that is needed to build it again.

    Args:
        network: trained network.
        path: safetensors file.
        input_px: longer side, in pixels, to which inference brings a crop first.
    """
    metadata = {
        "format": _FORMAT,
        "widths": ",".join(map(str, network.widths)),
        "norm": network.norm,
        "labels": ",".join(label.name.lower() for label in Label),
        "input_px": str(input_px),
    }
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, path, metadata)


def load_weights(path: Path) -> tuple[UNet, int]:
    """Returns the network in a weights file, in single precision, and its input size in pixels.

    Raises:
        ConfigError: there is no such file, or it holds no U-Net for the declared labels.
    """
    if not path.is_file():
        raise ConfigError(f"segmentation weights are {path}, expected a safetensors file there")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError(f"segmentation weights are {path}, expected a safetensors file: {error}") from error
    labels = ",".join(label.name.lower() for label in Label)
    if metadata.get("format") != _FORMAT or metadata.get("labels") != labels:
        found = metadata.get("format"), metadata.get("labels")
        raise ConfigError(f"segmentation weights {path} say format and labels {found}, expected {(_FORMAT, labels)}")
    network = UNet([int(width) for width in metadata["widths"].split(",")], len(Label), norm=metadata["norm"])
    network.load_state_dict(tensors)
    return network.eval(), int(metadata["input_px"])


class FaceSegmenter:
    """U-Net inference; weights are loaded once, when this is made.

    Args:
        weights: a file written by `save_weights`; the shipped one by default.
        device: where the network runs, `cpu` or `cuda`.
        batch_size: crops that go through the network together.

    Raises:
        ConfigError: the weights cannot be read.
    """

    def __init__(self, weights: str | Path | None = None, device: str = "cpu", batch_size: int = 16):
        network, self.input_px = load_weights(Path(weights) if weights else shipped_weights())
        self.device = torch.device(device)
        self.batch_size = batch_size
        # Twice as fast on the CPU as the default layout, and what tensor cores want.
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _logits(self, crops: UInt8[np.ndarray, "b h w 3"]) -> Iterator[Float[torch.Tensor, "n 6 h w"]]:
        """Yields logits at the crops' resolution, some crops at a time."""
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[-1] != 3:
            raise ValueError(f"crops are {crops.dtype} {crops.shape}, expected uint8 (b, h, w, 3)")
        height, width = crops.shape[1:3]
        scale = self.input_px / max(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        for start in range(0, len(crops), self.batch_size):
            # What torch can wrap without a warning.
            part = np.require(crops[start : start + self.batch_size], requirements=["C", "W"])
            x = torch.from_numpy(part).to(self.device).permute(0, 3, 1, 2).float() / 255
            if size != [height, width]:
                x = functional.interpolate(x, size, mode="bilinear", antialias=True)
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                logits = self.network(x.contiguous(memory_format=torch.channels_last)).float()
            if size != [height, width]:
                logits = functional.interpolate(logits, (height, width), mode="bilinear")
            yield logits

    @torch.inference_mode()
    def probabilities(self, crops: UInt8[np.ndarray, "b h w 3"]) -> Float[torch.Tensor, "b 6 h w"]:
        """Returns the probability of each label at each pixel, on the network's device."""
        parts = [logits.softmax(1) for logits in self._logits(crops)]
        return torch.cat(parts) if parts else torch.empty(0, len(Label), *crops.shape[1:3], device=self.device)

    @torch.inference_mode()
    def segment(self, crops: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w"]:
        """Returns the most probable label of each pixel.

        Args:
            crops: RGB faces, upright, hair and chin inside, of any one size.
        """
        # Label by label where the logits lie: with the channels next to each other in memory this costs a tenth of
        # what it costs after joining the parts.
        parts = [logits.argmax(1).to(torch.uint8).cpu().numpy() for logits in self._logits(crops)]
        return np.concatenate(parts) if parts else np.zeros(crops.shape[:3], np.uint8)
