"""The one sentence that a wrong setting is answered with."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from raylib.errors import ConfigError


def require(ok: bool, name: str, value: object, expected: str) -> None:
    """Raises a `ConfigError` that names the setting, its value and what was expected, unless `ok`."""
    if not ok:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")


def require_read(settings: Any, read: bool, names: tuple[str, ...], where: str) -> None:
    """Raises a `ConfigError` unless the settings are `read` or have their defaults.

    Args:
        settings: instance of a dataclass.
        read: whether anything reads them.
        names: of its fields, none of them with a default that is made.
        where: says when they are not read, after "where".
    """
    for entry in fields(settings):
        if entry.name in names and entry.default is not MISSING and not read:
            value = getattr(settings, entry.name)
            require(value == entry.default, entry.name, value, f"the default where {where}: nothing reads it")
