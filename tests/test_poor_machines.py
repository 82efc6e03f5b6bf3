"""The job where much is missing: room, rights, memory that is shared, processors, letters; and beside another job."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
JOB = [sys.executable, str(ROOT / "jobs" / "reconstruct.py"), "--faces.detector", "hog", "--write-preview", "false"]
SETUP = "mount --bind {ray} /tmp/ray; ip link set lo up; "
ALONE = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def shell(tmp_path, photographs):
    """Function that runs a script in namespaces of its own, and returns the finished process."""
    if os.getuid() != 0 or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs namespaces of its own, which the tests may not make here")
    (tmp_path / "in").mkdir()
    (tmp_path / "ray").mkdir()
    Path("/tmp/ray").mkdir(exist_ok=True)
    for name in ("astronaut.png", "coffee.png"):
        shutil.copy(photographs / name, tmp_path / "in")
    for folder in [tmp_path, *tmp_path.parents]:  # pytest's own folders are for their owner alone
        if folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)

    def run(script: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ALONE, "bash", "-c", SETUP.format(ray=tmp_path / "ray") + script],
            cwd=tmp_path,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT)} | env,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )

    return run


def statuses(output: Path) -> dict[str, int]:
    return json.loads((output / "run.json").read_text())["images_by_status"]


def words(*more: object) -> str:
    return " ".join(f"'{word}'" for word in (*JOB, *more))


def test_an_ordinary_user_with_hardly_anything(shell, tmp_path):
    """Who owns nothing but the output and a temporary folder with a long name."""
    temporary = tmp_path / ("t" * (75 - len(str(tmp_path)) - 1))
    for folder in (temporary, tmp_path / "out"):
        folder.mkdir()
        os.chown(folder, 65534, 65534)
    # The interpreter may lie below a closed home: everything can be read, nothing of others' be written.
    reads = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
    user = f"setpriv --reuid=65534 --regid=65534 --clear-groups {reads}"
    done = shell(
        "mount -t tmpfs -o size=8m,mode=1777 tmpfs /dev/shm; ulimit -n 256; "
        f"{user} taskset -c 0 {words('--input', 'in', '--output', tmp_path / 'out')}",
        HOME="/proc/none",
        TMPDIR=str(temporary),
        LC_ALL="C",
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert statuses(tmp_path / "out") == {"ok": 1, "no_face": 1}
    assert "Traceback" not in done.stdout + done.stderr


def test_a_full_disk_is_one_sentence_and_two_jobs_at_once_do_not_meet(shell, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "home").mkdir()
    full = words("--input", "in", "--output", "small")
    done = shell(f"mount -t tmpfs -o size=200k tmpfs small; {full}", HOME=str(tmp_path / "home"))
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    assert "No space left on device" in last and "the same command goes on" in last
    assert "Traceback" not in done.stdout + done.stderr
    both = " & ".join(f"({words('--input', 'in', '--output', name)}; echo {name} $?)" for name in ("a", "b"))
    done = shell(f"{both} & wait", HOME=str(tmp_path / "home"))
    assert {"a 0", "b 0"} <= set(done.stdout.splitlines()), done.stdout[-3000:] + done.stderr[-3000:]
    assert statuses(tmp_path / "a") == statuses(tmp_path / "b") == {"ok": 1, "no_face": 1}
