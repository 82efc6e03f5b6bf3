"""Weights files of the face network: written, read, checked against the face model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from raylib.errors import ConfigError
from raylib.morphable.model import LinearFaceModel
from raylib.regressor.cascade import CascadedRegression
from raylib.regressor.corrections import IMAGE_CHANNELS, VERTEX_CHANNELS, RegressorGeometry, fit_channels
from raylib.regressor.network import FaceRegressor
from raylib.regressor.novelty import OutOfDistributionScore
from raylib.regressor.uncertainty import LogErrorModel
from raylib.segmentation.labels import Label

_FORMAT = "raylib.face_meshnet.4"
# What the file calls the layers that have other names here.
_NAMES_IN_FILE = {
    "fuse": "mix",
    "fuse_residual": "think",
    "broadcast": "tell",
    "position_embedding": "place",
    "encode": "gather",
    "upsample": "spread",
}


def shipped_weights() -> Path:
    """Returns the weights file that comes with the package."""
    return Path(str(files("raylib") / "weights" / "meshnet.safetensors"))


def build_network(model: LinearFaceModel, architecture: Mapping[str, Any]) -> FaceRegressor:
    """Returns an untrained network that corrects fits of a face model; it changes nothing yet.

    Args:
        model: the face model.
        architecture: `widths`, `graph_widths`, `hidden` and `blocks` of `FaceRegressor`.
    """
    return FaceRegressor(
        image_channels=IMAGE_CHANNELS,
        vertex_channels=VERTEX_CHANNELS,
        fit_channels=fit_channels(model),
        identity_modes=len(model.identity),
        expression_modes=len(model.expression),
        **architecture,
    )


def save_weights(
    network: FaceRegressor, architecture: Mapping[str, object], corrector: RegressorGeometry, path: Path
) -> None:
    """Writes a network's weights in half precision with all that is needed to use them.

    Args:
        network: trained network.
        architecture: what `build_network` made it of.
        corrector: the cascade and the average albedo that it was trained with, and the face model; the model's hash
            goes into the file.
        path: safetensors file.
    """
    metadata = {
        "format": _FORMAT,
        "architecture": json.dumps(architecture),
        "labels": ",".join(label.name.lower() for label in Label),
        "model_sha256": corrector.model.sha256,
    }
    state = network.state_dict().items()
    tensors = {f"network.{_renamed(name, _NAMES_IN_FILE)}": value for name, value in state}
    tensors |= {f"cascade.{name}": value for name, value in corrector.cascade.__dict__.items()}
    tensors |= {f"trend.{name}": value for name, value in corrector.trend.__dict__.items()}
    tensors |= {"mean_albedo": corrector.mean_albedo, "average_sigma": corrector.average_sigma}
    tensors |= {f"closing.{name}": value for name, value in corrector.gated_step.__dict__.items()}
    tensors |= {f"strangeness.{name}": value for name, value in corrector.strangeness.__dict__.items()}
    # Features' means and deviations are few and span many orders.
    single = [f"{of}.{name}" for of in ("cascade", "closing") for name in ("means", "spreads", "biases")]
    single += ["trend.means", "trend.spreads", "strangeness.usual", "strangeness.unit", "strangeness.noise"]
    kept = {n: t.detach().cpu().to(torch.float32 if n in single else torch.float16) for n, t in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in kept.items()}, path, metadata)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """Returns the name of a tensor with its first part replaced."""
    head, dot, rest = name.partition(".")
    return names.get(head, head) + dot + rest


def load_weights(path: Path, model: LinearFaceModel) -> tuple[FaceRegressor, RegressorGeometry]:
    """Returns the network in a weights file, in single precision, and the corrector that it was trained with.

    Raises:
        ConfigError: there is no such file, or it holds no network for these labels and this face model.
    """
    if not path.is_file():
        raise ConfigError(f"meshnet weights are {path}, expected a safetensors file there")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError(f"meshnet weights are {path}, expected a safetensors file: {error}") from error
    labels = ",".join(label.name.lower() for label in Label)
    if metadata.get("format") != _FORMAT or metadata.get("labels") != labels:
        found = metadata.get("format"), metadata.get("labels")
        raise ConfigError(f"meshnet weights {path} say format and labels {found}, expected {(_FORMAT, labels)}")
    if metadata["model_sha256"] != model.sha256:
        raise ConfigError(
            f"meshnet weights {path} correct the face model {metadata['model_sha256'][:12]}, expected "
            f"{model.sha256[:12]}, the hash of {model.name!r}"
        )
    network = build_network(model, json.loads(metadata["architecture"]))
    here = {name: own for own, name in _NAMES_IN_FILE.items()}
    state = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    network.load_state_dict({_renamed(name, here): tensor for name, tensor in state.items()})
    cascade, closing = (
        CascadedRegression(*(tensors[f"{of}.{f.name}"] for f in fields(CascadedRegression)))
        for of in ("cascade", "closing")
    )
    trend = LogErrorModel(*(tensors[f"trend.{f.name}"] for f in fields(LogErrorModel)))
    strangeness = OutOfDistributionScore(*(tensors[f"strangeness.{f.name}"] for f in fields(OutOfDistributionScore)))
    corrector = RegressorGeometry(
        model, tensors["mean_albedo"], cascade, tensors["average_sigma"], trend, strangeness, closing
    )
    return network.eval(), corrector
