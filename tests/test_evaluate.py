import subprocess
import sys
from pathlib import Path

import pytest

from raylib.config import EvaluateSegmentationConfig
from raylib.runtime.command import Command, main_with_commands

ROOT = Path(__file__).parent.parent


def test_the_first_word_chooses_the_job_and_the_rest_are_its_options(monkeypatch):
    seen = []

    def run(config: EvaluateSegmentationConfig) -> int:
        seen.append(config)
        return 3

    monkeypatch.setattr(
        sys, "argv", ["evaluate.py", "segmentation", "--out", "x", "--data.fasseg=y", "--occlusion=0.2"]
    )
    with pytest.raises(SystemExit) as stop:
        main_with_commands({"segmentation": Command(run, EvaluateSegmentationConfig, "", print)})
    assert stop.value.code == 3
    here = Path.cwd()
    assert (seen[0].out, seen[0].data.fasseg, seen[0].occlusion) == (str(here / "x"), str(here / "y"), 0.2)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "no command given, expected one of ['segmentation', 'shape"),
        (["shapely"], 2, "command is 'shapely', expected one of"),
        (["--help"], 0, "segmentation   face segmentation against labelled photographs"),
        (["--help"], 0, "shape          reconstructed meshes against known faces or scans"),
        (["shape", "--out=x", "--truth=y"], 2, "holds no known faces, expected Parquet files"),
        (["segmentation"], 2, "out"),
        (["segmentation", "--out=x", "--occlusion=0.9"], 2, "occlusion is 0.9, expected a share from 0 to 0.5"),
        (["segmentation", "--out=x"], 2, "data names no folder"),
    ],
)
def test_mistakes_are_one_sentence(words, code, message, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs/evaluate.py"), *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
