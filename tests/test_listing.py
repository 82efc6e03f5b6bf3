"""Inputs are listed lazily, each image once, under the name that the table gives it."""

import itertools
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylib.config import ReconstructConfig
from raylib.errors import ConfigError
from raylib.reconstruction.listing import Inputs, UriSet


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name in ("a.png", "b.jpg", "team/c.jpg", "team/old/d.jpg", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def names(root, **settings) -> list[str]:
    inputs = Inputs.of(ReconstructConfig(**({"input": str(root), "output": "out"} | settings)))
    inputs.check()
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
