"""The synthesis job: the same bytes after kills, one row a seed, reading back, buckets, mistakes."""

import dataclasses
import hashlib
import io
import json
import shutil
import tempfile
from pathlib import Path

import duckdb
import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from fault_runs import Run, sha256_of_files, wait_for_parts
from rich.console import Console

from raylib.config import SynthesisSettings, SynthesizeConfig
from raylib.errors import ConfigError
from raylib.synthesis import FaceSynthesizer, seeds_of
from raylib.synthesis.parquet import MAPS, SCHEMA, SyntheticDataset, from_table, to_parquet
from raylib.synthesis.run import synthesize

ROOT = Path(__file__).resolve().parents[1]
SMALL = SynthesisSettings(size_px=32, shadow_directions=16)


def test_what_is_written_is_read():
    faces = FaceSynthesizer("prior", SMALL)([7, 8, 9])
    config = SynthesizeConfig("x", settings=SMALL)
    raw = to_parquet(faces, config, "0" * 64)
    assert raw == to_parquet(faces, config, "0" * 64)
    table = pq.read_table(io.BytesIO(raw))
    assert table.schema.equals(SCHEMA)
    back = from_table(table)
    for field in dataclasses.fields(faces):
        mine, theirs = getattr(faces, field.name), getattr(back, field.name)
        if field.name == "camera":
            assert all((getattr(mine, f.name) == getattr(theirs, f.name)).all() for f in dataclasses.fields(mine))
        elif isinstance(mine, tuple):
            assert json.loads(json.dumps(mine)) == json.loads(json.dumps(theirs))
        else:
            assert mine.shape == theirs.shape, field.name
            coarse = {"depth": 0.03, "normals": 3e-5, "clean": 4e-3, "beyond_matte": 2e-3}
            coarse |= {"lamp_visible": 1e-3, "transfer": 1e-3}
            near = np.isclose(mine.astype(float), theirs.astype(float), rtol=1e-3, atol=coarse.get(field.name, 0))
            assert near.all(), field.name

    lean = dataclasses.replace(config, store_maps=False, image_format="jpeg")
    table = pq.read_table(io.BytesIO(to_parquet(faces, lean, "0" * 64)))
    assert table.schema.equals(SCHEMA) and all(table.column(name).null_count == 3 for name in MAPS)
    back = from_table(table)
    assert back.clean.size == 0 and np.abs(back.image.astype(int) - faces.image).mean() < 6


def _run(home: Path, output: Path) -> Run:
    arguments = ["--output", str(output), "--count", "24", "--rows_per_part", "2", "--split", "test", "--actors", "1"]
    arguments += ["--settings.size_px", "32", "--settings.shadow_directions", "16"]
    return Run(home, arguments, job="synthesize.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_twice_gives_the_bytes_of_an_undisturbed_run(tmp_path):
    output = tmp_path / "out"
    home = Path(tempfile.mkdtemp(prefix="sf"))  # short enough for Ray's sockets
    runs = []
    try:
        for parts in (2, 5):
            runs.append(_run(home / str(parts), output))
            assert wait_for_parts(output, parts, runs[-1])
            runs[-1].end()
        runs.append(_run(home / "last", output))
        assert runs[-1].wait() == 0, runs[-1].log.read_text()[-3000:]
    finally:
        for run in runs:
            run.end()
        shutil.rmtree(home, ignore_errors=True)

    record = json.loads((output / "run.json").read_text())
    assert record["rows"] == 24 and record["made_in_this_run"] < 24
    config = SynthesizeConfig("x", split="test", settings=SMALL, rows_per_part=2)
    make = FaceSynthesizer("prior", SMALL)
    seeds = seeds_of("test", 24)
    expected = {
        f"part-{s.start:012d}-000002.parquet": hashlib.sha256(
            to_parquet(make(s), config, record["config_sha256"])
        ).hexdigest()
        for s in (seeds[i : i + 2] for i in range(0, 24, 2))
    }
    assert sha256_of_files(output / "faces") == expected
    counted = duckdb.sql(f"select count(*), count(distinct seed) from '{output}/faces/*.parquet'").fetchall()
    assert counted == [(24, 24)]
    assert {p.name for p in output.iterdir()} == {"faces", "run.json", "dataset.json", "contact_sheet.png"}


@pytest.mark.slow
def test_into_a_bucket(ray_session):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "key": "access",
            "secret": "hidden-one",
            "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
        }
        filesystem = fsspec.filesystem("s3", **options)
        filesystem.makedirs("synthetic", exist_ok=True)
        config = SynthesizeConfig(
            "s3://synthetic/run", count=3, settings=SMALL, rows_per_part=2, actors=1, storage_options=options
        )
        said = io.StringIO()
        assert synthesize(config, Console(file=said, width=200)) == 0
        dataset = SyntheticDataset("s3://synthetic/run", options)
        assert len(dataset) == 3
        assert [f.seeds.tolist() for f in dataset.batches(2)] == [[0, 1], [2]]
        record = filesystem.cat("synthetic/run/run.json").decode()
        assert "hidden-one" not in record + said.getvalue()
        assert synthesize(config, Console(file=said, width=200)) == 0
        assert "2 of 2 parts are there already" in said.getvalue()
        other = dataclasses.replace(config, settings=dataclasses.replace(SMALL, yaw_deg=10.0))
        with pytest.raises(ConfigError, match="other settings"):
            synthesize(other, Console(file=said))
    finally:
        server.stop()


def test_mistakes_stop_before_any_work(tmp_path):
    for wrong, message in (
        (SynthesizeConfig(str(tmp_path / "a"), source=str(tmp_path / "no.npz")), "no.npz"),
        (
            SynthesizeConfig(str(tmp_path / "b"), settings=SynthesisSettings(backgrounds=str(tmp_path / "none"))),
            "none",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            synthesize(wrong, Console(file=io.StringIO()))
    with pytest.raises(ConfigError, match=r"faces/\*.parquet"):
        SyntheticDataset(str(tmp_path))
