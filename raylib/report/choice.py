"""Which page a folder gets."""

from __future__ import annotations

from rich.console import Console

from raylib.config import ReportConfig
from raylib.errors import ConfigError
from raylib.reconstruction.storage import Location
from raylib.report.comparison import write_comparison
from raylib.report.reconstruction import write_report
from raylib.report.training import is_training, write_training_report


def write_page_of(config: ReportConfig, console: Console) -> str:
    """Writes the page that fits what the inputs hold, and returns where it is.

    Raises:
        ConfigError: an input holds no run, or runs of different kinds are to be compared.
    """
    uris = config.compare or [config.input or ""]
    trainings = [is_training(Location(uri, config.storage_options)) for uri in uris]
    if any(trainings):
        if not all(trainings):
            raise ConfigError(f"compare is {config.compare}, expected reconstructions or trainings, not some of each")
        return write_training_report(config)
    return write_comparison(config, console) if config.compare else write_report(config, console)
