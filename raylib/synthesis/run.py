"""The job that writes synthetic faces: parts of consecutive seeds, made side by side with Ray Data.

A part's name and content follow from its first seed and the settings alone, and it appears whole or not at all. A
run that was killed is continued by the same command, which makes the parts that are missing; the table is then the
same, byte by byte, as that of a run that nobody disturbed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from rich.console import Console

from raylib.config import SynthesizeConfig
from raylib.errors import ConfigError
from raylib.io.storage import Location, check_writable
from raylib.runtime.progress import say
from raylib.runtime.provenance import environment
from raylib.runtime.ray_cluster import join_ray
from raylib.runtime.run_progress import RunProgress
from raylib.segmentation.labels import draw_labels
from raylib.synthesis import GENERATOR_VERSION, FaceSynthesizer, seeds_of
from raylib.synthesis.generator import check_folders
from raylib.synthesis.head import Source, load_source
from raylib.synthesis.parquet import SCHEMA_VERSION, SyntheticDataset, to_parquet

_DATASET = "dataset.json"
_SHAPING = ("settings", "image_format", "store_maps", "rows_per_part")
_PACKAGES = ("ray", "torch", "numpy", "numba", "scipy", "pillow", "pyarrow")
_SHEET_COLUMNS = 8


def synthesize(config: SynthesizeConfig, console: Console | None = None) -> int:
    """Runs the job and returns 0.

    Args:
        config: what to make.
        console: where progress and summary go; standard output by default.

    Raises:
        ConfigError: before any work, if the source, a folder or what the output holds do not fit.
    """
    console = console or Console()
    started = time.time()
    config, output, source, digest = _checked(config)
    check_writable(output)
    if not _is_mine(output, digest):
        output.write_bytes(_DATASET, json.dumps(_claim(digest)).encode())
    parts, missing = _parts(config), _missing(config, output)
    if len(missing) < len(parts):
        console.print(f"{len(parts) - len(missing)} of {len(parts)} parts are there already")
    progress = RunProgress(console, config.progress_every_s)
    progress.total = sum(map(len, missing))
    if missing:
        _make(config, output, digest, missing, progress)
    record = {
        "job": "synthesize",
        "config": dataclasses.asdict(config) | {"storage_options": sorted(config.storage_options)},
        "config_sha256": digest,
        "source": source.name,
        "source_sha256": source.sha256,
        "schema_version": SCHEMA_VERSION,
        "generator_version": GENERATOR_VERSION,
        "rows": config.count,
        "made_in_this_run": progress.images,
        "images_per_second": None if progress.rate is None else round(progress.rate, 2),
        "seconds": round(time.time() - started, 2),
        **environment(_PACKAGES),
    }
    output.write_bytes("run.json", json.dumps(record, indent=2, default=str).encode())
    if config.contact_sheet:
        output.write_bytes("contact_sheet.png", contact_sheet(config))
    output.remove_temporary()
    where = output.shown(output.path)
    rate = f", {progress.rate:.1f} a second" if progress.rate else ""
    console.print(f"{config.count} faces in {where}/faces{rate}", soft_wrap=True, highlight=False)
    return 0


def print_plan(config: SynthesizeConfig, console: Console) -> None:
    """Says which faces would be made and which are there already; writes nothing and starts no Ray.

    Raises:
        ConfigError: the source, a folder or what the output holds do not fit.
    """
    config, output, source, digest = _checked(config)
    _is_mine(output, digest)
    parts, missing = _parts(config), _missing(config, output)
    say(console, f"{config.count} faces of the split {config.split}, of the face model {source.name}")
    say(console, f"{len(parts)} parts, {len(parts) - len(missing)} there already, {len(missing)} to be made")
    if missing:
        say(console, f"would make {sum(map(len, missing))} faces of seeds from {missing[0].start} on")
    sheet = ", contact_sheet.png" if config.contact_sheet else ""
    say(console, f"would write faces/*.parquet, {_DATASET}, run.json{sheet} to {output.shown(output.path)}")


def config_sha256(config: SynthesizeConfig, source_sha256: str) -> str:
    """Returns the hash of everything that shapes the rows of a seed."""
    values = dataclasses.asdict(config)
    shaping = {name: values[name] for name in _SHAPING}
    shaping |= {"source": source_sha256, "schema": SCHEMA_VERSION, "generator": GENERATOR_VERSION}
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def contact_sheet(config: SynthesizeConfig) -> bytes:
    """Returns a PNG of the first pictures, below them their labels and, where they are stored, their normals."""
    dataset = SyntheticDataset(config.output, config.storage_options)
    cells: list[Any] = []
    for faces in dataset.batches(_SHEET_COLUMNS):
        panels = [faces.image, draw_labels(faces.labels)]
        if faces.normals.size:
            panels.append(((faces.normals + 1) * 127.5).astype(np.uint8))
        cells += [np.concatenate(column) for column in zip(*panels, strict=True)]
        if len(cells) >= config.contact_sheet:
            break
    cells = cells[: config.contact_sheet]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % _SHEET_COLUMNS)
    rows = [np.concatenate(cells[i : i + _SHEET_COLUMNS], axis=1) for i in range(0, len(cells), _SHEET_COLUMNS)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(buffer, "PNG")
    return buffer.getvalue()


def _absolute(config: SynthesizeConfig) -> SynthesizeConfig:
    """Returns the configuration with paths that mean the same in workers, which run in folders of their own."""

    def whole(path: str | None) -> str | None:
        return path if path in (None, "prior") else str(Path(path).expanduser().resolve())

    settings = config.settings
    settings = dataclasses.replace(
        settings, backgrounds=whole(settings.backgrounds), textures=whole(settings.textures)
    )
    return dataclasses.replace(config, source=whole(config.source) or config.source, settings=settings)


def _checked(config: SynthesizeConfig) -> tuple[SynthesizeConfig, Location, Source, str]:
    """Returns the configuration with absolute paths, the output, the source, and the hash of what shapes a row.

    Raises:
        ConfigError: the source or a folder is not what the configuration says.
    """
    output = Location(config.output, config.storage_options, config.storage_tries)
    config = _absolute(config)
    source = load_source(config.source)
    check_folders(config.settings)
    return config, output, source, config_sha256(config, source.sha256)


def _claim(digest: str) -> dict[str, str]:
    return {"config_sha256": digest, "schema_version": SCHEMA_VERSION}


def _is_mine(output: Location, digest: str) -> bool:
    """Tells whether the output has a note that it holds this data set; otherwise it is new.

    Raises:
        ConfigError: it holds another data set, into which this one must not be mixed.
    """
    try:
        theirs = json.loads(output.read_bytes(output.join(_DATASET)))
    except FileNotFoundError:
        return False
    if theirs != _claim(digest):
        raise ConfigError(
            f"output {output.uri!r} holds synthetic faces of other settings, another source or another version of "
            "the generator; give another output or remove it"
        )
    return True


def _missing(config: SynthesizeConfig, output: Location) -> list[range]:
    """Returns the seeds of each part that the output lacks."""
    there = set(output.list_files("faces", ".parquet"))
    return [part for part in _parts(config) if output.join(_part_name(part)) not in there]


def _parts(config: SynthesizeConfig) -> list[range]:
    """Returns the seeds of each part, `rows_per_part` but for the last."""
    seeds = seeds_of(config.split, config.count, config.first, config.settings.shots)
    return [seeds[i : i + config.rows_per_part] for i in range(0, len(seeds), config.rows_per_part)]


def _part_name(seeds: range) -> str:
    return f"faces/part-{seeds.start:012d}-{len(seeds):06d}.parquet"


class _Synthesize:
    """Ray Data stage: makes a part and writes it."""

    def __init__(self, config: SynthesizeConfig, output: Location, digest: str):
        import torch

        torch.set_num_threads(1)  # the parts run side by side
        self._config, self._output, self._digest = config, output, digest
        self._make = _synthesizer(config.source, config.settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        for row in batch.to_pylist():
            seeds = range(row["start"], row["start"] + row["count"])
            content = to_parquet(self._make(seeds), self._config, self._digest)
            self._output.write_bytes(_part_name(seeds), content)
        return batch


@lru_cache(maxsize=2)
def _synthesizer(source: str, settings: Any) -> FaceSynthesizer:
    return FaceSynthesizer(source, settings)


def _make(
    config: SynthesizeConfig, output: Location, digest: str, missing: list[range], progress: RunProgress
) -> None:
    import ray
    from ray.data import ActorPoolStrategy

    join_ray()
    cpus = config.cluster_cpus or int(ray.cluster_resources().get("CPU", 1))
    actors = min(config.actors or max(1, cpus), len(missing))
    if actors * config.cpus_per_actor > cpus:
        raise ConfigError(
            f"{actors} actors of cpus_per_actor = {config.cpus_per_actor} need {actors * config.cpus_per_actor:g} "
            f"CPUs, but Ray has {cpus}; lower one of them"
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = [{"start": part.start, "count": len(part)} for part in missing]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Synthesize,
        fn_constructor_args=(config, output, digest),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=config.cpus_per_actor,
        compute=ActorPoolStrategy(size=actors),
    )
    with progress:
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                progress.add(Counter(ok=row["count"]), row["count"])
