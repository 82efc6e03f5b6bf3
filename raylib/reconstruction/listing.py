"""The images of a run: folders, files and manifests, listed one after the other without holding them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylib.config import ReconstructConfig
from raylib.config.paths import absolute, is_relative, is_windows_path
from raylib.errors import ConfigError
from raylib.io.images import looks_like_image
from raylib.io.storage import EMBEDDED, Location, open_input
from raylib.reconstruction.folders import Walk, is_image_name

Item = tuple[int, str]
"""An image: the number of its input, and its path in that input's filesystem or its entry in the manifest."""

Kind = Literal["images", "manifest", "tables"]
"""What an input is: a file, folder or bucket of images, a list of them, or a folder of Parquet lists."""

NO_ENTRY = "manifest entry without a path"
LISTED_TWICE = "listed twice"
EXCLUDED = "kept out by include or exclude"
"""Reasons for which an entry is passed over, beside those of `folders`."""

_MANIFESTS = (".parquet", ".csv", ".tsv", ".txt", ".jsonl", ".ndjson")
_ARCHIVES = (".zip", ".tar")
_HEAD_BYTES = 1 << 12


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
        locations: folders, image files, archives and manifests.
        include: an image must match one of these patterns, if there are any; `*` matches slashes too, capital letters
            match small ones.
        exclude: and none of these.
        manifest_column: column of Parquet, CSV, TSV and JSON Lines manifests.
        hide_names: show images under a hash of their URI.
        output: where the run writes, which is never read.
        home: what `~` stands for in manifests: the home of who started the run, not of the worker that reads.
        kinds: what each location is; told by the names alone where `checked` has not looked.
    """

    locations: tuple[Location, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    manifest_column: str = "image_uri"
    hide_names: bool = False
    output: Location | None = None
    home: str = field(default_factory=lambda: str(Path("~").expanduser()))
    kinds: tuple[Kind, ...] = ()

    @staticmethod
    def of(config: ReconstructConfig) -> Inputs:
        """Returns the inputs that a configuration names.

        Raises:
            ConfigError: input and output are the same.
        """
        locations = tuple(location_of(_opened_archive(uri), config) for uri in config.inputs)
        output = location_of(config.output, config)
        for location in locations:
            if _is_same(location, output):
                raise ConfigError(
                    f"input and output are both {location.uri!r}; expected an output of its own, "
                    "which may lie inside the input"
                )
        include, exclude = tuple(config.include), tuple(config.exclude)
        return Inputs(locations, include, exclude, config.manifest_column, config.hide_names, output)

    def checked(self) -> Inputs:
        """Returns the same inputs after checking that each can be read and that at least one image is there.

        Raises:
            ConfigError: otherwise.
        """
        passed: Counter[str] = Counter()
        inputs = replace(self, kinds=tuple(self._kind_of(location) for location in self.locations))
        if next(inputs.items(passed), None) is None:
            shown = ", ".join(repr(location.uri) for location in self.locations)
            wanted = " that include and exclude let through" if self.include or self.exclude else ""
            passing = f"; {passed_over(passed)}" if passed else ""
            raise ConfigError(f"input {shown} holds no image file (.jpg, .png, ...){wanted}{passing}")
        return inputs

    def _kind_of(self, location: Location) -> Kind:
        open_input(location)
        if location.patiently_in_time(lambda: location.filesystem.isfile(location.path)):
            if _has_manifest_name(location):
                next(self._entries(location, location.path), None)
                return "manifest"
            _require_image(location)
        elif next(iter(Walk(location, self.output)), None) is None and _table_files(location):
            return "tables"
        return "images"

    def _kind(self, n: int) -> Kind:
        if self.kinds:
            return self.kinds[n]
        return "manifest" if _has_manifest_name(self.locations[n]) else "images"

    def items(self, passed: Counter[str] | None = None) -> Iterator[Item]:
        """Yields every image once, in an order that is the same each time.

        A single folder cannot name an image twice; several inputs or a manifest can, so that a set of what was
        yielded, 8 bytes an image, is held for these.

        Args:
            passed: gets the number of files, folders and entries that are passed over, by reason.

        Raises:
            ConfigError: an input cannot be listed, or a manifest is broken.
            StorageError: a bucket cannot be listed to its end.
        """
        passed = Counter() if passed is None else passed
        single = len(self.locations) == 1 and self._kind(0) == "images"
        seen = None if single else UriSet()
        for n, location in enumerate(self.locations):
            for path, below in self._listed(n, location, passed):
                if below is not None and not self._wanted(below):
                    passed[EXCLUDED] += 1
                elif seen is not None and not seen.add(self._plain_uri((n, path))):
                    passed[LISTED_TWICE] += 1
                else:
                    yield n, path

    def _listed(self, n: int, location: Location, passed: Counter[str]) -> Iterator[tuple[str, str | None]]:
        """Yields paths or entries, and what patterns match; None for a folder that cannot be read: it gets a row."""
        if self._kind(n) != "images":
            for path in _table_files(location) if self._kind(n) == "tables" else [location.path]:
                for entry in self._entries(location, path):
                    if entry:
                        yield entry, entry
                    else:
                        passed[NO_ENTRY] += 1
            return
        root = location.path
        for path, is_image in Walk(location, self.output, passed):
            yield path, (path.removeprefix(root).lstrip("/") or PurePosixPath(path).name) if is_image else None

    def resolve(self, item: Item) -> tuple[Location, str]:
        """Returns the location that an image lies in and its path there."""
        n, entry = item
        location = self.locations[n]
        kind = self._kind(n)
        if kind == "images" or ("://" not in entry and EMBEDDED.fullmatch(entry)):
            return location, entry
        if is_windows_path(entry):
            return Location("/"), entry
        folder = location.path if kind == "tables" else posixpath.dirname(location.path)
        if not location.is_local and is_relative(entry):
            return location, posixpath.normpath(f"{folder}/{entry}") if folder else entry
        uri = absolute(entry, folder, self.home)
        if location.is_local and uri.startswith("/"):
            return location, uri
        target = replace(location, uri=uri)
        return target, target.path

    def shown(self, item: Item) -> str:
        """Returns what the table calls an image: its URI, or a hash of that."""
        uri = self._plain_uri(item)
        return f"sha256:{hashlib.sha256(uri.encode()).hexdigest()}" if self.hide_names else uri

    def _plain_uri(self, item: Item) -> str:
        location, path = self.resolve(item)
        return location.shown(path)

    def _wanted(self, below: str) -> bool:
        below = below.lower()
        if self.include and not any(fnmatchcase(below, pattern.lower()) for pattern in self.include):
            return False
        return not any(fnmatchcase(below, pattern.lower()) for pattern in self.exclude)

    def _entries(self, location: Location, path: str) -> Iterator[str]:
        """Yields the entries of a manifest; an empty text for one that names nothing.

        Raises:
            ConfigError: it is broken, or lacks a column of paths or pictures.
        """
        shown = location.shown(path)
        kind = PurePosixPath(path).suffix.lower()
        try:
            with location.open(path) as file:
                if kind == ".parquet":
                    yield from self._parquet_entries(file, path, shown)
                else:
                    yield from self._text_entries(file, kind, shown)
        except ConfigError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"manifest {shown!r} cannot be read: {reason}") from error

    def _text_entries(self, file: IO[bytes], kind: str, shown: str) -> Iterator[str]:
        lines = io.TextIOWrapper(
            file, "utf-8-sig", "surrogateescape", newline="" if kind in (".csv", ".tsv") else None
        )
        if kind == ".txt":
            yield from (line.strip() for line in lines if line.strip())
        elif kind in (".csv", ".tsv"):
            rows = csv.DictReader(lines, delimiter="\t" if kind == ".tsv" else ",")
            self._require_column(shown, rows.fieldnames or [])
            yield from (row[self.manifest_column] or "" for row in rows)
        else:
            for n, line in enumerate(lines, 1):
                if line.strip():
                    yield self._json_entry(line, n, shown)

    def _json_entry(self, line: str, n: int, shown: str) -> str:
        value = json.loads(line)
        if isinstance(value, dict):
            self._require_column(shown, list(value))
            value = value[self.manifest_column]
        if value is None:
            return ""
        if not isinstance(value, str):
            raise ConfigError(
                f"line {n} of manifest {shown!r} holds {type(value).__name__} as {self.manifest_column!r}, "
                "expected a text with a path or URI"
            )
        return value

    def _parquet_entries(self, file: IO[bytes], path: str, shown: str) -> Iterator[str]:
        table, column = pq.ParquetFile(file), self.manifest_column
        schema = table.schema_arrow
        self._require_column(shown, schema.names)
        kind = schema.field(column).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if _holds_pictures(kind):
            row = 0
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                yield from (f"{path}#{column}[{n}]" for n in range(row, row + rows))
                row += rows
            return
        if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
            raise ConfigError(
                f"column {column!r} of manifest {shown!r} holds {kind}, expected texts with paths or URIs, or "
                "pictures as struct<bytes: binary, path: string>"
            )
        for batch in table.iter_batches(batch_size=4096, columns=[column]):
            yield from (entry or "" for entry in batch.column(0).to_pylist())

    def _require_column(self, shown: str, names: Sequence[str]) -> None:
        if self.manifest_column not in names:
            raise ConfigError(
                f"manifest {shown!r} has columns {', '.join(map(str, names)) or '(none)'}, expected "
                f"{self.manifest_column!r}; name another with manifest_column"
            )


def location_of(uri: str, config: ReconstructConfig) -> Location:
    """Returns a location with the options and limits of a configuration."""
    limits = (config.storage_tries, config.read_timeout_s, config.stall_timeout_s)
    return Location(uri, config.storage_options, *limits)


def passed_over(passed: Counter[str]) -> str:
    """Returns one phrase on what a listing passed over, the most frequent reasons first."""
    return "passed over: " + ", ".join(f"{count} {reason}" for reason, count in passed.most_common())


def _has_manifest_name(location: Location) -> bool:
    return PurePosixPath(location.path).suffix.lower() in _MANIFESTS


def _opened_archive(uri: str) -> str:
    """Returns an archive's URI as that of its content."""
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix not in _ARCHIVES or "::" in uri:
        return uri
    path = absolute(uri)
    if "://" not in path and Path(path).is_dir():
        return uri
    return f"{suffix.removeprefix('.')}://::{path}"


def _is_same(location: Location, output: Location) -> bool:
    if location.uri.rstrip("/") == output.uri.rstrip("/"):
        return True
    local = all("://" not in one.uri and "::" not in one.uri for one in (location, output))
    return local and Path(location.uri).resolve() == Path(output.uri).resolve()


def _table_files(location: Location) -> list[str]:
    """Returns the Parquet files directly in a folder, in order."""
    try:
        names = location.patiently_in_time(lambda: location.filesystem.ls(location.path, detail=False))
    except (OSError, NotImplementedError):
        return []
    return sorted(name for name in names if name.lower().endswith(".parquet"))


def _holds_pictures(kind: pa.DataType) -> bool:
    """Tells whether a column holds encoded pictures, as data sets of Hugging Face do."""
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    content = kind.field("bytes").type
    return bool(pa.types.is_binary(content) or pa.types.is_large_binary(content))


def _require_image(location: Location) -> None:
    """Checks that a file which is named alone is an image, by its name or its first bytes."""
    if is_image_name(location.path):
        return
    try:
        head: Any = location.patiently_in_time(lambda: location.filesystem.head(location.path, _HEAD_BYTES))
    except Exception as error:
        raise ConfigError(f"input {location.uri!r} cannot be read: {error}") from error
    if not looks_like_image(head):
        raise ConfigError(
            f"input {location.uri!r} is neither an image nor a list of images; expected an image file, a folder, an "
            f"archive ({', '.join(_ARCHIVES)}) or a manifest ({', '.join(_MANIFESTS)})"
        )
