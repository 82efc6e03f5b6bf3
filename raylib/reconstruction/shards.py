"""The work of a run in shards, listed lazily in a task of its own, so that no process holds every name."""

from __future__ import annotations

import hashlib
import pickle
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raylib.reconstruction.finished import Finished, to_do
from raylib.reconstruction.listing import Inputs, Item, uri_hash


def shards(inputs: Inputs, finished: Finished, size: int) -> Iterator[pa.Table]:
    """Yields the work, one row a shard.

    A new shard takes its name from its images, so that Ray may do it twice. Images that are done again go with those
    whose rows share a part, which is then rewritten at once.

    Args:
        inputs: what to list.
        finished: what is done and what is to be done again.
        size: images of a new shard.
    """
    fresh: list[Item] = []
    uris: list[str] = []
    again: dict[str, list[Item]] = defaultdict(list)
    for item, uri in to_do(inputs, finished):
        part = finished.again.get(uri_hash(uri)) if finished.again else None
        if part is not None:
            again[part].append(item)
            continue
        fresh.append(item)
        uris.append(uri)
        if len(fresh) == size:
            yield _row(_name(uris), fresh)
            fresh, uris = [], []
    if fresh:
        yield _row(_name(uris), fresh)
    for part, items in again.items():
        yield _row(part, items, again=True)


def _name(uris: list[str]) -> str:
    return hashlib.sha256("\n".join(uris).encode()).hexdigest()[:16]


def _row(shard_id: str, items: list[Item], again: bool = False) -> pa.Table:
    # Pickled, since not every file name is valid UTF-8.
    row: dict[str, Any] = {"shard_id": shard_id, "again": again, "shard": pickle.dumps(items)}
    return pa.Table.from_pylist([row])


class _ShardSource(Datasource):
    """One read task that lists as fast as its shards are taken; Ray keeps only a few of them waiting."""

    def __init__(self, inputs: Inputs, finished: ray.ObjectRef, size: int):
        super().__init__()
        self._inputs, self._finished, self._size = inputs, finished, size

    def estimate_inmemory_data_size(self) -> int | None:
        """Returns None: nobody knows."""
        return None

    def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
        """Returns the one task."""
        inputs, finished, size = self._inputs, self._finished, self._size
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(lambda: shards(inputs, ray.get(finished), size), metadata)]


def dataset(inputs: Inputs, finished: Finished, size: int) -> Dataset:
    """Returns the work as a lazy dataset of one shard a block."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the run shows its own
    context.target_max_block_size = 1  # else shards would be collected to blocks of 128 MiB before any is done
    return ray.data.read_datasource(
        _ShardSource(inputs, ray.put(finished), size), override_num_blocks=1, num_cpus=0.1
    )
