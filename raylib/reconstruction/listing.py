"""The images of a run: folders, files and manifests, listed one after the other without holding them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import numpy as np
import pyarrow.parquet as pq

from raylib.config import ReconstructConfig
from raylib.errors import ConfigError
from raylib.reconstruction.storage import Location, image_files, open_input

Item = tuple[int, str]
"""An image: the number of its input, and its path in that input's filesystem or its entry in the manifest."""

_MANIFESTS = (".parquet", ".csv", ".txt")


class UriSet:
    """A set of URIs that takes 8 bytes a member: their 64-bit hashes.

    Among ten million members the chance that any two collide is 3 in a million.
    """

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, uri: str) -> bool:
        return self._has(uri_hash(uri))

    def _has(self, key: int) -> bool:
        if key in self._recent:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(key)))
        return place < len(self._sorted) and int(self._sorted[place]) == key

    def add(self, uri: str) -> bool:
        """Adds a URI and returns whether it is new."""
        key = uri_hash(uri)
        if self._has(key):
            return False
        self._recent.add(key)
        # A share of the whole keeps the cost of a member constant on average.
        if len(self._recent) > max(1 << 16, len(self._sorted) // 8):
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.union1d(self._sorted, recent)
            self._recent = set()
        return True


def uri_hash(uri: str) -> int:
    """Returns 64 bits that stand for a URI."""
    return int.from_bytes(hashlib.blake2b(uri.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Inputs:
    """Everything that a run reads; cheap to pickle.

    Attributes:
        locations: folders, image files and manifests.
        include: an image must match one of these patterns, if there are any; `*` matches slashes too.
        exclude: and none of these.
        manifest_column: column of Parquet and CSV manifests.
        hide_names: show images under a hash of their URI.
    """

    locations: tuple[Location, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    manifest_column: str = "image_uri"
    hide_names: bool = False

    @staticmethod
    def of(config: ReconstructConfig) -> Inputs:
        """Returns the inputs that a configuration names."""
        limits = (config.storage_tries, config.read_timeout_s, config.stall_timeout_s)
        locations = tuple(Location(uri, config.storage_options, *limits) for uri in config.inputs)
        return Inputs(
            locations, tuple(config.include), tuple(config.exclude), config.manifest_column, config.hide_names
        )

    def check(self) -> None:
        """Checks that every input can be read and that at least one image is there.

        Raises:
            ConfigError: otherwise.
        """
        for location in self.locations:
            open_input(location)
            if _is_manifest(location):
                next(self._entries(location), None)
        if next(self.items(), None) is None:
            shown = ", ".join(repr(location.uri) for location in self.locations)
            wanted = " that include and exclude let through" if self.include or self.exclude else ""
            raise ConfigError(f"input {shown} holds no image file (.jpg, .png, ...){wanted}")

    def items(self) -> Iterator[Item]:
        """Yields every image once, in an order that is the same each time.

        A single folder cannot name an image twice; several inputs or a manifest can, so that a set of what was
        yielded, 8 bytes an image, is held for these.
        """
        seen = UriSet() if len(self.locations) > 1 or _is_manifest(self.locations[0]) else None
        for n, location in enumerate(self.locations):
            manifest, root = _is_manifest(location), location.path
            for path in self._entries(location) if manifest else image_files(location):
                below = path if manifest else path.removeprefix(root).lstrip("/") or PurePosixPath(path).name
                if self._wanted(below) and (seen is None or seen.add(self._plain_uri((n, path)))):
                    yield n, path

    def resolve(self, item: Item) -> tuple[Location, str]:
        """Returns the location that an image lies in and its path there."""
        n, path = item
        location = self.locations[n]
        if not _is_manifest(location):
            return location, path
        if "://" not in path and not path.startswith("/"):
            folder = PurePosixPath(location.path).parent.as_posix()
            return location, f"{folder}/{path}"
        target = replace(location, uri=path)
        return target, target.path

    def shown(self, item: Item) -> str:
        """Returns what the table calls an image: its URI, or a hash of that."""
        uri = self._plain_uri(item)
        return f"sha256:{hashlib.sha256(uri.encode()).hexdigest()}" if self.hide_names else uri

    def _plain_uri(self, item: Item) -> str:
        location, path = self.resolve(item)
        return location.shown(path)

    def _wanted(self, below: str) -> bool:
        if self.include and not any(fnmatchcase(below, pattern) for pattern in self.include):
            return False
        return not any(fnmatchcase(below, pattern) for pattern in self.exclude)

    def _entries(self, location: Location) -> Iterator[str]:
        """Yields the entries of a manifest.

        Raises:
            ConfigError: it is broken or lacks the column.
        """
        kind = PurePosixPath(location.path).suffix.lower()
        try:
            with location.open(location.path) as file:
                if kind == ".parquet":
                    table = pq.ParquetFile(file)
                    self._require_column(location, table.schema_arrow.names)
                    for batch in table.iter_batches(batch_size=4096, columns=[self.manifest_column]):
                        yield from (entry for entry in batch.column(0).to_pylist() if entry)
                    return
                lines = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="" if kind == ".csv" else None)
                if kind == ".txt":
                    yield from (line.strip() for line in lines if line.strip())
                    return
                rows = csv.DictReader(lines)
                self._require_column(location, rows.fieldnames or [])
                yield from (row[self.manifest_column] for row in rows if row[self.manifest_column])
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"manifest {location.uri!r} cannot be read: {error}") from error

    def _require_column(self, location: Location, names: Sequence[str]) -> None:
        if self.manifest_column not in names:
            raise ConfigError(
                f"manifest {location.uri!r} has columns {', '.join(names)}, expected {self.manifest_column!r}; "
                "name another with manifest_column"
            )


def _is_manifest(location: Location) -> bool:
    return PurePosixPath(location.path).suffix.lower() in _MANIFESTS
