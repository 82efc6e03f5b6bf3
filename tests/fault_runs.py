"""What the tests of faults share: photographs good and bad, runs of the job in their own process, their proof."""

import contextlib
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import trimesh
from PIL import Image, ImageEnhance

ROOT = Path(__file__).resolve().parents[1]

POISON = """
import os, time
import PIL.Image
_open = PIL.Image.open
def opened(file, *args, **kwargs):
    head = file.getvalue()[:13] if hasattr(file, "getvalue") else b""
    if head == b"poison: abort":
        os.abort()
    if head == b"poison: hangs":
        time.sleep(600)
    if head == b"poison: eater":
        grown = [bytearray(1 << 28) for _ in range(1 << 10)]
    return _open(file, *args, **kwargs)
PIL.Image.open = opened
"""
"""Makes Pillow misbehave for three kinds of bytes; found by every process that Python starts below a run."""


def make_photographs(folder: Path, astronaut: Path, count: int) -> None:
    """Writes pictures of one face that all differ in their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    face = Image.open(astronaut).convert("RGB").crop((110, 0, 350, 240))
    for n in range(count):
        picture = ImageEnhance.Brightness(face).enhance(0.8 + 0.4 * n / count)
        picture.save(folder / f"good {n:03d}.jpg", quality=90)


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG whose header promises so many pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def rows_of(output: Path) -> list[dict]:
    columns = ["image_uri", "status", "face_index", "error_message", "obj_uri", "mtl_uri", "texture_uri", "glb_uri"]
    columns += ["preview_uri", "image_sha256"]
    parts = sorted((output / "faces").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part, columns=columns).to_pylist()]


def sha256_of_files(folder: Path) -> dict[str, str]:
    """Returns the files below a folder by what they hold: bytes themselves would take pytest for ever to compare."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def assert_complete(output: Path, images: set[str]) -> dict[str, str]:
    """Asserts that each image is there once, with its files and none besides; returns the statuses."""
    rows = rows_of(output)
    faces = defaultdict(list)
    for row in rows:
        faces[row["image_uri"]].append(row["face_index"])
    assert set(faces) == images
    for uri, indices in faces.items():
        assert indices == ([None] if indices[0] is None else list(range(len(indices)))), (uri, indices)
    named = {row[column] for row in rows for column in row if column.endswith("_uri") and column != "image_uri"} - {
        None
    }
    assert {f"meshes/{name}" for name in sha256_of_files(output / "meshes")} == named
    for row in rows:
        if row["glb_uri"]:
            assert len(trimesh.load(output / row["glb_uri"]).to_mesh().faces) == 4096
        if row["obj_uri"]:
            assert len(trimesh.load(output / row["obj_uri"], process=False).faces) == 4096
    assert [p for p in output.rglob("*") if p.name.startswith(".") or p.suffix == ".tmp"] == []
    record = json.loads((output / "run.json").read_text())
    assert record["images"] == len(images)
    assert sum(record["images_by_status"].values()) == len(images)
    return {row["image_uri"]: row["status"] for row in rows}


class Run:
    """A job in a process of its own, on a Ray of its own.

    Args:
        home: folder for the log and for Ray's files, whose path must be short.
        arguments: of the job.
        env: further environment.
        job: of jobs/.
    """

    def __init__(
        self, home: Path, arguments: list[str], env: dict[str, str] | None = None, job: str = "reconstruct.py"
    ):
        home.mkdir(parents=True, exist_ok=True)
        (home / "sitecustomize.py").write_text(POISON)
        self._mark = f"fault-run-{os.getpid()}-{time.monotonic_ns()}"
        environment = os.environ | {
            "RAY_TMPDIR": str(home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": f"{home}:{ROOT}",
            "FAULT_RUN": self._mark,
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("RAY_ADDRESS", None)
        self.log = home / "run.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, f"jobs/{job}", *arguments],
                cwd=ROOT,
                env=environment | (env or {}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def below(self, word: str = "") -> list[int]:
        """Returns every process that this run started, wherever it hangs by now, with a word in its command line.

        The environment marks them, but Ray's workers write their titles over theirs: these have a marked parent.
        """
        marked, parents, lines = set(), {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    pid = int(entry.name)
                    parents[pid] = parent_of(pid)
                    lines[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if f"FAULT_RUN={self._mark}".encode() in (entry / "environ").read_bytes():
                        marked.add(pid)
        marked |= {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in marked} - marked:
            marked |= more
        return [pid for pid in sorted(marked - {self.process.pid}) if word in lines.get(pid, "")]

    def wait(self, timeout_s: float = 400) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """Kills the driver alone, as the machine's out-of-memory killer would."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> None:
        """Ends whatever is left of it."""
        self.kill()
        for pid in self.below():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def parent_of(pid: int) -> int:
    """Returns the process that a process hangs under."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for_parts(output: Path, count: int, run: Run, timeout_s: float = 240) -> bool:
    """Waits until so many parts are there; returns False if the run ended before."""
    deadline = time.monotonic() + timeout_s
    while len(list((output / "faces").glob("*.parquet"))) < count:
        if run.process.poll() is not None:
            return False
        assert time.monotonic() < deadline, run.log.read_text()[-3000:]
        time.sleep(0.02)
    return True


def wait_for_workers(run: Run, word: str, count: int = 1, timeout_s: float = 240) -> list[int]:
    """Returns the processes of the run with a word in their command line, as soon as there are so many."""
    deadline = time.monotonic() + timeout_s
    while len(found := run.below(word)) < count:
        assert run.process.poll() is None and time.monotonic() < deadline, run.log.read_text()[-3000:]
        time.sleep(0.05)
    return found
