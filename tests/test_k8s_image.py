"""Every line of the Dockerfile that can be checked where no container engine runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from k8s_manifests import JOBS, K8S, ROOT
from packaging.requirements import Requirement

from raylib.segmentation.segmenter import shipped_weights

HADOLINT = Path(sys.executable).with_name("hadolint")
DOCKERFILE = K8S / "Dockerfile"


@cache
def stages() -> dict[str, list[tuple[str, str]]]:
    """Returns the instructions of each stage, its own FROM first."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            name = rest.split(" AS ")[1]
            found[name] = []
        found[name].append((instruction, " ".join(rest.split())))
    return found


def lineage(name: str) -> list[tuple[str, str]]:
    """Returns a stage's instructions after those of the stages that it is made from."""
    parent = stages()[name][0][1].split(" AS ")[0]
    return (lineage(parent) if parent in stages() else []) + stages()[name]


def arguments(rest: str) -> list[str]:
    """Returns the words of a RUN in either form."""
    return list(map(str, json.loads(rest))) if rest.startswith("[") else shlex.split(rest)


def test_hadolint_has_nothing_to_say():
    done = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_say(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp && sudo apt-get install x\n")
    done = subprocess.run([HADOLINT, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "DL3004" in done.stdout


def test_each_copied_path_is_in_the_checkout_and_let_in():
    ignored = (K8S / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    copied = {
        source
        for stage in stages().values()
        for instruction, rest in stage
        if instruction == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert {"raylib", "jobs", "configs", "pyproject.toml", "requirements.lock"} <= copied
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for path in copied:
        assert any(name == path or name.startswith(f"{path}/") for name in tracked), path
        assert f"!{path}" in ignored, path
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    for instruction, rest in (line for stage in stages().values() for line in stage):
        if instruction == "COPY" and rest.startswith("--from"):
            assert rest.split()[0].removeprefix("--from=") in stages()


def test_installs_the_lock_with_the_tool_that_made_it():
    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = [r for r in map(Requirement, project["dependencies"]) if str(r.specifier).startswith("==")]
    assert {"ray", "torch", "torchvision", "easypytorch3d", "numpy"} <= {r.name for r in pinned}
    for requirement in pinned:
        version = str(requirement.specifier).removeprefix("==")
        assert re.search(rf"(?m)^{re.escape(requirement.name)}=={re.escape(version)} ", lock), requirement
    for requirement in map(Requirement, project["dependencies"]):
        versions = re.findall(rf"(?m)^{re.escape(requirement.name)}==(\S+) ", lock)
        assert versions and all(requirement.specifier.contains(version) for version in versions), requirement
    # Every package of the lock has hashes, which uv checks for constraints too.
    assert len(re.findall(r"(?m)^\S+==\S+ ", lock)) == len(re.findall(r"(?m)^\S+==\S+ .*\\\n\s+--hash=sha256:", lock))
    text = DOCKERFILE.read_text()
    (uv,) = re.findall(r"uv==(\S+)", text)
    assert f"uv=={uv}" in (ROOT / "Makefile").read_text()
    assert "--constraint requirements.lock --requirement pyproject.toml" in text
    assert "dev" not in re.findall(r"\[(\w+)\]", text)


def test_the_weights_are_package_data():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "weights/*" in data["raylib"]
    weights = shipped_weights()
    assert weights.parent == ROOT / "raylib" / "weights" and weights.stat().st_size > 10**6
    assert (weights.parent / "face_prior.safetensors").is_file()


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_final_layers_are_small_and_without_root(target):
    lines = lineage(target)
    users = [rest for instruction, rest in lines if instruction == "USER"]
    assert users == ["1000:1000"]
    packages = " ".join(rest for instruction, rest in lines if instruction == "RUN" and "apt-get" in rest)
    for tool in ("gcc", "g++", "build-essential", "cmake", "git", "-dev", "make"):
        assert tool not in packages.split("install")[1].split("&&")[0].split()
    assert "rm -rf /var/lib/apt/lists/*" in packages
    # uv and what compiles are in the stages that these copy from.
    assert all("pip install" not in rest for instruction, rest in lines if instruction == "RUN")
    copies = [rest for instruction, rest in lines if instruction == "COPY"]
    assert all(rest.startswith("--from=build") for rest in copies) and len(copies) == 2
    environment = " ".join(rest for instruction, rest in lines if instruction == "ENV")
    assert ("NVIDIA_VISIBLE_DEVICES=all" in environment) == (target == "gpu")
    assert "PATH=/opt/venv/bin:$PATH" in environment
    # A login shell, in which KubeRay may start Ray, begins with another PATH.
    assert 'echo "PATH=/opt/venv/bin:\\$PATH" > /etc/profile.d/venv.sh' in packages


@pytest.mark.slow
def test_what_the_image_imports_can_be_imported():
    """The last RUN of each target is the image's own test; here it runs against this environment."""
    checks = {t: arguments(rest) for t in ("cpu", "gpu") for word, rest in stages()[t] if word == "RUN"}
    assert checks["cpu"] == [word.replace(", triton", "") for word in checks["gpu"]] != checks["gpu"]
    python, *words = checks["gpu"]
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_first_photographs_are_made(tmp_path):
    (make,) = [rest for instruction, rest in stages()["build"] if instruction == "RUN" and rest.startswith("[")]
    _, *words = arguments(make)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, timeout=120, check=True)
    names = {path.name for path in (tmp_path / "photographs").iterdir()}
    assert "astronaut.png" in names and len(names) >= 4


@pytest.mark.parametrize("job", JOBS)
def test_entry_points_import(job):
    script = ROOT / "jobs" / f"{job.replace('-', '_')}.py"
    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and "--config" in done.stdout, done.stderr[-2000:]


def test_make_image_says_one_sentence_where_no_engine_answers(tmp_path):
    for name in ("sh", "sed", "make"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / name).symlink_to(found)
    command = ["make", "--silent", "--no-print-directory", "image"]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    first, *rest = done.stderr.splitlines()
    assert first == "make image: neither docker nor podman answers on this machine; install and start one of them"
    assert all(line.startswith("make: ***") for line in rest)


def test_make_image_takes_the_engine_that_answers(tmp_path):
    """With a stand-in for podman, since docker does not answer in this PATH: what it is told to build."""
    for name in ("sh", "sed", "make"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / name).symlink_to(found)
    (tmp_path / "podman").write_text('#!/bin/sh\n[ "$1" = info ] || echo "podman $@"\n')
    (tmp_path / "podman").chmod(0o755)
    command = ["make", "--silent", "image", "TARGET=gpu"]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert done.stdout.strip() == f"podman build --file k8s/Dockerfile --target gpu --tag physface:{version}-gpu ."
