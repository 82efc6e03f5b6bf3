"""What a run has written: counted, continued, and freed of what killed writers left."""

import io

import pyarrow.parquet as pq
import pytest

from raylib.errors import ConfigError
from raylib.io.storage import Location
from raylib.reconstruction.finished import kept_rows, parts, settle
from raylib.reconstruction.listing import uri_hash
from raylib.reconstruction.schema import SCHEMA, to_parquet


def row(uri: str, status: str = "ok", index: int | None = 0) -> dict:
    index = index if status == "ok" else None
    return {"image_uri": uri, "status": status, "face_index": index, "config_sha256": "c"}


def write(output: Location, shard: str, rows: list[dict]) -> None:
    output.write_bytes(f"faces/part-{shard}.parquet", to_parquet(rows))


def written(output: Location) -> list[tuple[str, int | None]]:
    return sorted((r["image_uri"], r["face_index"]) for _, table in parts(output) for r in table.to_pylist())


def test_an_empty_output_holds_nothing(tmp_path):
    finished = settle(Location(str(tmp_path)), "c")
    assert finished.images == 0 and "a" not in finished.uris


@pytest.mark.parametrize("place", ["local", "memory"])
def test_images_in_two_parts_stay_once(tmp_path, place):
    output = Location(str(tmp_path) if place == "local" else "memory://settle")
    write(output, "a", [row("x"), row("x", index=1), row("y", "no_face")])
    write(output, "b", [row("y", "no_face"), row("z"), row("z", index=1)])
    write(output, "c", [row("x"), row("x", index=1)])
    finished = settle(output, "c")
    assert finished.images == 3 and finished.faces == 4 and finished.counts == {"ok": 2, "no_face": 1}
    assert written(output) == [("x", 0), ("x", 1), ("y", None), ("z", 0), ("z", 1)]
    assert len(output.list_files("faces", ".parquet")) == 2  # one had nothing left
    for path in output.list_files("faces", ".parquet"):
        schema = pq.read_schema(io.BytesIO(output.read_bytes(path)))
        assert schema.equals(SCHEMA) and schema.metadata == SCHEMA.metadata
        assert schema.field("verts_mm").metadata == SCHEMA.field("verts_mm").metadata
    assert settle(output, "c").counts == finished.counts


def test_retried_statuses_are_to_be_done_again_and_keep_their_part(tmp_path):
    output = Location(str(tmp_path))
    write(output, "a", [row("x"), row("t", "timeout"), row("y"), row("y", "error"), row("n", "no_face")])
    write(output, "b", [row("e", "error")])
    finished = settle(output, "c", {"timeout", "error"})
    assert finished.again == {uri_hash("t"): "a", uri_hash("e"): "b"} | {uri_hash("y"): "a"}
    assert [uri in finished.uris for uri in "xtyne"] == [True, False, False, True, False]
    assert kept_rows(output, "a", {"t", "y"})["image_uri"].to_pylist() == ["x", "n"]


def test_half_written_files_are_removed(tmp_path):
    output = Location(str(tmp_path))
    write(output, "a", [row("x")])
    (tmp_path / ".incoming").mkdir(exist_ok=True)
    (tmp_path / ".incoming" / "0123").write_bytes(b"half")
    settle(output, "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["faces"]


def test_rows_of_another_configuration_and_of_no_run_are_refused(tmp_path):
    output = Location(str(tmp_path))
    write(output, "a", [row("x")])
    with pytest.raises(ConfigError, match=r"another configuration.*choose another output"):
        settle(output, "d")
    (tmp_path / "faces" / "part-z.parquet").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="no rows of this job"):
        settle(output, "c")
