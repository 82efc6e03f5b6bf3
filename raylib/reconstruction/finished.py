"""The rows that a run has written so far: what is done, what is to be done again, and no image twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from raylib.errors import ConfigError
from raylib.io.storage import Location
from raylib.reconstruction.listing import Inputs, Item, UriSet, uri_hash
from raylib.reconstruction.schema import table_to_parquet

_READERS = 16


@dataclass
class Finished:
    """What the output holds.

    Attributes:
        uris: images with rows that stay, 8 bytes each.
        again: for the hash of each image that is to be done again, the shard whose part holds its rows.
        counts: images by status; an image counts once, under the status of its first row.
        faces: reconstructed faces.
    """

    uris: UriSet = field(default_factory=UriSet)
    again: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    faces: int = 0

    @property
    def images(self) -> int:
        """Number of images with rows."""
        return self.counts.total()


def part_name(shard_id: str) -> str:
    """Returns the place of a shard's rows below the output folder."""
    return f"faces/part-{shard_id}.parquet"


def parts(output: Location, columns: list[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
    """Yields path and rows of each part in a fixed order, some being read ahead."""

    def read(path: str) -> pa.Table:
        return output.read_table(path, columns)

    paths = iter(output.list_files("faces", ".parquet"))
    with ThreadPoolExecutor(_READERS) as readers:
        ahead = [(path, readers.submit(read, path)) for path in islice(paths, 2 * _READERS)]
        while ahead:
            path, future = ahead.pop(0)
            yield path, future.result()
            ahead += [(path, readers.submit(read, path)) for path in islice(paths, 1)]


def settle(output: Location, config_sha256: str, retried: Collection[str] = ()) -> Finished:
    """Returns what the output holds after clearing what interrupted runs may have left behind.

    Half-written files go. If two parts hold rows of one image, which takes a writer that outlived its run, the part
    that comes later in the order of names is rewritten without them.

    Args:
        output: folder of the run; nobody else may be writing to it.
        config_sha256: of the settings that shape the result.
        retried: images with a row of one of these statuses are to be done again.

    Raises:
        ConfigError: rows come from another configuration or model, or cannot be read.
    """
    output.remove_temporary()
    finished = Finished()
    seen = UriSet()
    try:
        for path, table in parts(output, ["image_uri", "status", "face_index", "config_sha256"]):
            _require_same(output, table, config_sha256)
            uris = table["image_uri"].to_pylist()
            repeated = {uri for uri in dict.fromkeys(uris) if not seen.add(uri)}
            if repeated:
                _drop(output, path, repeated)
            statuses = table["status"].to_pylist()
            again = {uri for uri, status in zip(uris, statuses, strict=True) if status in retried}
            shard_id = PurePosixPath(path).stem.removeprefix("part-")
            for uri, status, index in zip(uris, statuses, table["face_index"].to_pylist(), strict=True):
                if uri in repeated:
                    continue
                finished.faces += status == "ok" and index is not None
                if index:
                    continue
                finished.counts[status] += 1
                if uri in again:
                    finished.again[uri_hash(uri)] = shard_id
                else:
                    finished.uris.add(uri)
    except (pa.ArrowInvalid, KeyError) as error:
        raise ConfigError(
            f"output {output.uri!r} holds faces/*.parquet that are no rows of this job: {error}"
        ) from error
    return finished


def to_do(inputs: Inputs, finished: Finished) -> Iterator[tuple[Item, str]]:
    """Yields the images without rows that stay, and what the table calls them."""
    for item in inputs.items():
        uri = inputs.shown(item)
        if uri not in finished.uris:
            yield item, uri


@dataclass
class Stock:
    """What the inputs hold beside what is finished.

    Attributes:
        listed: images listed.
        to_do: those among them without rows that stay.
        passed: files, folders and entries passed over, by reason.
        whole: whether the listing came to its end.
    """

    listed: int = 0
    to_do: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    whole: bool = True


def take_stock(inputs: Inputs, finished: Finished, enough: int) -> Stock:
    """Returns what the inputs hold; the listing ends early where `enough` images are to do."""
    stock = Stock()
    for item in inputs.items(stock.passed):
        stock.listed += 1
        stock.to_do += inputs.shown(item) not in finished.uris
        if stock.to_do == enough:
            stock.whole = False
            break
    return stock


def kept_rows(output: Location, shard_id: str, replaced: Collection[str]) -> pa.Table:
    """Returns the rows of a part but for those of some images."""
    return _without(output.read_table(output.join(part_name(shard_id))), replaced)


def _drop(output: Location, path: str, uris: Collection[str]) -> None:
    table = _without(output.read_table(path), uris)
    if table.num_rows:
        output.write_bytes(f"faces/{PurePosixPath(path).name}", table_to_parquet(table))
    else:
        output.remove(path)


def _without(table: pa.Table, uris: Collection[str]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["image_uri"], pa.array(sorted(uris), pa.string()))))


def _require_same(output: Location, table: pa.Table, config_sha256: str) -> None:
    others = set(table["config_sha256"].to_pylist()) - {config_sha256}
    if others:
        raise ConfigError(
            f"output {output.uri!r} holds rows of another configuration or model (config_sha256 "
            f"{str(min(others, key=str))[:16]}..., now {config_sha256[:16]}...); choose another output, "
            "or remove this one"
        )
