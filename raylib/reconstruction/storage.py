"""Files of a run, on a local disk or anywhere fsspec reaches."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from raylib.errors import ConfigError
from raylib.images import EXTENSIONS


@dataclass(frozen=True)
class Location:
    """A folder or file, local or remote; cheap to pickle, opened where it is used.

    Attributes:
        uri: as the user wrote it.
        storage_options: keyword arguments of the fsspec filesystem.
    """

    uri: str
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The filesystem of the URI (fsspec keeps one instance a process)."""
        return self._resolved[0]

    @property
    def path(self) -> str:
        """The path within the filesystem, without a slash at its end."""
        return self._resolved[1].rstrip("/") or "/"

    @property
    def is_local(self) -> bool:
        """Tells whether the files lie on this machine's disks."""
        return isinstance(self.filesystem, LocalFileSystem)

    @property
    def _resolved(self) -> tuple[fsspec.AbstractFileSystem, str]:
        is_uri = "://" in self.uri or "::" in self.uri
        target = self.uri if is_uri else os.path.abspath(Path(self.uri).expanduser())  # noqa: PTH100 - keeps links as the user wrote them
        options = dict(self.storage_options) if is_uri and not self.uri.startswith("file:") else {}
        filesystem, path = fsspec.core.url_to_fs(target, **options)
        return filesystem, path

    def join(self, relative: str) -> str:
        """Returns the filesystem's path of something below this folder."""
        return f"{self.path}/{relative}"

    def shown(self, path: str) -> str:
        """Returns a path of the filesystem as a user would write it: plain if local, with its scheme otherwise."""
        text = path if self.is_local else self.filesystem.unstrip_protocol(path)
        return text.encode("utf-8", "backslashreplace").decode()

    def read_bytes(self, path: str) -> bytes:
        """Returns the content of a file by its path in the filesystem."""
        if self.is_local:
            # Not every name is valid UTF-8, and fsspec would only wrap the same call.
            return Path(path).read_bytes()
        return self.filesystem.cat_file(path)

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Writes a file below this folder whole or not at all; an existing one is replaced."""
        target = self.join(relative)
        if not self.is_local:
            self.filesystem.pipe_file(target, content)  # object stores show an object when it is complete
            return
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def open_input(location: Location) -> None:
    """Checks that an input exists.

    Raises:
        ConfigError: it does not, or cannot be reached.
    """
    try:
        exists = location.filesystem.exists(location.path)
    except Exception as error:
        raise ConfigError(f"input {location.uri!r} cannot be reached: {error}") from error
    if not exists:
        raise ConfigError(f"input {location.uri!r} does not exist; expected a folder, an image file or a URI")


def image_files(location: Location) -> Iterator[str]:
    """Yields the paths of the image files below a location, in a fixed order; a file yields itself.

    Hidden files and folders are passed over, and symbolic links to folders are not followed.
    """
    filesystem = location.filesystem
    if filesystem.isfile(location.path):
        yield location.path
        return
    if location.is_local:
        for folder, folders, names in os.walk(location.path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (f"{folder}/{name}" for name in sorted(names) if _is_image_name(name))
        return
    for folder, folders, names in filesystem.walk(location.path):
        for name in [name for name in folders if name.startswith(".")]:
            folders.remove(name)
        yield from (f"{folder.rstrip('/')}/{name}" for name in sorted(names) if name and _is_image_name(name))


def _is_image_name(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower().lstrip(".")
    return suffix in EXTENSIONS and not name.startswith(".")


def check_writable(location: Location) -> None:
    """Creates the output folder if need be and writes and removes a file in it.

    Raises:
        ConfigError: it cannot be written.
    """
    probe = f".write-test-{uuid.uuid4().hex}"
    try:
        if location.is_local and Path(location.path).exists() and not Path(location.path).is_dir():
            raise NotADirectoryError("it is a file, expected a folder")
        location.write_bytes(probe, b"")
        location.filesystem.rm_file(location.join(probe))
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"output {location.uri!r} cannot be written: {reason}") from error
