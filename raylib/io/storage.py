"""Files of a run, on a local disk or anywhere fsspec reaches."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.implementations.local import LocalFileSystem

from raylib.config.paths import absolute, is_windows_path
from raylib.errors import ConfigError, ImageError, StorageError
from raylib.io.network import exists_for_sure, fetch, limit_waiting, require_size, web_limits
from raylib.io.tries import (
    PERMANENT,
    TRIES_TO_REACH,
    UNREACHED_NAMES,
    ReadTimeoutError,
    UnreachedError,
    is_any,
    patiently,
    within,
    without_secrets,
)

T = TypeVar("T")

_INCOMING = ".incoming"
"""Folder below a local location for files that are being written; on the same disk, so that a rename is atomic."""


_ONE_READER = ("tar", "libarchive")
"""Archives whose fsspec readers share one file position among threads."""
_archive_lock = threading.Lock()

EMBEDDED = re.compile(r"(.+)#([^#]+)\[(\d+)\]", re.DOTALL)
"""How a picture inside a Parquet file is named: its path, the column and the row (`faces.parquet#image[17]`)."""


@dataclass(frozen=True)
class Location:
    """A folder or file, local or remote; cheap to pickle, opened where it is used.

    Attributes:
        uri: made absolute here (`config.paths.absolute`), in the process that the user started, so that every other
            process means the same.
        storage_options: keyword arguments of the fsspec filesystem. Of a chained URI they go to its last link, where
            the storage is, but for those that fsspec's own way gives under a link's protocol.
        tries: how often a read or write is tried where the error may pass; the only retries there are.
        read_timeout_s: seconds that reading a file or a page of a listing may take, all tries together.
        stall_timeout_s: seconds without a byte after which a try is given up; of them 10 at most to connect.
    """

    uri: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tries: int = 8
    read_timeout_s: float = 120.0
    stall_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", absolute(self.uri))

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

    def __hash__(self) -> int:
        return hash(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_resolved"}

    @property
    def _is_chain(self) -> bool:
        return "::" in self.uri and not self.uri.startswith("/")

    @cached_property
    def _resolved(self) -> tuple[fsspec.AbstractFileSystem, str]:
        options = dict(self.storage_options)
        if self._is_chain:
            protocols = [link.partition("://")[0] if "://" in link else link for link in self.uri.split("::")]
            options = {name: options.pop(name) for name in protocols if name in options} | (
                {protocols[-1]: options} if options and "://" in self.uri.rpartition("::")[2] else {}
            )
        elif "://" not in self.uri:
            options = {}
        filesystem, path = fsspec.core.url_to_fs(self.uri, **options)
        limit_waiting(filesystem, self.stall_timeout_s, self.read_timeout_s)
        return filesystem, path

    def join(self, relative: str) -> str:
        """Returns the filesystem's path of something below this folder."""
        return f"{self.path}/{relative}"

    def shown(self, path: str) -> str:
        """Returns a path of the filesystem as a user would write it: plain if local, else with scheme and chain."""
        if self._is_chain:
            head, _, rest = self.uri.partition("::")
            if "://" in head:
                text = f"{head.partition('://')[0]}://{path.lstrip('/')}::{rest}"
            else:  # a cache, whose paths are those of what it keeps
                text = f"{head}::{Location(rest, self.storage_options).shown(path)}"
        else:
            text = path if self.is_local else self.filesystem.unstrip_protocol(path)
        return text.encode("utf-8", "backslashreplace").decode()

    def patiently(self, call: Callable[[], T]) -> T:
        """Returns what `call` returns, as `patiently` does; a server's echo of credentials stays out of errors."""
        try:
            return patiently(call, self.tries)
        except Exception as error:
            text = str(error)
            shown = without_secrets(text, self.storage_options)
            if shown == text:
                raise
            kind = type(error) if type(error) in PERMANENT else OSError
        raise kind(shown)  # outside the handler, or the error would drag the other along

    def patiently_in_time(self, call: Callable[[], T]) -> T:
        """Returns what `call`, which reads or lists, returns, as `patiently` does; for `read_timeout_s` at most.

        Raises:
            ReadTimeoutError: that time is over, or all tries stalled.
        """
        try:
            told = f"no result after {self.read_timeout_s:g} seconds (read_timeout_s)"
            return within(lambda: self.patiently(call), self.read_timeout_s, told)
        except ReadTimeoutError:
            raise
        except TimeoutError:  # asyncio's, aiohttp's, fsspec's and the system's
            pass
        except Exception as error:
            if not is_any(error, frozenset({"ReadTimeoutError", "ConnectTimeoutError"})):  # botocore's
                raise
        raise ReadTimeoutError(f"no answer within {self.stall_timeout_s:g} seconds, {self.tries} times")

    def at_start(self, call: Callable[[], T]) -> T:
        """Returns what `call` returns, as `patiently_in_time` does; an address at which nobody is fails soon.

        Raises:
            ReadTimeoutError: no answer came in time.
        """
        refusals = 0

        def once() -> T:
            nonlocal refusals
            try:
                return call()
            except Exception as error:
                refusals += isinstance(error, ConnectionRefusedError) or is_any(error, UNREACHED_NAMES)
                if refusals < TRIES_TO_REACH:
                    raise
                told = without_secrets(" ".join(str(error).split()), self.storage_options)
            raise UnreachedError(told)

        return self.patiently_in_time(once)

    def read_bytes(self, path: str, most_bytes: int = 1 << 30) -> bytes:
        """Returns the content of a file by its path in the filesystem.

        Args:
            path: in the filesystem; `EMBEDDED` names a picture inside a Parquet file.
            most_bytes: larger files are refused before they are read.

        Raises:
            ImageError: it is larger than `most_bytes`, no regular file, or (`ReadTimeoutError`) did not come in time.
        """
        embedded = EMBEDDED.fullmatch(path)
        if embedded:
            return self.patiently_in_time(lambda: self._embedded(embedded[1], embedded[2], int(embedded[3])))
        end = time.monotonic() + self.read_timeout_s

        def local() -> bytes:
            if is_windows_path(path) and os.name != "nt":
                raise ImageError("error", "a path of a Windows machine, which this one cannot read")
            info = Path(path).stat()
            if stat.S_ISDIR(info.st_mode):
                next(Path(path).iterdir(), None)  # a listing names folders that it could not enter; this says why
                raise ImageError("error", "a folder, not an image file")
            if not stat.S_ISREG(info.st_mode):  # reading a pipe would wait for ever
                raise ImageError("error", "not a regular file")
            require_size(info.st_size, most_bytes)
            # Not every name is valid UTF-8, and fsspec would only wrap the same call.
            return Path(path).read_bytes()

        def remote() -> bytes:
            filesystem = self.filesystem
            # fsspec takes the limit, ends the request with it, and does not hand it on.
            limit = {"timeout": max(end - time.monotonic(), 0.1)} if isinstance(filesystem, AsyncFileSystem) else {}
            if "http" in filesystem.protocol:
                waits = web_limits(self.stall_timeout_s, self.read_timeout_s)
                return sync(filesystem.loop, fetch, filesystem, path, most_bytes, waits, **limit)
            size = filesystem.size(path, **limit)
            if size is None:
                return filesystem.cat_file(path, **limit)
            require_size(size, most_bytes)
            return filesystem.cat_file(path, start=0, end=size, **limit) if size else b""

        if self.filesystem.protocol in _ONE_READER:
            with _archive_lock:
                return self.patiently_in_time(remote)
        return self.patiently_in_time(local if self.is_local else remote)

    def open(self, path: str) -> io.BufferedReader:
        """Returns a file to read piece by piece; each piece is tried again, and has its time, as a whole file has."""
        return io.BufferedReader(_PatientFile(self, path), 1 << 20)

    def _embedded(self, path: str, column: str, row: int) -> bytes:
        group, first = _row_group(self, path, row)
        return _embedded_column(self, path, column, group)[row - first].as_py() or b""

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Writes a file below this folder whole or not at all; an existing one is replaced.

        Raises:
            StorageError: it could not be written after all tries.
        """
        try:
            self._write(relative, content)
        except Exception as error:
            raise self._lost("written", error) from None

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """Returns a Parquet file of a run's output by its path in the filesystem.

        Raises:
            ValueError, KeyError: it is no such file, or lacks columns.
            StorageError: it could not be read after all tries.
        """
        try:
            return self.patiently(lambda: pq.read_table(path, columns=columns, filesystem=self.filesystem))
        except (ValueError, KeyError):
            raise
        except Exception as error:
            raise self._lost("read", error) from None

    def _lost(self, what: str, error: Exception) -> StorageError:
        return StorageError(
            f"output {self.uri!r} cannot be {what}: {_reason(error)}; the same command goes on where this run stopped"
        )

    def _write(self, relative: str, content: bytes) -> None:
        path = self.join(relative)
        if self.is_local:
            self.patiently(lambda: self._write_local(Path(path), content))
        else:  # object stores show an object when it is complete
            self.patiently(lambda: self.filesystem.pipe_file(path, content))

    def _write_local(self, path: Path, content: bytes) -> None:
        incoming = Path(self.path) / _INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = incoming / uuid.uuid4().hex
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, path: str) -> None:
        """Removes a file by its path in the filesystem; one that is gone already is fine."""

        def once() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.rm_file(path)

        self.patiently(once)

    def remove_temporary(self) -> None:
        """Removes what killed writers left half written; no one may be writing."""
        if self.is_local:
            shutil.rmtree(Path(self.path) / _INCOMING, ignore_errors=True)

    def list_files(self, relative: str, suffix: str) -> list[str]:
        """Returns the sorted paths of the files with a suffix in a folder below this one, as they are now.

        Raises:
            StorageError: they could not be listed after all tries.
        """
        folder = self.join(relative)

        def once() -> list[str]:
            self.filesystem.invalidate_cache()  # other processes have written meanwhile
            try:
                return [path for path in self.filesystem.ls(folder, detail=False) if path.endswith(suffix)]
            except FileNotFoundError:
                return []

        try:
            return sorted(self.patiently(once))
        except Exception as error:
            raise self._lost("listed", error) from None


def _row_group(location: Location, path: str, row: int) -> tuple[int, int]:
    """Returns which row group of a Parquet file holds a row, and the group's first row."""
    first = 0
    for group, rows in enumerate(_row_counts(location, path)):
        if row < first + rows:
            return group, first
        first += rows
    raise ImageError("error", f"the file has {first} rows, none is number {row}")


@lru_cache(maxsize=16)
def _row_counts(location: Location, path: str) -> tuple[int, ...]:
    with location.filesystem.open(path, "rb") as file:
        metadata = pq.ParquetFile(file).metadata
        return tuple(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))


@lru_cache(maxsize=2)
def _embedded_column(location: Location, path: str, column: str, group: int) -> pa.ChunkedArray:
    """Returns a row group's pictures; kept, since the images of a shard are neighbours."""
    with location.filesystem.open(path, "rb") as file:
        table = pq.ParquetFile(file).read_row_group(group, columns=[f"{column}.bytes"])
    return table.column(0).combine_chunks().field("bytes")


class _PatientFile(io.RawIOBase):
    """A file of a location whose every read is tried again where the error may pass."""

    def __init__(self, location: Location, path: str):
        self._location = location
        self._file = location.patiently_in_time(lambda: location.filesystem.open(path, "rb"))
        self._seekable = self._file.seekable()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._seekable)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        start = self._file.tell()

        def once() -> bytes:
            if self._seekable:
                self._file.seek(start)
            return bytes(self._file.read(len(buffer)))

        # A stream that cannot go back would lose what a broken read had taken.
        read = self._location.patiently_in_time if self._seekable else lambda call: call()
        data = read(once)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_input(location: Location) -> None:
    """Checks that an input exists.

    Raises:
        ConfigError: it does not, or cannot be reached.
    """
    try:
        filesystem = location.filesystem  # a missing package or a wrong option is not tried again
        exists = location.at_start(lambda: exists_for_sure(filesystem, location.path))
    except Exception as error:
        raise ConfigError(f"input {location.uri!r} cannot be reached: {_reason(error)}") from error
    if not exists:
        raise ConfigError(f"input {location.uri!r} does not exist; expected a folder, an image file or a URI")


def check_writable(location: Location) -> None:
    """Creates the output folder if need be and writes and removes a file in it.

    Raises:
        ConfigError: it cannot be written.
    """
    probe = f".write-test-{uuid.uuid4().hex}"
    try:
        if location.is_local and Path(location.path).exists() and not Path(location.path).is_dir():
            raise NotADirectoryError("it is a file, expected a folder")
        once = replace(location, tries=1)
        _ = once.filesystem  # a missing package or a wrong option is not tried again
        location.at_start(lambda: once._write(probe, b""))
        location.remove(location.join(probe))
        location.remove_temporary()
    except Exception as error:
        raise ConfigError(f"output {location.uri!r} cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(str(told).split()) or type(error).__name__
