"""The words of a command line as one validated instance of a dataclass; a mistake is one sentence, status 2."""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from raylib.config import REPLACED, Choice
from raylib.config.paths import absolute_paths
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
        text = next((f"{old} {instead}" for old, instead in REPLACED.items() if old in text), text)
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
    """Lets `--compare a b` stand for `--compare '["a", "b"]'` where an option takes a list of texts.

    A single word is such a list only as JSON: `[wedding]` is a folder's name, though YAML would read a list.
    """
    lists = {name for name, hint in get_type_hints(config_class).items() if "list[str]" in str(hint)}
    out: list[str] = []
    at = 0
    words = [part for word in words for part in _split_list_option(word, lists)]
    while at < len(words):
        out.append(words[at])
        at += 1
        if out[-1].removeprefix("--") not in lists or not out[-1].startswith("--"):
            continue
        end = at
        while end < len(words) and not words[end].startswith("--"):
            end += 1
        if end > at and not (end == at + 1 and _is_json_list(words[at])):
            out.append(json.dumps(list(words[at:end])))
            at = end
    return out


def _split_list_option(word: str, lists: Collection[str]) -> list[str]:
    """Returns `--input=a` as two words where the option takes a list."""
    name, equals, value = word.partition("=")
    return [name, value] if equals and name.startswith("--") and name[2:] in lists else [word]


def _is_json_list(word: str) -> bool:
    try:
        return isinstance(json.loads(word), list)
    except ValueError:
        return False


class _StrictLoader(yaml.SafeLoader):
    """Reads YAML in which no key comes twice: one of the two values would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(None, None, f"{name!r} comes twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _check_file(path: Path) -> None:
    """Checks that a configuration file holds settings.

    Raises:
        ConfigError: it cannot be read or holds something else.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        return  # a pipe can be read once
    try:
        settings = yaml.load(path.read_bytes().decode("utf-8-sig"), _StrictLoader)
    except OSError as error:
        raise ConfigError(f"config {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {str(path)!r} is no text in UTF-8, expected YAML") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"config {str(path)!r}{where} is no valid YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"config {str(path)!r} is no valid YAML") from error
    if not isinstance(settings, dict):
        held = "nothing" if settings is None else f"a {type(settings).__name__}"
        raise ConfigError(f"config {str(path)!r} holds {held}, expected lines such as `name: value`")


def _config_files(words: Sequence[str]) -> list[Path]:
    following = pairwise(words)
    apart = [value for word, value in following if word == "--config"]
    return [Path(name) for name in [*apart, *(w.partition("=")[2] for w in words if w.startswith("--config="))]]


def _require_groups(config_class: type, raw: Mapping[str, Any]) -> None:
    """Checks that a group of settings is given as one.

    Raises:
        ConfigError: a plain value stands in its place.
    """
    for name, hint in get_type_hints(config_class).items():
        value = raw.get(name)
        if is_dataclass(hint) and isinstance(value, str | int | float | list):
            names = ", ".join(field.name for field in fields(hint))
            raise ConfigError(f"{name} is {value!r}, expected a mapping of its settings: {names}")


def _chosen(config: type[C] | Choice[C], description: str, words: Sequence[str]) -> tuple[type[C], str]:
    """Returns the class that the words mean, and the text of its help."""
    if not isinstance(config, Choice):
        return config, description
    return config.chosen(words), f"{description.rstrip()}\n\n{config.explained()}\n"


def parsed(config: type[C] | Choice[C], description: str, argv: Sequence[str] | None = None) -> tuple[C, bool]:
    """Returns the configuration, and whether it is a dry run; see `runtime.command.parse`."""
    set_parsing_settings(add_print_completion_argument=True)
    words = _underscored(sys.argv[1:] if argv is None else argv)
    try:
        for file in _config_files(words):
            _check_file(file)
        config_class, description = _chosen(config, description, words)
    except ConfigError as error:
        _OneSentenceParser().error(str(error))
    needed = [f.name for f in fields(config_class) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    usage = " ".join(["%(prog)s", *(f"--{name} {name.upper()}" for name in needed), "[OPTIONS]"])
    parser = _OneSentenceParser(description=description, formatter_class=_Help, usage=usage)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the options below")
    parser.add_argument("--dry_run", action="store_true", help="say what would be done, and do nothing")
    parser.add_class_arguments(config_class, as_group=False)
    raw = parser.parse_args(_gathered(config_class, words))
    raw.pop("config", None)
    dry_run = raw.pop("dry_run")
    try:
        _require_groups(config_class, raw.as_dict())
        values: dict[str, Any] = parser.instantiate_classes(raw).as_dict()
        return absolute_paths(config_class(**values)), dry_run
    except ConfigError as error:
        parser.error(str(error))
