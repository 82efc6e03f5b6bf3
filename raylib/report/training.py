"""The report of trainings: curves a term, the same faces over the epochs, pictures, sample meshes, side by side."""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from rich.console import Console

from raylib.config import ReportConfig
from raylib.errors import ConfigError
from raylib.io.storage import Location
from raylib.report.comparison import run_names
from raylib.report.geometry import SharedTopology, pack_mesh
from raylib.report.page import Packs, base64_text, write_page
from raylib.report.reconstruction import PAGE, read_record
from raylib.runtime.progress import watched

_STRIP = "strip"
"""Folder of pictures of the same faces, a file an epoch (epoch_0012.png)."""
_ORIGINAL = "original.png"
"""What those faces are in truth."""
_MAX_EPOCHS = 60
_PICTURE_PX = 1800
_GROUPS = ("val_f1_",)
"""Beginnings of names whose curves share a plot."""
_BASELINES = {"fit_": "landmark fit", "cascade_": "after the cascade", "mean_": "mean face", "val_": "network"}
"""Beginnings of names whose curves share a plot with the network's figure of the same name."""
_NO_CURVE = ("epoch", "step", "size_px")


def write_training_report(config: ReportConfig, console: Console) -> str:
    """Writes the page of one training, or of several side by side, and returns where it is.

    A training's folder is known by its run.json and history.json (a list of rows of figures, one an epoch); pictures
    (*.png), meshes (*.glb) and the folder strip/ are shown where they are there.

    Raises:
        ConfigError: a folder lacks the history.
    """
    uris = config.compare or [config.input or ""]
    outputs = [Location(uri, config.storage_options) for uri in uris]
    name = "comparison.html" if config.compare else PAGE
    target = Location(config.output or uris[0], config.storage_options)
    packs = Packs(target, name, config.page_mb * 1e6)
    records = [read_record(output) for output in outputs]
    histories = [read_history(output) for output in outputs]
    names = run_names(uris, [False] * len(uris))
    data = {
        "kind": "training",
        "title": "Training report" if len(uris) == 1 else "Comparison of trainings",
        "runs": [
            {"name": run_name, "run": records[n], "epochs": len(histories[n]), "files": _files(n, outputs[n], packs)}
            for n, run_name in watched(enumerate(names), "report: trainings", len(names), console)
        ],
        "charts": charts(histories),
        "step_mm": 1.0,
        "sigma_step_mm": 1.0,
    }
    write_page(target, name, f"{data['title']} {uris[0]}", data, packs)
    target.remove_temporary()
    return target.shown(target.join(name))


def is_training(output: Location) -> bool:
    """Tells whether a folder is that of a training."""
    return str(read_record(output).get("job", "")).startswith("train_")


def charts(histories: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Returns the plots: a term's training and validation together, the classes of a group together.

    Each line says which run it is of, so that several runs share the plots.
    """
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run, history in enumerate(histories):
        names = [key for row in history for key in row]
        for key in dict.fromkeys(names):
            if key in _NO_CURVE:
                continue
            points = [(row.get("epoch", n + 1), row[key]) for n, row in enumerate(history) if key in row]
            title, label = _placed(key, names)
            line = {"run": run, "name": label, "x": [x for x, _ in points], "y": [y for _, y in points]}
            lines[title].append(line)
    first = sorted(lines, key=lambda title: (title != "loss", 0))
    return [{"title": title, "lines": lines[title]} for title in first]


def _placed(key: str, names: Sequence[str]) -> tuple[str, str]:
    """Returns the title of a figure's plot and the label of its line there."""
    for group in _GROUPS:
        if key.startswith(group):
            return f"{_words(group)} by class", _words(key.removeprefix(group))
    for prefix, label in _BASELINES.items():
        plain = key.removeprefix(prefix)
        if plain != key and f"val_{plain}" in names and any(f"{p}{plain}" in names for p in list(_BASELINES)[:3]):
            return f"validation {_words(plain)}", label
    plain = key.removeprefix("val_")
    if plain in names and f"val_{plain}" in names:
        return _words(plain), "training" if key == plain else "validation"
    return _words(key), ""


def _words(key: str) -> str:
    words = key.strip("_").replace("_", " ")
    return f"validation {words[4:]}" if words.startswith("val ") else words


def read_history(output: Location) -> list[dict[str, float]]:
    """Returns the figures of a training, a row an epoch that it reported.

    Raises:
        ConfigError: there is no history, or it is not JSON.
    """
    try:
        rows = json.loads(output.read_bytes(output.join("history.json")))
    except FileNotFoundError as error:
        raise ConfigError(
            f"input {output.uri!r} has no history.json: this training has not come to its end"
        ) from error
    except ValueError as error:
        raise ConfigError(f"history.json in {output.uri!r} is no JSON: {error}") from error
    return [{key: float(v) for key, v in row.items() if isinstance(v, int | float)} for row in rows]


def _files(run: int, output: Location, packs: Packs) -> dict[str, Any]:
    """Adds the pictures and meshes of a training to the packs and returns what there is."""
    epochs = []
    strips = output.list_files(_STRIP, ".png")
    original = next((path for path in strips if path.endswith(f"/{_ORIGINAL}")), None)
    strips = [path for path in strips if path != original]
    if original is not None:
        _add_picture(packs, f"original{run}", output.read_bytes(original))
    step = -(-len(strips) // _MAX_EPOCHS) or 1
    for n, path in enumerate(strips[::-1][::step][::-1]):  # the last one always
        number = re.search(r"(\d+)\.png$", path)
        epochs.append({"epoch": int(number[1]) if number else n, "pack": f"strip{run}-{n}"})
        _add_picture(packs, f"strip{run}-{n}", output.read_bytes(path))
    pictures = []
    for n, path in enumerate(output.list_files("", ".png")):
        name = path.rsplit("/", 1)[-1]
        if not name.startswith("strip"):
            pictures.append({"name": name, "pack": f"picture{run}-{n}"})
            _add_picture(packs, f"picture{run}-{n}", output.read_bytes(path))
    meshes = []
    for n, path in enumerate(output.list_files("", ".glb")):
        meshes.append({"name": path.rsplit("/", 1)[-1].removesuffix(".glb"), "pack": f"mesh{run}-{n}"})
        packs.add(meshes[-1]["pack"], _mesh(output.read_bytes(path)), inside=packs.fits(300_000))
    return {"original": original and f"original{run}", "epochs": epochs, "pictures": pictures, "meshes": meshes}


def _add_picture(packs: Packs, name: str, content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as image:
        picture = image.convert("RGB")
    picture.thumbnail((_PICTURE_PX, _PICTURE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    packs.add(name, base64_text(buffer.getvalue()), inside=packs.fits(1.4 * len(buffer.getvalue())))


def _mesh(glb: bytes) -> dict[str, Any]:
    """Returns a mesh of any topology and unit, brought to the size of a face for the viewer."""
    mesh = trimesh.load(io.BytesIO(glb), file_type="glb", force="mesh", process=False)
    verts = np.asarray(mesh.vertices, np.float32)
    unit = 200.0 / float(np.ptp(verts, axis=0).max() or 1.0)
    faces = np.asarray(mesh.faces)
    visual = mesh.visual if mesh.visual.kind != "texture" else mesh.visual.to_color()
    colors = np.asarray(visual.vertex_colors, np.float32)[:, :3] / 255
    topology = SharedTopology("", verts * unit, faces, np.zeros((len(verts), 2)), None)
    own = colors if len(colors) == len(verts) else None
    return {"topology": topology.packed(), "unit": unit, "mesh": pack_mesh(verts * unit, verts * unit, colors=own)}
