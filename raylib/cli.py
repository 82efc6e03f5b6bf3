"""Command lines: one dataclass in, one validated instance out; a mistake is one sentence and exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from jsonargparse import ActionConfigFile, ArgumentParser

from raylib.errors import ConfigError

C = TypeVar("C")


def _underscored(argv: Sequence[str]) -> list[str]:
    """Lets `--morphable-model x` stand for `--morphable_model x`: both spellings are common, one is stored."""
    out = []
    for word in argv:
        if word.startswith("--"):
            name, eq, value = word.partition("=")
            word = "--" + name[2:].replace("-", "_") + eq + value
        out.append(word)
    return out


class _OneSentenceParser(ArgumentParser):
    """Argument parser whose errors are one sentence on stderr, without the usage block."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(str(message).split())
        for _ in range(4):  # a ConfigError raised in __post_init__ arrives wrapped; its own sentence is the clearest
            if ex is None:
                break
            if isinstance(ex, ConfigError):
                text = str(ex)
                break
            ex = ex.__cause__ or ex.__context__  # type: ignore[assignment]
        self.exit(2, f"{self.prog}: error: {text}\n")


def parse(config_class: type[C], description: str, argv: Sequence[str] | None = None) -> C:
    """Returns an instance of `config_class` from the command line.

    Defaults come from the dataclass, then from `--config FILE.yaml`, then from the options after it. Unknown
    options and unknown keys of the file are errors.

    Args:
        config_class: frozen dataclass whose fields become options.
        description: text above the options in `--help`.
        argv: words to parse; the process's own by default.
    """
    parser = _OneSentenceParser(description=description)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the options below")
    parser.add_class_arguments(config_class, as_group=False)
    raw = parser.parse_args(_underscored(sys.argv[1:] if argv is None else argv))
    raw.pop("config", None)
    try:
        values: dict[str, Any] = parser.instantiate_classes(raw).as_dict()
        return config_class(**values)
    except ConfigError as error:
        parser.error(str(error))


def main(run: Callable[[C], int], config_class: type[C], description: str) -> NoReturn:
    """Parses the command line, runs the job and exits with its status; a `ConfigError` exits with 2."""
    config = parse(config_class, description)
    try:
        status = run(config)
    except ConfigError as error:
        print(f"{sys.argv[0]}: error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
