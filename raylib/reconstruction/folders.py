"""The image files below a folder or a bucket's prefix, one by one, and a count of all that is passed over."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from raylib.errors import ConfigError, ImageError, StorageError
from raylib.io.images import EXTENSIONS
from raylib.io.storage import Location

HIDDEN = "hidden"
OWN_OUTPUT = "this run's output"
OTHER_OUTPUT = "another run's output"
TWICE = "folder reached twice"
NO_IMAGE = "no image"
"""Reasons for which something is passed over; the last with the name's suffix: `no image (.txt)`."""

_SUFFIXES = 50
"""So many suffixes are counted each for itself; what else there is counts as one."""

_RUN_FOLDERS = frozenset(("meshes", "report-data"))
"""Folders of a run's output that hold pictures; beside them lies `run.json`, which is written last."""

_MESH_PICTURE = re.compile(r"(?:^|/)meshes/([0-9a-f]{16})/\1-\d+(?:-preview|-labels)?\.(?:png|jpg|webp)$")
"""Pictures that a reconstruction writes; also those of a run that was killed and has no `run.json`."""


@dataclass
class Walk:
    """A walk over everything below a location.

    Attributes:
        location: folder, file or prefix.
        output: what the run writes there is never an input; None where nothing is written.
        passed: number of files and folders that were passed over, by reason; grows with the walk.
    """

    location: Location
    output: Location | None = None
    passed: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[tuple[str, bool]]:
        """Yields paths in a fixed order, and whether each is an image file; else it is a folder that cannot be read.

        A folder's files come before its folders. Links are followed, and each folder is entered once, however many
        links lead to it.

        Raises:
            ConfigError: the location itself cannot be listed.
            StorageError: a bucket cannot be listed any further after all tries.
        """
        location, filesystem = self.location, self.location.filesystem
        if location.patiently_in_time(lambda: filesystem.isfile(location.path)):
            yield location.path, True
        elif location.is_local:
            yield from self._local()
        elif "s3" in filesystem.protocol:
            yield from self._bucket()
        else:
            yield from self._remote()

    def _local(self) -> Iterator[tuple[str, bool]]:
        root = self.location.path
        output = None if self.output is None or not self.output.is_local else _identity(self.output.path)
        entered: set[tuple[int, int]] = set()
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            identity = _identity(folder)
            if identity is not None and identity == output and folder != root:
                self.passed[OWN_OUTPUT] += 1
                continue
            if identity in entered:
                self.passed[TWICE] += 1
                continue
            try:
                with os.scandir(folder) as entries:
                    found = sorted((entry.name, _is_folder(entry)) for entry in entries)
            except OSError as error:
                if folder == root:
                    raise self._unlisted(error) from None
                yield f"{folder}/", False
                continue
            if identity is not None:
                entered.add(identity)
            below = yield from self._folder(folder, found, folder == root)
            waiting += reversed(below)

    def _remote(self) -> Iterator[tuple[str, bool]]:
        filesystem, root = self.location.filesystem, self.location.path
        protocol_root = root if filesystem.exists(root) and root != "/" else ""
        output = self._output_prefix()
        waiting = [protocol_root]
        while waiting:
            folder = waiting.pop()
            if output is not None and folder.strip("/") == output.strip("/") and folder != protocol_root:
                self.passed[OWN_OUTPUT] += 1
                continue
            try:
                listed = self.location.patiently_in_time(lambda: filesystem.ls(folder, detail=True))  # noqa: B023 - called at once
            except Exception as error:
                if folder == protocol_root:
                    raise self._unlisted(error) from None
                yield f"{folder}/", False
                continue
            names = ((posixpath.basename(e["name"].rstrip("/")), e["type"] == "directory") for e in listed)
            found = sorted((name, is_folder) for name, is_folder in names if name)
            waiting += reversed((yield from self._folder(folder, found, folder == protocol_root)))

    def _folder(
        self, folder: str, found: list[tuple[str, bool]], is_root: bool
    ) -> Generator[tuple[str, bool], None, list[str]]:
        """Yields the images of a folder and returns the folders below it that are to be entered."""
        files = [name for name, is_folder in found if not is_folder]
        job = self._job(f"{folder}/run.json") if "run.json" in files else None
        if job is not None and job != "reconstruct" and not is_root:
            self.passed[OTHER_OUTPUT] += 1
            return []
        for name in files:
            path = f"{folder.rstrip('/')}/{name}" if folder else name
            if self._is_image(path, name):
                yield path, True
        below = []
        for name, is_folder in found:
            if not is_folder:
                continue
            if name.startswith("."):
                self.passed[HIDDEN] += 1
            elif job is not None and name in _RUN_FOLDERS:
                self.passed[OTHER_OUTPUT] += 1
            else:
                below.append(f"{folder.rstrip('/')}/{name}" if folder else name)
        return below

    def _bucket(self) -> Iterator[tuple[str, bool]]:
        """Yields image keys page by page; s3fs itself would hold the whole listing in memory."""
        filesystem = self.location.filesystem
        bucket, _, prefix = self.location.path.partition("/")
        prefix = f"{prefix}/" if prefix else ""
        token: dict[str, str] = {}
        output = self._output_prefix()
        jobs: dict[str, bool] = {}

        def next_page() -> dict[str, Any]:
            return filesystem.call_s3("list_objects_v2", filesystem.req_kw, Bucket=bucket, Prefix=prefix, **token)

        while True:
            try:
                page = self.location.patiently_in_time(next_page)
            except Exception as error:
                raise self._unlisted(error, begun=bool(token)) from None
            for entry in page.get("Contents", ()):
                path = f"{bucket}/{entry['Key']}"
                *folders, name = entry["Key"].removeprefix(prefix).split("/")
                if not name:
                    continue
                if output is not None and path.startswith(f"{output}/"):
                    self.passed[OWN_OUTPUT] += 1
                elif any(part.startswith(".") for part in folders):
                    self.passed[HIDDEN] += 1
                elif self._below_run(f"{bucket}/{prefix}", folders, jobs):
                    self.passed[OTHER_OUTPUT] += 1
                elif self._is_image(path, name):
                    yield path, True
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _below_run(self, root: str, folders: list[str], known: dict[str, bool]) -> bool:
        """Tells whether a key lies in a folder of a run's output; `run.json` comes after it in a bucket's order."""
        for depth, name in enumerate(folders):
            if name not in _RUN_FOLDERS:
                continue
            beside = root + "".join(f"{part}/" for part in folders[:depth]) + "run.json"
            if beside not in known:
                if len(known) > 1000:  # a bucket may have any number of folders of such a name
                    known.clear()
                known[beside] = self._job(beside) is not None
            if known[beside]:
                return True
        return False

    def _is_image(self, path: str, name: str) -> bool:
        if name.startswith("."):
            self.passed[HIDDEN] += 1
            return False
        if _suffix(name) not in EXTENSIONS:
            reason = f"{NO_IMAGE} (.{_suffix(name)})" if _suffix(name) else f"{NO_IMAGE} (no suffix)"
            self.passed[reason if reason in self.passed or len(self.passed) < _SUFFIXES else NO_IMAGE] += 1
            return False
        if _MESH_PICTURE.search(path):
            self.passed[OTHER_OUTPUT] += 1
            return False
        return True

    def _job(self, run_json: str) -> str | None:
        """Returns the job whose record a `run.json` is, None if it is somebody else's file."""
        try:
            record = json.loads(self.location.read_bytes(run_json, 1 << 24))
            return str(record.get("job", "training")) if "physface" in record["versions"] else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImageError):
            return None

    def _output_prefix(self) -> str | None:
        """The output's path where it lies below the input; None also where the input lies below the output."""
        output, here = self.output, self.location
        if output is None or type(output.filesystem) is not type(here.filesystem):
            return None
        return output.path if output.path.startswith(f"{here.path.rstrip('/')}/") else None

    def _unlisted(self, error: Exception, begun: bool = False) -> ConfigError | StorageError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        text = f"input {self.location.uri!r} cannot be listed: {reason}"
        return (
            StorageError(f"{text}; the same command goes on where this run stopped") if begun else ConfigError(text)
        )


def image_files(location: Location, output: Location | None = None) -> Iterator[str]:
    """Yields the paths of the image files below a location, in a fixed order; a file yields itself."""
    return (path for path, is_image in Walk(location, output) if is_image)


def is_image_name(name: str) -> bool:
    """Tells whether a file is an input by its name."""
    return _suffix(name) in EXTENSIONS and not name.startswith(".")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower().lstrip(".")  # noqa: PTH122 - pathlib would intern every name


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        info = os.stat(folder)  # noqa: PTH116 - once for each folder of what may be millions
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
