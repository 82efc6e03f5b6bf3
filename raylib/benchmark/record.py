"""The figures of a benchmark as JSON, with what is needed to read them later."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from raylib.errors import ConfigError
from raylib.runtime.provenance import environment

_PACKAGES = ("torch", "easypytorch3d", "numba", "numpy")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def check_new(work: str) -> None:
    """Raises a `ConfigError` where the folder for a benchmark's runs is there already."""
    if Path(work).exists():
        raise ConfigError(f"work is {work!r}, which exists already; expected a folder to be made")


def outputs(*files: str) -> list[str]:
    """Returns the line of a plan that names the files to be written; those that are empty are not."""
    named = [file for file in files if file]
    return [f"would write {', '.join(named)}"] if named else ["would write no file"]


def write_record(output: str, config: Any, figures: dict[str, Any]) -> None:
    """Writes figures, configuration, machine, versions and commit to the file; does nothing if `output` is empty."""
    if not output:
        return
    origin = environment(_PACKAGES)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    record = {
        "config": dataclasses.asdict(config),
        "figures": figures,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **origin,
        "machine": origin["machine"] | {"cpu": _cpu_name(), "gpu": gpu},
    }
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
