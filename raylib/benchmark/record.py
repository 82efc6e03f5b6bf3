"""The figures of a benchmark as JSON, with what is needed to read them later."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from raylib.provenance import environment

_PACKAGES = ("torch", "easypytorch3d", "numba", "numpy")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


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
