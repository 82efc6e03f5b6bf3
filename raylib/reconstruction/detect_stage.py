"""First stage: bytes to faces. Reads photographs, and decodes and searches them in a child process.

Imports neither torch nor ray, so that the many processes of this stage start fast and stay small.
"""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from raylib.config import FaceSettings
from raylib.detection.alignment import FoundFace, cut_faces
from raylib.detection.detector import FaceDetector
from raylib.errors import ImageError
from raylib.io.images import decode
from raylib.reconstruction.listing import Inputs, Item
from raylib.reconstruction.waiting import ReadWatch
from raylib.runtime.child_process import ChildCrashError, IsolatedWorker, failure

_READ_AHEAD = 4


@dataclass(frozen=True)
class AnalysedImage:
    """What the first stage says of an image.

    Attributes:
        uri: as shown in the table.
        status: ok, no_face or what went wrong.
        error_stage, error_message: where and what, if something went wrong.
        sha256: hash of the file, empty if it could not be read.
        width, height: of the upright photograph, 0 if unknown.
        focal_px: focal length from EXIF, or None.
        faces: the faces found.
        seconds: by stage.
        decode_warning: what decoding passed over, empty if nothing.
    """

    uri: str
    status: str
    error_stage: str = ""
    error_message: str = ""
    sha256: str = ""
    width: int = 0
    height: int = 0
    focal_px: float | None = None
    faces: tuple[FoundFace, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    decode_warning: str = ""


@dataclass(frozen=True)
class AnalysisSettings:
    """What the first stage needs of the configuration; see `ReconstructConfig`."""

    faces: FaceSettings
    max_pixels: int
    max_texture_px: int
    image_timeout_s: float
    image_memory_gb: float = 0.0


@dataclass(frozen=True)
class ImageFile:
    """An image's bytes, what the table calls it, and the seconds that reading took."""

    uri: str
    data: bytes
    seconds_read: float = 0.0


class Analyser:
    """Decodes an image and finds its faces; runs in the child process.

    Args:
        settings: limits and detector.
    """

    def __init__(self, settings: AnalysisSettings):
        self._settings = settings
        self._detector = FaceDetector(settings.faces)

    def __call__(self, file: ImageFile) -> AnalysedImage:
        """Returns size, focal length and faces, or the reason why the bytes are no usable image."""
        start = time.perf_counter()
        digest = hashlib.sha256(file.data).hexdigest()
        seconds = {"read": file.seconds_read}
        try:
            image = decode(file.data, self._settings.max_pixels)
        except ImageError as error:
            seconds["decode"] = time.perf_counter() - start
            return AnalysedImage(file.uri, error.status, "decode", error.message, digest, seconds=seconds)
        decoded = time.perf_counter()
        faces = cut_faces(image.rgb, self._detector(image.rgb), self._settings.max_texture_px)
        seconds |= {"decode": decoded - start, "detect": time.perf_counter() - decoded}
        height, width = image.rgb.shape[:2]
        status = "ok" if faces else "no_face"
        return AnalysedImage(
            file.uri,
            status,
            sha256=digest,
            width=width,
            height=height,
            focal_px=image.focal_px,
            faces=faces,
            seconds=seconds,
            decode_warning=image.warning or "",
        )

    def pickled(self, file: ImageFile) -> bytes:
        """Returns the same as bytes, which the processes on the way to the second stage need not understand."""
        return pickle.dumps(self(file), pickle.HIGHEST_PROTOCOL)


def _analyser(settings: AnalysisSettings) -> Callable[[ImageFile], bytes]:
    return Analyser(settings).pickled


class DetectStage:
    """Ray Data stage: a shard of images' places in, the analysed images out, each pickled; a shard is a row.

    Args:
        inputs: where the images lie.
        settings: limits and detector.
        run: the run's mark, under which the driver finds what is waited for (`waiting`); empty to tell nobody.
    """

    def __init__(self, inputs: Inputs, settings: AnalysisSettings, run: str = ""):
        self._inputs = inputs
        self._watch = ReadWatch(run, inputs.hide_names)
        self._timeout_s = settings.image_timeout_s
        self._child: IsolatedWorker[ImageFile, bytes] = IsolatedWorker(
            partial(_analyser, settings), int(settings.image_memory_gb * 2**30)
        )
        self._child.start()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Returns the rows of `batch` with the column `shard` replaced by lists of analysed images."""
        shards = [list(self.analyse(pickle.loads(s))) for s in batch["shard"].to_pylist()]
        column = batch.column_names.index("shard")
        return batch.set_column(column, "shard", pa.array(shards, pa.list_(pa.large_binary())))

    def analyse(self, items: list[Item]) -> Iterator[bytes]:
        """Yields what each image holds, pickled (`AnalysedImage`); one that fails yields its reason."""
        with ThreadPoolExecutor(_READ_AHEAD) as readers:
            reads: list[Future[ImageFile]] = [readers.submit(self._read, item) for item in items]
            for i, item in enumerate(items):
                try:
                    file = reads[i].result()
                except Exception as error:  # every storage has its own errors
                    yield pickle.dumps(self._unread(self._inputs.shown(item), error))
                    continue
                reads[i] = Future()  # lets go of the bytes
                yield self._isolated(file)

    def _read(self, item: Item) -> ImageFile:
        start = time.perf_counter()
        location, path = self._inputs.resolve(item)
        shown = self._inputs.shown(item)
        with self._watch.reading(shown):
            data = location.read_bytes(path)
        return ImageFile(shown, data, time.perf_counter() - start)

    def _unread(self, uri: str, error: Exception) -> AnalysedImage:
        if isinstance(error, ImageError):
            return AnalysedImage(uri, error.status, "read", error.message)
        kind = type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            message = f"{kind}: {error.strerror}"
        else:
            message = kind if self._inputs.hide_names else f"{kind}: {error}".strip(": ")
        return AnalysedImage(uri, "error", "read", message)

    def _isolated(self, file: ImageFile) -> bytes:
        try:
            try:
                return self._child(file, self._timeout_s)
            except ChildCrashError:
                # Whoever killed the child may have meant another, such as the kernel short of memory.
                return self._child(file, self._timeout_s)
        except Exception as error:
            where = "decode_or_detect"  # a dead child cannot tell which
            status, message = failure(error)
            digest = hashlib.sha256(file.data).hexdigest()
            seconds = {"read": file.seconds_read}
            return pickle.dumps(AnalysedImage(file.uri, status, where, message, digest, seconds=seconds))
