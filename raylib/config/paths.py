"""Paths and URIs that mean the same in every process: made absolute once, where the user's words come in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from raylib.errors import ConfigError

C = TypeVar("C")

_SUBMITTED_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray's job queue sets for the command that it runs, and nobody else."""

_WINDOWS = re.compile(r"(file:/*)?([A-Za-z]:[\\/]|\\\\[^\\])")
_LOCAL_SCHEME = re.compile(r"(?:file|local):(?://)?(.*)", re.DOTALL)


def path_field(*words: str, output: bool = False, named: bool = False) -> dict[str, Any]:
    """Metadata of a configuration's field that holds a path, a URI or a list of them.

    Args:
        words: values that are words instead, such as "prior".
        output: results are written there.
        named: a name may stand before it (`ours=out/ours`).
    """
    return {"path_words": words, "path_is_output": output, "path_is_named": named}


def is_windows_path(text: str) -> bool:
    r"""Whether a path has a drive letter or is a share (`C:\photos`, `file:///C:/photos`, `\\server\photos`)."""
    return _WINDOWS.match(text) is not None


def is_relative(text: str) -> bool:
    """Whether it depends on the working directory of a process where a path or URI lies."""
    if "::" in text and not os.path.lexists(text):
        text = text.rpartition("::")[2]
    local = _LOCAL_SCHEME.fullmatch(text)
    text = local[1] if local else text
    return not ("://" in text or is_windows_path(text) or text.startswith(("/", "~")))


def absolute(text: str, folder: str | None = None, home: str | None = None) -> str:
    """A path or URI as every process and machine that sees the same disks understands it.

    Local paths lose `file://`, `~`, `.` and `..`; symbolic links stay. Of a chained URI (`zip://a.png::one.zip`) the
    last link names the storage, and only that can be a path. Paths of Windows machines and URIs stay as they are.

    Args:
        text: as the user wrote it.
        folder: what relative paths are seen from; the working directory by default.
        home: what `~` stands for; this process's by default.
    """
    if is_windows_path(text):
        return text
    if "::" in text and not text.startswith("/") and not os.path.lexists(text):
        head, _, last = text.rpartition("::")
        return f"{head}::{absolute(last, folder, home)}"
    local = _LOCAL_SCHEME.fullmatch(text)
    if local:
        text = local[1]
    elif "://" in text:
        return text
    if home is not None and (text == "~" or text.startswith("~/")):
        text = home + text[1:]
    if text.startswith("//"):  # POSIX lets it mean something else; here `//x` and `/x` are one
        text = "/" + text.lstrip("/")
    # pathlib's expanduser fails on a name such as ~x where no user x is; the shell leaves it alone.
    return os.path.normpath(Path(folder or Path.cwd(), os.path.expanduser(text)))  # noqa: PTH111


def absolute_paths(config: C) -> C:
    """A configuration with every field that `path_field` marks made absolute, those of nested ones included.

    Raises:
        ConfigError: in a submitted job an output is relative: it would lie in Ray's own folder, which Ray removes.
    """
    changed: dict[str, Any] = {}
    for field in fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if is_dataclass(value):
            changed[field.name] = absolute_paths(value)
        elif "path_words" in field.metadata and value:
            texts = [value] if isinstance(value, str) else list(value)
            if field.metadata["path_is_output"]:
                _require_lasting(field.name, texts)
            made = [_absolute_value(text, field.metadata) for text in texts]
            changed[field.name] = made[0] if isinstance(value, str) else type(value)(made)
    return replace(config, **changed) if changed else config  # type: ignore[type-var]


def _absolute_value(text: str, metadata: Mapping[str, Any]) -> str:
    if text in metadata["path_words"]:
        return text
    name, equals, named = text.partition("=") if metadata["path_is_named"] else ("", "", "")
    return f"{name}={absolute(named)}" if equals else absolute(text)


def _require_lasting(name: str, texts: list[str]) -> None:
    for text in texts:
        if _SUBMITTED_JOB in os.environ and is_relative(text):
            raise ConfigError(
                f"{name} is {text!r}, a relative path, which in a submitted job lies in the folder of Ray's session "
                "and goes with it; expected an absolute path on a disk that every node has, or a URI (s3://...)"
            )
