"""Which page a folder gets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console

from raylib.config import ReportConfig
from raylib.errors import ConfigError
from raylib.io.storage import Location
from raylib.report import comparison, reconstruction, training
from raylib.report.index import choose, totals
from raylib.runtime.progress import say

_log = logging.getLogger(__name__)


def write_page_of(config: ReportConfig, console: Console) -> str:
    """Writes the page that fits what the inputs hold, and returns where it is.

    Raises:
        ConfigError: an input holds no run, or runs of different kinds are to be compared.
    """
    kind = _kind(config)
    if kind == "training":
        return training.write_training_report(config, console)
    if kind == "comparison":
        return comparison.write_comparison(config, console)
    return reconstruction.write_report(config, console)


def report_at_end(
    output: str, storage_options: Mapping[str, Any] | None = None, console: Console | None = None
) -> None:
    """Writes the page of a job that has just ended into its output, and says where it is.

    A job that took days is not lost over its picture book: what goes wrong here is said, and the job counts as it
    ended.
    """
    console = console or Console()
    try:
        config = ReportConfig(input=output, storage_options=dict(storage_options or {}))
        say(console, f"report    {write_page_of(config, console)}")
    except Exception as error:
        _log.debug("the report could not be written", exc_info=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        say(console, f"no report ({reason}); `python jobs/report.py --input {output}` writes it")


def print_plan(config: ReportConfig, console: Console) -> None:
    """Says what the page would show and where it would be; writes nothing.

    Raises:
        ConfigError: as `write_page_of`.
    """
    kind = _kind(config)
    if kind == "training":
        for output in _outputs(config):
            say(console, f"training of {len(training.read_history(output))} reported epochs in {output.uri}")
    elif kind == "comparison":
        runs, pairs = comparison.read_pairs(config)
        for run in runs:
            _say_run(run, console)
        say(console, f"would compare {len(pairs)} faces and images that all of them have seen")
    else:
        run = reconstruction.Run.read(_outputs(config)[0])
        _say_run(run, console)
        listed = len(choose(run.table, run.values, config.max_faces))
        say(console, f"would list {listed} of {run.table.num_rows} rows")
    page = "comparison.html" if config.compare else "report.html"
    target = Location(config.output or _outputs(config)[0].uri, config.storage_options)
    beside = f", with report-data/ beside it beyond {config.page_mb:g} MB" if kind != "training" else ""
    say(console, f"would write {target.shown(target.join(page))}{beside}")


def _say_run(run: reconstruction.Run, console: Console) -> None:
    counts = totals(run.table)
    say(console, f"reconstruction of {counts['images']} images with {counts['faces']} faces in {run.output.uri}")


def _outputs(config: ReportConfig) -> list[Location]:
    return [Location(uri, config.storage_options) for uri in config.compare or [config.input or ""]]


def _kind(config: ReportConfig) -> Literal["training", "comparison", "reconstruction"]:
    """Tells which page it is.

    Raises:
        ConfigError: runs of different kinds are to be compared.
    """
    trainings = [training.is_training(output) for output in _outputs(config)]
    if any(trainings):
        if not all(trainings):
            raise ConfigError(f"compare is {config.compare}, expected reconstructions or trainings, not some of each")
        return "training"
    return "comparison" if config.compare else "reconstruction"
