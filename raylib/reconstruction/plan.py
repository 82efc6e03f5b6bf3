"""What a reconstruction would do: `jobs/reconstruct.py --dry-run`."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from raylib.config import ReconstructConfig
from raylib.errors import ConfigError
from raylib.reconstruction.finished import parts
from raylib.reconstruction.listing import Inputs, location_of, passed_over
from raylib.runtime.progress import say

_SHOWN = 20


def print_plan(config: ReconstructConfig, console: Console) -> None:
    """Says which images would be done and what would be written; writes nothing and starts no Ray.

    Raises:
        ConfigError: the input cannot be read or holds no image, or the output holds what is no run.
    """
    inputs = Inputs.of(config).checked()
    output = location_of(config.output, config)
    done: set[str] = set()
    try:
        for _, table in parts(output, ["image_uri", "status"]):
            rows = zip(table["image_uri"].to_pylist(), table["status"].to_pylist(), strict=True)
            done |= {uri for uri, status in rows if status not in config.retried}
    except ValueError as error:  # what Arrow raises on foreign files, too
        raise ConfigError(f"output {output.uri!r} holds faces/*.parquet that are no rows of this job") from error
    listed = wanted = 0
    passed: Counter[str] = Counter()
    for item in inputs.items(passed):
        listed += 1
        uri = inputs.shown(item)
        if uri in done:
            continue
        wanted += 1
        if wanted <= _SHOWN:
            say(console, f"would do  {uri}")
    if wanted > _SHOWN:
        console.print(f"          and {wanted - _SHOWN} more")
    console.print(f"{listed} images, {wanted} to do, {listed - wanted} done already; method {config.method}")
    if passed:
        say(console, passed_over(passed))
    kinds = {
        "faces/*.parquet": True,
        "OBJ with texture": config.write_obj,
        "GLB": config.write_glb,
        "label maps": config.write_labels,
        "previews": config.write_preview and config.privacy == "none",
        "report.html": config.write_report,
    }
    if config.privacy == "landmarks_only":
        kinds |= dict.fromkeys(("OBJ with texture", "GLB", "label maps"), False)
    written = ", ".join(kind for kind, wanted_kind in kinds.items() if wanted_kind)
    where = output.shown(output.path)
    say(console, f"would write {written} to {where}")
