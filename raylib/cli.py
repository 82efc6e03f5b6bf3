"""Command lines: one dataclass in, one validated instance out; a mistake is one sentence and exit status 2."""

from __future__ import annotations

import json
import os
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from raylib.config import Choice
from raylib.errors import ConfigError, RaylibError

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


def parse(config_class: type[C] | Choice[C], description: str, argv: Sequence[str] | None = None) -> C:
    """Returns an instance of `config_class` from the command line.

    Defaults come from the dataclass, then from `--config FILE.yaml`, then from the options after it. Unknown
    options and unknown keys of the file are errors.

    Args:
        config_class: frozen dataclass whose fields become options, or several of which an option chooses one.
        description: text above the options in `--help`.
        argv: words to parse; the process's own by default.
    """
    return _parsed(config_class, description, argv)[0]


def _parsed(config: type[C] | Choice[C], description: str, argv: Sequence[str] | None) -> tuple[C, bool]:
    """Returns the configuration, and whether it is a dry run."""
    set_parsing_settings(add_print_completion_argument=True)
    words = _underscored(sys.argv[1:] if argv is None else argv)
    config_class, description = _chosen(config, description, words)
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
        values: dict[str, Any] = parser.instantiate_classes(raw).as_dict()
        return config_class(**values), dry_run
    except ConfigError as error:
        parser.error(str(error))


def _chosen(config: type[C] | Choice[C], description: str, words: Sequence[str]) -> tuple[type[C], str]:
    """Returns the class that the words mean, and the text of its help."""
    if not isinstance(config, Choice):
        return config, description
    try:
        return config.chosen(words), f"{description.rstrip()}\n\n{config.explained()}\n"
    except ConfigError as error:
        _OneSentenceParser().error(str(error))


def _as_yaml(config: Any) -> str:
    """Returns the settings as --config reads them, but for values of storage options, which may be credentials."""
    values = asdict(config)
    if values.get("storage_options"):
        values["storage_options"] = dict.fromkeys(values["storage_options"], "(not shown)")
    plain = json.loads(json.dumps(values))  # YAML knows no tuples
    return str(yaml.safe_dump(plain, sort_keys=False))


def _calm_ray() -> None:
    """Has Ray, which reads this when it is imported, colour nothing off a terminal and omit notes of its own."""
    notes = "Set ray log level from environment variable|Reporting training result"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", notes)
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
        # What Ray merges of several workers' lines it marks in green.
        os.environ.setdefault("RAY_DEDUP_LOGS_ALLOW_REGEX", f"^(?!.*({notes}))")


@dataclass(frozen=True)
class Command(Generic[C]):
    """What a job, or one word of a job, does.

    Attributes:
        run: does it and returns the exit status.
        config_class: its settings, or several classes of which an option chooses one.
        description: text above the options in `--help`; the first line says what the job does, and a section
            "Examples:" shows command lines.
        plan: says what a run would do, for --dry-run.
    """

    run: Callable[[C], int]
    config_class: type[C] | Choice[C]
    description: str
    plan: Callable[[C], None]


def main(command: Command[C], argv: Sequence[str] | None = None) -> NoReturn:
    """Parses the command line, runs the job and exits with its status.

    With --dry-run the settings are printed, then what the plan has to say, and the job is not run.

    The package's own errors are one sentence on stderr; the status is 2 after a `ConfigError`, 1 after another.
    """
    config, dry = _parsed(command.config_class, command.description, argv)
    try:
        if dry:
            print(_as_yaml(config), end="")
            command.plan(config)
            print("dry run: nothing was done")
            status = 0
        else:
            _calm_ray()
            status = command.run(config)
    except RaylibError as error:
        print(f"{sys.argv[0]}: error: {error}", file=sys.stderr)
        status = 2 if isinstance(error, ConfigError) else 1
    sys.exit(status)


def main_with_commands(commands: Mapping[str, Command[Any]], examples: Sequence[str] = ()) -> NoReturn:
    """Runs the job that the command line's first word names, with the words after it as its options.

    Args:
        commands: what each word does.
        examples: command lines for the help of the whole.
    """
    words = sys.argv[1:]
    name = Path(sys.argv[0]).name
    if words and words[0] in commands:
        sys.argv[0] = f"{sys.argv[0]} {words[0]}"
        main(commands[words[0]], argv=words[1:])
    if words and words[0] in ("-h", "--help"):
        firsts = {word: command.description.partition("\n")[0] for word, command in commands.items()}
        print(f"usage: {name} COMMAND [OPTIONS]\n")
        print("\n".join(f"  {word:14} {first}" for word, first in firsts.items()))
        print(f"\nEach has its own help: {name} COMMAND --help")
        if examples:
            print("\n".join(["", "Examples:", *(f"    {example}" for example in examples)]))
        sys.exit(0)
    given = f"command is {words[0]!r}" if words else "no command given"
    print(f"{name}: error: {given}, expected one of {list(commands)}", file=sys.stderr)
    sys.exit(2)
