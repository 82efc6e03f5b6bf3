"""The one sentence that a wrong setting is answered with."""

from __future__ import annotations

from raylib.errors import ConfigError


def require(ok: bool, name: str, value: object, expected: str) -> None:
    """Raises a `ConfigError` that names the setting, its value and what was expected, unless `ok`."""
    if not ok:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")
