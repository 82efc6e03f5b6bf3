"""The words of a command line as one validated instance of a dataclass; a mistake is one sentence, status 2."""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, NoReturn, TypeVar, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

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


def _without_values(text: str) -> str:
    """Returns an error's text without given values that may be credentials, since texts end in logs."""
    if "storage_options" in text:
        text = text.partition(" Got value:")[0]
    start, _, words = text.partition("unrecognized arguments: ")
    if words and not start:
        names = [word.partition("=")[0] for word in words.split() if word.startswith("-")]
        text = f"unrecognized arguments: {' '.join(names) or 'words that follow no option'}"
    return text


class _OneSentenceParser(ArgumentParser):
    """Argument parser whose errors are one sentence on stderr, without the usage block."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = _without_values(" ".join(str(message).split()))
        for _ in range(4):  # a ConfigError raised in __post_init__ arrives wrapped; its own sentence is the clearest
            if ex is None:
                break
            if isinstance(ex, ConfigError):
                text = str(ex)
                break
            ex = ex.__cause__ or ex.__context__  # type: ignore[assignment]
        self.exit(2, f"{self.prog}: error: {text}\n")


class _Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of examples, and adds type and default to each option."""


def _gathered(config_class: type, words: Sequence[str]) -> list[str]:
    """Lets `--compare a b` stand for `--compare '["a", "b"]'` where an option takes a list of texts."""
    lists = {name for name, hint in get_type_hints(config_class).items() if "list[str]" in str(hint)}
    out: list[str] = []
    at = 0
    while at < len(words):
        out.append(words[at])
        at += 1
        if out[-1].removeprefix("--") not in lists or not out[-1].startswith("--"):
            continue
        end = at
        while end < len(words) and not words[end].startswith("--"):
            end += 1
        if end - at > 1:
            out.append(json.dumps(list(words[at:end])))
            at = end
    return out


def parsed(config_class: type[C], description: str, argv: Sequence[str] | None = None) -> tuple[C, bool]:
    """Returns the configuration, and whether it is a dry run; see `cli.parse`."""
    set_parsing_settings(add_print_completion_argument=True)
    needed = [f.name for f in fields(config_class) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    usage = " ".join(["%(prog)s", *(f"--{name} {name.upper()}" for name in needed), "[OPTIONS]"])
    parser = _OneSentenceParser(description=description, formatter_class=_Help, usage=usage)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the options below")
    parser.add_argument("--dry_run", action="store_true", help="say what would be done, and do nothing")
    parser.add_class_arguments(config_class, as_group=False)
    words = _underscored(sys.argv[1:] if argv is None else argv)
    raw = parser.parse_args(_gathered(config_class, words))
    raw.pop("config", None)
    dry_run = raw.pop("dry_run")
    try:
        values: dict[str, Any] = parser.instantiate_classes(raw).as_dict()
        config = config_class(**values)
    except ConfigError as error:
        parser.error(str(error))
    return config, dry_run
