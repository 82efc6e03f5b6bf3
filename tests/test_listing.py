"""Inputs are listed lazily, each image once, under the name that the table gives it."""

import itertools
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylib.config import ReconstructConfig
from raylib.errors import ConfigError, ImageError
from raylib.io.storage import Location
from raylib.reconstruction.listing import Inputs, UriSet

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name in ("a.png", "b.jpg", "team/c.jpg", "team/old/d.jpg", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def names(root, **settings) -> list[str]:
    inputs = Inputs.of(ReconstructConfig(**({"input": str(root), "output": "out"} | settings))).checked()
    return [inputs.shown(item).removeprefix(f"{root}/") for item in inputs.items()]


def test_patterns_match_the_path_below_the_input(photos):
    assert names(photos) == ["a.png", "b.jpg", "team/c.jpg", "team/old/d.jpg"]
    assert names(photos, include="*.jpg") == ["b.jpg", "team/c.jpg", "team/old/d.jpg"]
    assert names(photos, include=["a*", "team/*"], exclude="*/old/*") == ["a.png", "team/c.jpg"]
    with pytest.raises(ConfigError, match=r"holds no image file .* that include and exclude let through"):
        names(photos, include="*.webp")


def test_overlapping_inputs_name_an_image_once(photos):
    both = [str(photos / "team"), str(photos), str(photos / "a.png")]
    assert names(photos, input=both) == ["team/c.jpg", "team/old/d.jpg", "a.png", "b.jpg"]


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_manifests_in_every_format(photos, kind):
    entries = [
        "photos/b.jpg",
        str(photos / "team/c.jpg"),
        "photos/b.jpg",
        "photos/gone.jpg",
        f"file://{photos}/a.png",
    ]
    path = photos.parent / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"image_uri": entries, "n": range(5)}), path)
    elif kind == "csv":
        path.write_text("n,image_uri\n" + "".join(f'{n},"{entry}"\n' for n, entry in enumerate(entries)))
    else:
        path.write_text("\n".join(entries) + "\n\n")
    assert names(photos, input=str(path)) == ["b.jpg", "team/c.jpg", "gone.jpg", "a.png"]
    inputs = Inputs.of(ReconstructConfig(str(path), "out"))
    contents = []
    for item in inputs.items():
        location, place = inputs.resolve(item)
        if not place.endswith("gone.jpg"):
            contents.append(location.read_bytes(place))
    assert contents == [b"b.jpg", b"team/c.jpg", b"a.png"]


def test_a_manifest_without_the_column_is_one_sentence(photos):
    path = photos.parent / "list.csv"
    path.write_text("file\nphotos/a.png\n")
    with pytest.raises(ConfigError, match="has columns file, expected 'image_uri'"):
        names(photos, input=str(path))
    assert names(photos, input=str(path), manifest_column="file") == ["a.png"]
    (photos.parent / "broken.parquet").write_bytes(b"not a table")
    with pytest.raises(ConfigError, match=r"broken\.parquet' cannot be read"):
        names(photos, input=str(photos.parent / "broken.parquet"))


def test_hidden_names_are_the_same_each_time_and_say_nothing(photos):
    hidden = names(photos, hide_names=True)
    assert hidden == names(photos, hide_names=True) and len(set(hidden)) == 4
    assert all(name.startswith("sha256:") and "photos" not in name for name in hidden)


def test_a_set_of_uris_holds_what_a_set_of_strings_holds():
    numbers = random.Random(1)
    ours, plain = UriSet(), set()
    for _ in range(200_000):
        uri = f"s3://bucket/{numbers.randrange(150_000)}.jpg"
        assert ours.add(uri) == (uri not in plain)
        plain.add(uri)
    assert len(ours) == len(plain)
    assert all(f"s3://bucket/{n}.jpg" in ours for n in range(150_000) if f"s3://bucket/{n}.jpg" in plain)
    assert not any(f"s3://bucket/x{n}.jpg" in ours for n in range(1000))


@pytest.mark.slow
def test_listing_a_bucket_takes_no_memory_for_its_keys(monkeypatch):
    """200,000 keys come in pages; what is held at any time is about one page."""
    inputs = Inputs.of(ReconstructConfig("s3://bucket/faces", "out", storage_options={"anon": True}))
    filesystem = inputs.locations[0].filesystem
    asked = []
    count = 200_000

    def call_s3(method, *args, Bucket, Prefix, ContinuationToken="0", **kwargs):
        assert (method, Bucket, Prefix) == ("list_objects_v2", "bucket", "faces/")
        start = int(ContinuationToken)
        asked.append(start)
        keys = [{"Key": f"faces/{n // 100:05d}/{n:08d}.jpg", "Size": 0} for n in range(start, start + 1000)]
        return {"Contents": keys, "IsTruncated": start + 1000 < count, "NextContinuationToken": str(start + 1000)}

    monkeypatch.setattr(filesystem, "call_s3", call_s3)
    monkeypatch.setattr(filesystem, "isfile", lambda path: False)
    assert len(list(itertools.islice(inputs.items(), 1500))) == 1500
    assert asked == [0, 1000]  # no further than asked for
    peaks = []
    for count in (10_000, 200_000):
        tracemalloc.start()
        try:
            assert sum(1 for _ in inputs.items()) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 20)  # the keys alone would be 15 MiB


def passed(root, **settings) -> Counter:
    counter = Counter()
    inputs = Inputs.of(ReconstructConfig(**({"input": str(root), "output": "out"} | settings))).checked()
    list(inputs.items(counter))
    return counter


def test_what_is_passed_over_is_counted_by_reason(photos):
    (photos / ".thumbnails").mkdir()
    (photos / ".thumbnails" / "a.png").write_bytes(b"")
    (photos / ".b.png").write_bytes(b"")
    (photos / "README").write_bytes(b"")
    assert passed(photos, exclude="team/*") == {
        "hidden": 2,
        "no image (.txt)": 1,
        "no image (no suffix)": 1,
        "kept out by include or exclude": 2,
    }
    many = photos / "many"
    many.mkdir()
    for n in range(200):
        (many / f"x.{n}").write_bytes(b"")
    counted = passed(photos)
    assert len(counted) <= 51 and counted.total() == 2 + 2 + 200


def test_patterns_ignore_case(photos):
    (photos / "TEAM.PNG").write_bytes(b"")
    assert names(photos, include="*.png") == ["TEAM.PNG", "a.png"]
    assert names(photos, include="team*.PnG") == ["TEAM.PNG"]
    assert names(photos, exclude=["TEAM/*", "*.PNG"]) == ["b.jpg"]


def test_links_are_followed_and_loops_end(photos, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "e.jpg").write_bytes(b"e")
    (photos / "album").symlink_to(tmp_path / "elsewhere")
    (photos / "team" / "again").symlink_to(photos / "team")
    (photos / "team" / "up").symlink_to("..")
    (photos / "itself").symlink_to(photos / "itself")
    (photos / "linked.png").symlink_to(photos / "a.png")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    found = names(photos)
    assert found == ["a.png", "b.jpg", "gone.png", "linked.png", "album/deep/e.jpg", "team/c.jpg", "team/old/d.jpg"]
    assert passed(photos)["folder reached twice"] == 2
    assert names(tmp_path / "photos" / "album") == ["deep/e.jpg"]


def test_a_folder_that_cannot_be_read_is_a_row(photos):
    """As an ordinary user: root reads everything."""
    for name in ("locked", "team/old"):
        (photos / name).mkdir(exist_ok=True)
        (photos / name).chmod(0)
    program = """if True:
        import json, os, sys
        from raylib.config import ReconstructConfig
        from raylib.reconstruction.listing import Inputs

        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        inputs = Inputs.of(ReconstructConfig(sys.argv[1], "out")).checked()
        rows = []
        for item in inputs.items():
            location, path = inputs.resolve(item)
            try:
                location.read_bytes(path)
                rows.append([inputs.shown(item), "read"])
            except Exception as error:
                rows.append([inputs.shown(item), type(error).__name__])
        print(json.dumps(rows))
    """
    try:
        rows = json.loads(as_ordinary_user(program, photos))
        told = {uri.removeprefix(f"{photos}/"): what for uri, what in rows}
        assert told == {
            "a.png": "read",
            "b.jpg": "read",
            "team/c.jpg": "read",
            "locked/": "PermissionError",
            "team/old/": "PermissionError",
        }
        refused = as_ordinary_user(program, photos / "locked")
        assert "ConfigError: input" in refused and "cannot be listed: Permission denied" in refused
    finally:
        for name in ("locked", "team/old"):
            (photos / name).chmod(0o755)


def as_ordinary_user(program: str, argument: Path) -> str:
    """Runs a program that leaves root's rights, and returns what it prints."""
    for folder in [argument, *argument.parents]:  # pytest's own folders are for their owner alone
        if os.getuid() == 0 and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)
    command = [sys.executable, "-c", program, str(argument)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout or done.stderr


def run_of(folder: Path, finished: bool = True) -> None:
    """Lays what a run leaves behind: pictures, rows, and run.json if it came to its end."""
    face = "0123456789abcdef"
    for name in (f"meshes/{face}/{face}-0.png", f"meshes/{face}/{face}-0-preview.png", "faces/part-1.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    if finished:
        (folder / "report-data").mkdir()
        (folder / "report-data" / "photo.jpg").write_bytes(b"x")
        (folder / "run.json").write_text(json.dumps({"job": "reconstruct", "versions": {"physface": "1"}}))


def test_the_output_is_never_listed_wherever_it_lies_inside_the_input(photos, tmp_path):
    everything = names(photos)
    for output in (photos / "out", photos / "team" / "old" / "results", tmp_path / "linked"):
        run_of(output, finished=False)
        assert names(photos, output=str(output)) == everything
        shutil.rmtree(output)
    run_of(tmp_path / "far")
    (photos / "here").symlink_to(tmp_path / "far")
    assert names(photos, output=str(tmp_path / "far")) == everything
    assert passed(photos, output=str(tmp_path / "far"))["this run's output"] == 1


def test_what_other_runs_wrote_is_passed_over(photos):
    everything = names(photos)
    run_of(photos / "yesterday")
    run_of(photos / "team" / "killed", finished=False)
    assert names(photos) == everything
    assert passed(photos)["another run's output"] == 4  # two folders, two pictures of the killed run
    run_of(photos)  # a run whose input lay inside its output
    assert names(photos) == everything
    (photos / "other").mkdir()
    (photos / "other" / "run.json").write_text('{"job": "somebody else\'s"}')
    (photos / "other" / "meshes").mkdir()
    (photos / "other" / "meshes" / "e.png").write_bytes(b"")
    (photos / "trained").mkdir()
    (photos / "trained" / "run.json").write_text(json.dumps({"versions": {"physface": "1"}}))
    (photos / "trained" / "curve.png").write_bytes(b"")
    assert [name for name in names(photos) if name not in everything] == ["other/meshes/e.png"]


def test_an_input_inside_the_output_is_listed(photos):
    assert names(photos / "team", output=str(photos)) == ["c.jpg", "old/d.jpg"]
    run_of(photos)
    assert names(photos / "team", output=str(photos)) == ["c.jpg", "old/d.jpg"]


@pytest.mark.parametrize("output", ["photos", "./photos/", "photos/team/..", "link", "file://{root}/photos"])
def test_input_and_output_in_one_place_are_one_sentence(photos, monkeypatch, output):
    monkeypatch.chdir(photos.parent)
    (photos.parent / "link").symlink_to(photos)
    output = output.format(root=photos.parent)
    with pytest.raises(ConfigError, match="input and output are both"):
        Inputs.of(ReconstructConfig("photos", output))
    with pytest.raises(ConfigError, match="input and output are both 's3://bucket/x'"):
        Inputs.of(ReconstructConfig("s3://bucket/x", "s3://bucket/x/"))


def test_a_bucket_with_the_output_inside(tmp_path):
    filesystem = Location("memory://").filesystem
    name = tmp_path.name
    face = "0123456789abcdef"
    record = json.dumps({"job": "reconstruct", "versions": {"physface": "1"}}).encode()
    for path, content in {
        "a.png": b"",
        "old/meshes/x/b.png": b"",
        "old/run.json": record,
        f"killed/meshes/{face}/{face}-3-preview.png": b"",
        "out/meshes/b.png": b"",
        "out/c.png": b"",
        "outside/d.png": b"",
    }.items():
        filesystem.pipe_file(f"/{name}/{path}", content)
    found = names(f"memory://{name}", output=f"memory://{name}/out")
    assert [uri.partition(name)[2] for uri in found] == ["/a.png", "/outside/d.png"]
    assert passed(f"memory://{name}", output=f"memory://{name}/out") == {
        "this run's output": 1,
        "another run's output": 2,
        "no image (.json)": 1,
    }


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "ndjson", "parts"])
def test_lists_that_people_have(photos, kind):
    entries = ["a.png", "./b.jpg", "b.jpg", None, "team/../team/c.jpg", str(photos / "team//old/d.jpg")]
    path = photos / ("table.parquet" if kind == "parts" else f"list.{kind}")
    if kind == "tsv":
        path.write_text("image_uri\tlabel\n" + "".join(f"{entry or ''}\t1\n" for entry in entries))
    elif kind == "parts":  # as Spark writes them
        path = photos.parent / path.name
        path.mkdir()
        for n, entry in enumerate(entries):
            entry = entry if entry is None or entry.startswith("/") else f"../photos/{entry}"
            part = pa.table({"image_uri": pa.array([entry], pa.large_string()).dictionary_encode()})
            pq.write_table(part, path / f"part-{n:03d}.parquet")
        (path / "_SUCCESS").write_bytes(b"")
    else:
        lines = [json.dumps({"image_uri": entry} if n % 2 else entry) for n, entry in enumerate(entries)]
        path.write_text("\n".join(lines) + "\n")
    assert names(path) == [str(photos / name) for name in ("a.png", "b.jpg", "team/c.jpg", "team/old/d.jpg")]
    assert passed(path) == {"listed twice": 1, "manifest entry without a path": 1}


def test_pictures_inside_parquet_are_read(tmp_path):
    contents = [bytes([n]) * (n + 1) for n in range(7)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pictures = pa.array([{"bytes": content, "path": None} for content in contents], kind)
    pq.write_table(pa.table({"image": pictures, "label": range(7)}), tmp_path / "a.parquet", row_group_size=3)
    for source in (tmp_path / "a.parquet", tmp_path):
        inputs = Inputs.of(ReconstructConfig(str(source), "out", manifest_column="image")).checked()
        items = list(inputs.items())
        read = []
        for item in items:
            location, path = inputs.resolve(item)
            read.append(location.read_bytes(path))
        assert read == contents
        shown = [inputs.shown(item) for item in items]
        assert shown == [f"{tmp_path}/a.parquet#image[{n}]" for n in range(7)]
        again = Location(shown[4])  # a row leads back to its picture
        assert again.read_bytes(again.path) == contents[4]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("list.parquet", pa.table({"image_uri": pa.array([b"a.png"])}), "holds binary, expected texts"),
        ("list.parquet", pa.table({"image_uri": [1, 2]}), "holds int64, expected texts"),
        ("list.parquet", pa.table({"image_uri": [["a.png"]]}), "holds list<.*>, expected texts"),
        ("list.parquet", pa.table({"image_uri": [{"path": "a.png"}]}), "holds struct<path: string>, expected texts"),
        ("list.jsonl", b'{"image_uri": 3}\n', "line 1 .* holds int as 'image_uri', expected a text"),
        ("list.jsonl", b"{broken\n", "list.jsonl' cannot be read: Expecting property name"),
        ("list.jsonl", b'{"file": "a.png"}\n', "has columns file, expected 'image_uri'"),
        ("list.csv", b"\x00\x01", "has columns .*, expected 'image_uri'"),
        ("page.html", b"<html><body>not found</body></html>", "neither an image nor a list of images"),
        ("notes.docx", b"PK\x03\x04 and more", "neither an image nor a list of images"),
        ("faces.tar.gz", b"\x1f\x8b\x08 and more", "neither an image nor a list of images"),
        ("broken.zip", b"PK nonsense", "cannot be reached|cannot be read|cannot be listed"),
    ],
)
def test_what_is_no_list_of_images_is_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content, path)
    with pytest.raises(ConfigError, match=sentence) as refused:
        names(path)
    assert name in str(refused.value) and "\n" not in str(refused.value)


def test_an_image_is_known_by_its_content_where_the_name_says_nothing(tmp_path, photographs):
    for name in ("portrait", "portrait.part", "download.php"):
        shutil.copy(photographs / "astronaut.png", tmp_path / name)
        assert names(tmp_path / name) == [str(tmp_path / name)]


def test_images_of_archives_are_told_apart_and_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one.zip", "two.zip"):
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("0001.png", name)
            archive.writestr("deep/0002.png", name)
            archive.writestr("__MACOSX/._0001.png", "")
    with tarfile.open("three.tar", "w") as archive:
        archive.add("one.zip", "0001.png")
    expected = {
        f"zip://{inside}::{tmp_path}/{name}": name
        for name in ("one.zip", "two.zip")
        for inside in ("0001.png", "deep/0002.png")
    }
    for given in (
        ["one.zip", "./two.zip"],
        ["zip://::one.zip", f"zip://::{tmp_path}/two.zip", "zip://deep::two.zip"],
    ):
        inputs = Inputs.of(ReconstructConfig(given, "out")).checked()
        read = {}
        for item in inputs.items():
            location, path = inputs.resolve(item)
            read[inputs.shown(item)] = location.read_bytes(path).decode()
        assert read == expected
        for uri, content in read.items():  # a row leads back to its picture
            assert Location(uri).read_bytes(Location(uri).path).decode() == content
    assert names("three.tar") == [f"tar://0001.png::{tmp_path}/three.tar"]
    Path("album").mkdir()
    shutil.move("one.zip", "album/a.png")
    assert names("simplecache::album") == [f"simplecache::{tmp_path}/album/a.png"]


def test_manifest_entries_of_every_kind(photos, tmp_path, monkeypatch):
    with zipfile.ZipFile(photos / "z.zip", "w") as archive:
        archive.writestr("a.png", "zipped")
    entries = ["zip://a.png::z.zip", "~/mine.png", "C:\\photos\\a.png", "c:/photos/a.png", "file://b.jpg", "b.jpg"]
    entries += [r"\\server\share\a.png", "https://host/a.png", "s3://bucket/./a.png"]
    (photos / "list.txt").write_text("\n".join(entries))
    monkeypatch.setenv("HOME", "/home/somebody")
    inputs = Inputs.of(ReconstructConfig(str(photos / "list.txt"), "out")).checked()
    monkeypatch.setenv("HOME", "/home/worker")  # what another process has
    monkeypatch.chdir(tmp_path)
    inputs = pickle.loads(pickle.dumps(inputs))
    assert [inputs.shown(item) for item in inputs.items()] == [
        f"zip://a.png::{photos}/z.zip",
        "/home/somebody/mine.png",
        "C:\\photos\\a.png",
        "c:/photos/a.png",
        f"{photos}/b.jpg",
        r"\\server\share\a.png",
        "https://host/a.png",
        "s3://bucket/./a.png",
    ]
    location, path = inputs.resolve((0, "C:\\photos\\a.png"))
    with pytest.raises(ImageError, match="a path of a Windows machine"):
        location.read_bytes(path)


def test_inputs_mean_the_same_in_another_process(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    inputs = Inputs.of(ReconstructConfig([".", "./team", "a.png", "./a.png", "file://a.png"], "out")).checked()
    here = [inputs.shown(item) for item in inputs.items()]
    assert here == [str(photos / name) for name in ("a.png", "b.jpg", "team/c.jpg", "team/old/d.jpg")]
    monkeypatch.chdir(tmp_path)
    there = pickle.loads(pickle.dumps(inputs))
    assert [there.shown(item) for item in there.items()] == here
    assert there.output.path == str(photos / "out")
