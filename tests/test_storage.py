"""Listing finds the images of any folder, writing is whole or nothing."""

import os
from pathlib import Path

import fsspec
import pytest

from raylib.errors import ConfigError
from raylib.io.storage import Location, check_writable, open_input
from raylib.io.tries import patiently
from raylib.reconstruction.folders import image_files


def fill(root: Path) -> None:
    for name in ("b.JPG", "a.png", "ä ö/ü nested.webp", "deep/er/x.heic", "notes.txt", ".hidden.png", ".h/x.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "folder.jpg").mkdir()
    (root / "folder.jpg" / "inside.gif").write_bytes(b"x")


def test_listing_is_nested_sorted_and_skips_what_is_hidden_or_no_image(tmp_path):
    fill(tmp_path)
    found = [os.path.relpath(p, tmp_path) for p in image_files(Location(str(tmp_path)))]
    assert sorted(found) == ["a.png", "b.JPG", "deep/er/x.heic", "folder.jpg/inside.gif", "ä ö/ü nested.webp"]
    assert found == [os.path.relpath(p, tmp_path) for p in image_files(Location(str(tmp_path)))]
    assert list(image_files(Location(str(tmp_path / "a.png")))) == [str(tmp_path / "a.png")]


def test_remote_listing_agrees_with_the_local_one(tmp_path):
    fill(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.rm("/listing", recursive=True) if memory.exists("/listing") else None
    memory.put(str(tmp_path) + "/", "/listing/", recursive=True)
    found = sorted(p.removeprefix("/listing/") for p in image_files(Location("memory://listing")))
    assert found == ["a.png", "b.JPG", "deep/er/x.heic", "folder.jpg/inside.gif", "ä ö/ü nested.webp"]


def test_names_that_are_not_utf8_are_found_read_and_shown(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes(b"content")
    location = Location(str(tmp_path))
    (path,) = image_files(location)
    assert location.read_bytes(path) == b"content"
    assert location.shown(path).endswith("caf\\udce9.png")
    location.shown(path).encode()  # valid UTF-8 for the table


def test_written_files_are_whole_replaced_and_leave_nothing_behind(tmp_path):
    location = Location(str(tmp_path / "new" / "deep"))
    location.write_bytes("a/b.bin", b"one")
    location.write_bytes("a/b.bin", b"two")
    assert (tmp_path / "new/deep/a/b.bin").read_bytes() == b"two"
    assert [p.name for p in (tmp_path / "new").rglob("*") if p.is_file()] == ["b.bin"]


def test_writing_below_a_file_fails_cleanly(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"):
        check_writable(Location(str(tmp_path / "file")))
    with pytest.raises(ConfigError, match="cannot be written"):
        check_writable(Location("/proc/no/such/place"))
    check_writable(Location(str(tmp_path / "fine")))
    assert list((tmp_path / "fine").iterdir()) == []


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        open_input(Location(str(tmp_path / "missing")))
    with pytest.raises(ConfigError, match="nosuchprotocol"):
        open_input(Location("nosuchprotocol://bucket/x"))


def test_locations_are_shown_as_users_write_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Location("photos").path == str(tmp_path / "photos")
    assert Location("memory://bucket/x/").join("y") == "/bucket/x/y"
    assert Location("memory://bucket").shown("/bucket/y.png") == "memory:///bucket/y.png"


def test_errors_that_may_pass_are_tried_again_and_others_are_not(monkeypatch):
    pauses = []
    monkeypatch.setattr("raylib.io.tries.time.sleep", pauses.append)

    def failing(times: int, error: Exception):
        calls = []

        def call():
            calls.append(1)
            if len(calls) <= times:
                raise error
            return len(calls)

        return call, calls

    call, _ = failing(4, OSError(16, "Please reduce your request rate."))
    assert patiently(call, 7) == 5
    assert len(pauses) == 4 and all(0.25 * 2**n <= p <= 0.5 * 2**n for n, p in enumerate(pauses))
    call, calls = failing(9, ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        patiently(call, 3)
    assert len(calls) == 3
    for error in (FileNotFoundError("gone"), PermissionError("no")):
        call, calls = failing(1, error)
        with pytest.raises(type(error)):
            patiently(call, 7)
        assert len(calls) == 1


def test_a_write_that_fails_once_is_whole_in_the_end(tmp_path, monkeypatch):
    location = Location(str(tmp_path))
    monkeypatch.setattr("raylib.io.tries.time.sleep", lambda _: None)
    replace, failures = Path.replace, [OSError(5, "Input/output error")] * 2

    def flaky(self, target):
        if failures:
            raise failures.pop()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", flaky)
    location.write_bytes("faces/a.bin", b"content")
    assert (tmp_path / "faces/a.bin").read_bytes() == b"content" and not failures
    assert list((tmp_path / ".incoming").iterdir()) == []
