"""The second stage in a child process: what kills or stops it costs one image and no other.

Imports no torch, which the child does.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from raylib.config import ReconstructConfig
from raylib.errors import StorageError
from raylib.io.storage import Location
from raylib.reconstruction.detect_stage import AnalysedImage
from raylib.reconstruction.finished import kept_rows, part_name
from raylib.reconstruction.schema import to_parquet
from raylib.runtime.child_process import IsolatedWorker, failure

Rows = list[dict[str, Any]]


def mesher(
    method: bytes, output: Location, config: ReconstructConfig, config_sha256: str
) -> Callable[[list[bytes]], Rows]:
    """Returns what makes rows of pickled images; called in the child.

    Args:
        method: pickled `Estimator`.
        output: folder of the run.
        config: what to write and how.
        config_sha256: of the settings that shape the result.
    """
    from raylib.reconstruction.mesh_stage import MeshingSettings, ReconstructStage

    stage = ReconstructStage(pickle.loads(method), output, MeshingSettings(config, config_sha256))
    stage.warm_up()
    return lambda images: stage.rows([pickle.loads(image) for image in images])


class MeshStage:
    """Ray Data stage: a shard of analysed images in, files and one Parquet file out; yields its counts.

    Mesh files come first and the Parquet file that names them last, under a name that the shard gives: a shard that
    is done again writes the same bytes to the same places. A shard that its child does not survive is done once more
    image by image, so that nothing is tried for ever.

    Args:
        make: picklable; returns in the child what makes rows of pickled images (`mesher`).
        method: what `make` is called with, from Ray's object store: no other process unpickles it.
        output: folder of the run.
        image_timeout_s: seconds that the child may take for each image of a shard.
    """

    def __init__(
        self,
        make: Callable[[bytes], Callable[[list[bytes]], Rows]],
        method: ray.ObjectRef,
        output: Location,
        image_timeout_s: float,
    ):
        self._output, self._image_timeout_s = output, image_timeout_s
        self._child: IsolatedWorker[list[bytes], Rows] = IsolatedWorker(partial(make, ray.get(method)))
        self._child.start()  # imports torch while the first photographs are searched

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Returns a row a shard: images, faces, and counts by status as a pickled Counter."""
        done = []
        columns = (batch[name].to_pylist() for name in ("shard_id", "again", "shard"))
        for shard_id, again, images in zip(*columns, strict=True):
            rows = self.rows(images)
            # Images that are done again leave their old rows in the one write that brings the new ones.
            kept = kept_rows(self._output, shard_id, {row["image_uri"] for row in rows}) if again else None
            self._output.write_bytes(part_name(shard_id), to_parquet(rows, kept))
            # An image counts once, under the status of its first row.
            counts = Counter(row["status"] for row in rows if not row.get("face_index"))
            faces = sum(row["status"] == "ok" for row in rows)
            done.append({"images": len(images), "faces": faces, "counts": pickle.dumps(counts)})
        return pa.Table.from_pylist(done)

    def rows(self, images: Sequence[bytes]) -> Rows:
        """Returns the rows of pickled images after their files have been written; a killer among them gets a row."""
        try:
            return self._child(list(images), self._image_timeout_s * len(images))
        except StorageError:
            raise  # concerns the whole run
        except Exception:
            return [row for image in images for row in self._singly(image)]

    def _singly(self, image: bytes) -> Rows:
        try:
            return self._child([image], self._image_timeout_s)
        except StorageError:
            raise
        except Exception as error:
            status, message = failure(error)
            known: AnalysedImage = pickle.loads(image)
            failed = replace(known, status=status, error_stage="mesh", error_message=message, faces=())
            return self._child([pickle.dumps(failed)], self._image_timeout_s)
