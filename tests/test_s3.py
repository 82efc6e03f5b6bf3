"""The reconstruction job from bucket to bucket, against a real S3 server on loopback."""

import io
import json
import socket
import zipfile
from collections import Counter

import duckdb
import pyarrow.parquet as pq
import pytest
import trimesh
from rich.console import Console
from s3_gate import KEY, SECRET, answer, gated_s3, options

from raylib.config import FaceSettings, ReconstructConfig
from raylib.errors import ConfigError, StorageError
from raylib.io.storage import Location, check_writable, open_input
from raylib.reconstruction.folders import image_files
from raylib.reconstruction.listing import Inputs
from raylib.reconstruction.run import reconstruct
from raylib.runtime.command import parse


@pytest.fixture(scope="module")
def s3():
    """A gate before an S3 server, and a filesystem that goes around it."""
    with gated_s3("photos", "results") as (gate, direct):
        yield gate, direct


@pytest.fixture
def gate(s3):
    """The gate with a list of the heads of requests that have passed it; the test may set its rule."""
    gate, direct = s3
    for name, content in {"a b.png": b"content", "empty.png": b""}.items():
        direct.pipe_file(f"photos/gate/{name}", content, ACL="public-read")
    direct.chmod("photos", "public-read")
    gate.heads = []
    gate.rule = lambda head: gate.heads.append(head)
    yield gate
    gate.rule = lambda head: None


@pytest.mark.slow
def test_bucket_to_bucket(s3, photographs, ray_session):
    gate, filesystem = s3
    filesystem.pipe("photos/people/a b/porträt.png", (photographs / "astronaut.png").read_bytes())
    filesystem.pipe("photos/people/cup.png", (photographs / "coffee.png").read_bytes())
    filesystem.pipe("photos/people/broken.jpg", b"no picture")
    filesystem.pipe("photos/people/list.txt", b"no input")
    hog = FaceSettings(detector="hog")
    config = ReconstructConfig(
        "s3://photos/people", "s3://results/run 1", faces=hog, storage_options=options(gate.url)
    )
    console = Console(file=io.StringIO(), width=200)
    assert reconstruct(config, console) == 0

    tables = [
        pq.read_table(io.BytesIO(filesystem.cat(p))) for p in filesystem.ls("results/run 1/faces", detail=False)
    ]
    rows = {row["image_uri"]: row for table in tables for row in table.to_pylist()}
    assert {uri: row["status"] for uri, row in rows.items()} == {
        "s3://photos/people/a b/porträt.png": "ok",
        "s3://photos/people/cup.png": "no_face",
        "s3://photos/people/broken.jpg": "decode_error",
    }
    row = rows["s3://photos/people/a b/porträt.png"]
    glb = filesystem.cat(f"results/run 1/{row['glb_uri']}")
    assert len(trimesh.load(io.BytesIO(glb), file_type="glb").to_mesh().faces) == 4096
    for column in ("obj_uri", "mtl_uri", "texture_uri", "preview_uri"):
        assert filesystem.size(f"results/run 1/{row[column]}") > 0

    duckdb.register_filesystem(filesystem)
    counted = duckdb.sql("select count(*) from 's3://results/run 1/faces/*.parquet'").fetchall()
    assert counted == [(3,)]

    record = filesystem.cat("results/run 1/run.json").decode()
    assert json.loads(record)["images"] == 3
    assert SECRET not in record and SECRET not in console.file.getvalue()

    again = Console(file=io.StringIO(), width=200)
    assert reconstruct(config, again) == 0
    assert "3 of 3 images are done already" in again.file.getvalue()


def test_the_output_and_other_runs_in_the_bucket_are_passed_over(s3):
    gate, filesystem = s3
    face = "0123456789abcdef"
    run = json.dumps({"job": "reconstruct", "versions": {"physface": "1"}}).encode()
    contents = {
        "a.png": b"x",
        "meshes/mine.png": b"x",  # a folder of such a name, and no run beside it
        f"killed/meshes/{face}/{face}-0-preview.png": b"x",
        "old/meshes/b.png": b"x",
        "old/report-data/c.jpg": b"x",
        "old/run.json": run,
        "out/meshes/d.png": b"x",
        "outside.png": b"x",
    }
    for name, content in contents.items():
        filesystem.pipe(f"photos/album/{name}", content)
    config = ReconstructConfig("s3://photos/album", "s3://photos/album/out/", storage_options=options(gate.url))
    passed: Counter[str] = Counter()
    inputs = Inputs.of(config).checked()
    found = [inputs.shown(item) for item in inputs.items(passed)]
    assert found == [f"s3://photos/album/{name}" for name in ("a.png", "meshes/mine.png", "outside.png")]
    assert passed == {"this run's output": 1, "another run's output": 3, "no image (.json)": 1}


def test_an_archive_in_a_bucket_takes_the_bucket_s_options(s3):
    gate, filesystem = s3
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("deep/a.png", "content")
    filesystem.pipe("photos/packed/album.zip", packed.getvalue())
    for given in ("s3://photos/packed/album.zip", "zip://::s3://photos/packed/album.zip"):
        inputs = Inputs.of(ReconstructConfig(given, "out", storage_options=options(gate.url))).checked()
        (item,) = inputs.items()
        assert inputs.shown(item) == "zip://deep/a.png::s3://photos/packed/album.zip"
        location, path = inputs.resolve(item)
        assert location.read_bytes(path) == b"content"


@pytest.mark.parametrize(("change", "message"), [("input", "does not exist"), ("output", "cannot be written")])
def test_a_missing_bucket_is_one_sentence(s3, change, message):
    gate, filesystem = s3
    filesystem.pipe("photos/other/cup.png", b"x")
    places = {"input": "s3://photos/other", "output": "s3://results/other"} | {change: "s3://no-such-bucket/x"}
    with pytest.raises(ConfigError, match=message) as caught:
        reconstruct(ReconstructConfig(**places, storage_options=options(gate.url)), Console(file=io.StringIO()))
    assert SECRET not in str(caught.value)


def used(gate, **storage_options) -> list[str]:
    """Lists, reads and, if it has a name, writes with storage options; returns the heads of the requests."""
    client = {"client_kwargs": {"endpoint_url": gate.url}}
    source = Location("s3://photos/gate", client | storage_options)
    open_input(source)
    assert {path: source.read_bytes(path) for path in image_files(source)} == {
        "photos/gate/a b.png": b"content",
        "photos/gate/empty.png": b"",
    }
    assert len(gate.heads) > 5
    if storage_options.get("anon"):
        return [head.lower() for head in gate.heads]  # nobody lets the anonymous write
    target = Location("s3://results/gate", client | storage_options)
    check_writable(target)
    target.write_bytes("faces/x.parquet", b"rows")
    assert target.read_bytes("results/gate/faces/x.parquet") == b"rows"
    return [head.lower() for head in gate.heads]


def test_a_profile_signs_every_request(gate, tmp_path, monkeypatch):
    (tmp_path / "credentials").write_text(f"[team]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert all(f"credential={KEY.lower()}/" in head for head in used(gate, profile="team"))


def test_anonymous_requests_carry_no_signature(gate):
    assert not any("authorization" in head or "x-amz-signature" in head for head in used(gate, anon=True))


def test_requester_pays_in_every_request(gate):
    heads = used(gate, key=KEY, secret=SECRET, requester_pays=True)
    of_objects = [head for head in heads if "/gate" in head.split(" ")[1] or "prefix=gate" in head.split(" ")[1]]
    assert len(of_objects) > 8 and all("x-amz-request-payer: requester" in head for head in of_objects)


def test_a_file_beyond_the_limit_is_not_fetched(gate):
    source = Location("s3://photos/gate", options(gate.url))
    with pytest.raises(Exception, match="the file has 7 bytes, more than 6"):
        source.read_bytes("photos/gate/a b.png", 6)
    assert not any(head.startswith("GET /photos/gate/a") for head in gate.heads)


@pytest.mark.parametrize("what", ["input", "output", "row", "part"])
def test_a_server_that_tells_credentials_is_not_repeated(gate, what):
    gate.rule = lambda head: None if head.startswith("HEAD ") else answer("403 Forbidden", f"{KEY} with {SECRET}")
    place = Location("s3://photos/gate", options(gate.url), tries=2)
    calls = {
        "input": lambda: open_input(place),
        "output": lambda: check_writable(place),
        "row": lambda: place.read_bytes("photos/gate/a b.png"),
        "part": lambda: place.write_bytes("x", b""),
    }
    with pytest.raises((ConfigError, OSError)) as caught:
        calls[what]()
    seen = caught.value
    while seen is not None:
        assert KEY not in str(seen) and SECRET not in str(seen) and SECRET not in repr(place)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


@pytest.mark.slow
def test_an_output_that_nobody_serves_is_one_sentence():
    with socket.socket() as held:  # bound, but not listening
        held.bind(("127.0.0.1", 0))
        place = Location("s3://results/x", options(f"http://127.0.0.1:{held.getsockname()[1]}"), tries=1)
        with pytest.raises(ConfigError, match="output 's3://results/x' cannot be written: ") as caught:
            check_writable(place)
        assert "\n" not in str(caught.value)
        with pytest.raises(StorageError, match="output 's3://results/x' cannot be written: "):
            place.write_bytes("x", b"")


@pytest.mark.parametrize(
    "words",
    [
        ["--storage_options", f'{{"secret": "{SECRET}"'],
        ["--storage_options", f'["{SECRET}"]'],
        ["--storage_options", SECRET],
        [f"--storage_options_secret={SECRET}"],
        ["--storage_options_secret", SECRET],
    ],
)
def test_a_mistake_in_storage_options_does_not_show_them(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(ReconstructConfig, "", ["--input", "a", "--output", "b", *words])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert "storage_options" in shown and SECRET not in shown and shown.count("\n") == 1
