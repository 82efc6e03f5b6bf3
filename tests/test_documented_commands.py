"""The commands of README.md and docs/bulk.md, line by line, as somebody types them: with a fresh home, from another
folder, and with no variable set that the documents do not set."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
pytestmark = pytest.mark.slow


def commands(document: str, heading: str) -> list[str]:
    """Returns the shell lines of a section: indented or fenced, comments left out, continued lines joined."""
    section = (ROOT / document).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    fenced = "".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL))
    lines = fenced.splitlines() or [line[4:] for line in section.splitlines() if line.startswith("    ")]
    joined = "\n".join(lines).replace("\\\n", " ")
    stripped = (re.sub(r"\s+#.*", "", line) for line in joined.splitlines())
    return [line for line in stripped if line.strip() and not line.startswith("#")]


@pytest.fixture
def user(tmp_path, photographs):
    """Function that runs lines in one shell, as on a machine of one's own: no other Ray is seen, and none is left."""
    home, folder = tmp_path / "home", tmp_path / "somewhere"
    for path in (home, folder / "photographs", tmp_path / "tmp-ray"):
        path.mkdir(parents=True)
    for name in ("astronaut.png", "coffee.png"):
        shutil.copy(photographs / name, folder / "photographs")
    alone = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"] if os.getuid() == 0 else []
    if alone and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode != 0:
        alone = []
    if not alone:
        pytest.skip(
            "needs namespaces of its own, which the tests may not make here: other tests' Ray would be joined"
        )
    Path("/tmp/ray").mkdir(exist_ok=True)
    prepare = f"mount --bind {tmp_path / 'tmp-ray'} /tmp/ray; ip link set lo up\n"

    def run(lines: list[str], cwd: Path = folder) -> str:
        script = prepare + "set -e\n" + "\n".join(lines)
        env = {"HOME": str(home), "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run(
            [*alone, "bash", "-c", script], cwd=cwd, env=env, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run.folder = folder
    return run


def test_the_first_lines_of_the_readme(user):
    (reconstruct, report) = re.findall(
        r"^\| `(python jobs/(?:reconstruct|report)\.py [^`]*)`", (ROOT / "README.md").read_text(), re.M
    )
    here = [line.replace("jobs/", f"{ROOT}/jobs/") for line in (reconstruct, report)]
    (query,) = [line for line in commands("README.md", "Reconstruct a folder or bucket") if line.startswith("duckdb")]
    told = user(here)
    record = json.loads((user.folder / "out" / "run.json").read_text())
    assert record["images_by_status"] == {"ok": 1, "no_face": 1} and "report.html" in told
    select = re.search('"(.*)"', query)[1].replace("out/", f"{user.folder}/out/")
    assert dict(duckdb.sql(select).fetchall()) == {"ok": 1, "no_face": 1}


@pytest.mark.parametrize(("document", "heading"), [("README.md", "Jobs"), ("docs/bulk.md", "Three ways to run")])
def test_through_the_job_queue(user, document, heading):
    """The lines from `export` to the first submission; bucket names become folders, all else is as it stands."""
    lines = commands(document, heading)
    first = next(n for n, line in enumerate(lines) if line.startswith("export RAY_AUTH_MODE"))
    last = next(n for n, line in enumerate(lines) if line.startswith("ray job submit"))
    (source, target) = re.findall(r"s3://\S+", lines[last])
    submit = (
        lines[last].replace(source, str(user.folder / "photographs")).replace(target, str(user.folder / "queued"))
    )
    user([*lines[first:last], submit], cwd=ROOT)
    record = json.loads((user.folder / "queued" / "run.json").read_text())
    assert record["images_by_status"] == {"ok": 1, "no_face": 1}
