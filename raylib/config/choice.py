"""Settings of which one option chooses the class: each choice has the options that it reads and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

import yaml

from raylib.config.checks import require
from raylib.errors import ConfigError

C = TypeVar("C")


@dataclass(frozen=True)
class Choice(Generic[C]):
    """Several classes of settings, one of which is meant.

    Attributes:
        option: whose value names the class; a field of each of them.
        default: its value where it is not given.
        classes: by value.
    """

    option: str
    default: str
    classes: Mapping[str, type[C]]

    def chosen(self, words: Sequence[str]) -> type[C]:
        """The class that a command line means.

        Args:
            words: of the command line, with underscores in the options' names.

        Raises:
            ConfigError: there is no such choice, or an option is given that only other choices read.
        """
        given = list(_given(words))
        value = next((str(value) for name, value in reversed(given) if name == self.option), self.default)
        require(value in self.classes, self.option, value, f"one of {', '.join(self.classes)}")
        own = set(options(self.classes[value]))
        for name, _ in given:
            readers = [other for other, config in self.classes.items() if name in options(config)]
            if readers and name not in own:
                verb = "reads" if len(readers) == 1 else "read"
                raise ConfigError(
                    f"{name} is given, which {self.option} {value} does not read; {' and '.join(readers)} {verb} it"
                )
        return self.classes[value]

    def explained(self) -> str:
        """What each choice reads that not all of them read, for the text of `--help`."""
        every = {name: list(options(config)) for name, config in self.classes.items()}
        common = set.intersection(*map(set, every.values()))
        lines = [f"Each {self.option} has options of its own, explained by --{self.option} NAME --help:"]
        for name, own in every.items():
            only = [option for option in own if option not in common]
            groups = [o for o in only if not any(o.startswith(f"{group}.") for group in only)]
            lines.append(f"    {name}: {', '.join(groups)}")
        return "\n".join(lines)


def options(config: type) -> Iterator[str]:
    """Yields the options of a class of settings, groups before their members: `paper`, `paper.loss`..."""
    hints = get_type_hints(config)
    for entry in fields(config):
        yield entry.name
        if is_dataclass(hints[entry.name]):
            for name in options(hints[entry.name]):
                yield f"{entry.name}.{name}"


def _given(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yields the options of a command line and of the files that it names, with their values, in order."""
    for place, word in enumerate(words):
        if not word.startswith("--"):
            continue
        name, equals, text = word[2:].partition("=")
        if not equals and place + 1 < len(words):
            text = words[place + 1]
        if name == "config":
            if Path(text).is_file():
                yield from _flat(_loaded(Path(text).read_text(errors="replace")))
        else:
            yield name, text
            if text.startswith("{"):
                yield from ((f"{name}.{key}", value) for key, value in _flat(_loaded(text)))


def _loaded(text: str) -> Any:
    """What YAML makes of a text; nothing where it is none, of which the parser will complain."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _flat(values: Any) -> Iterator[tuple[str, Any]]:
    for name, value in values.items() if isinstance(values, dict) else ():
        yield str(name), value
        yield from ((f"{name}.{inner}", deeper) for inner, deeper in _flat(value))
