"""What the manifests and the image say agrees with the code: entry points, settings, pins, sizes."""

from __future__ import annotations

import re
import runpy
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from k8s_manifests import (
    JOBS,
    K8S,
    OVERLAYS,
    ROOT,
    build,
    build_with_options,
    cluster_spec,
    localized,
    named,
    nodes,
    places,
    pod_templates,
    quantity,
    words,
    write_settings,
)
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from raylib.config import ReconstructConfig
from raylib.errors import ConfigError
from raylib.reconstruction.run import config_sha256
from raylib.runtime import command as cli

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {r.name: str(r.specifier).removeprefix("==") for r in map(Requirement, PROJECT["dependencies"])}
DOCKERFILE = (K8S / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def configuration(overlay: str, job: str, folder: Path) -> Any:
    """Returns what a RayJob's own command line makes of its entry point, in the overlay's pods."""
    documents = build(overlay)
    write_settings(documents, folder)
    entrypoint = localized(named(documents, "RayJob", job)["spec"]["entrypoint"], folder)
    python, script, *arguments = words(entrypoint, places(documents))
    assert python == "python"
    return cli.parse(runpy.run_path(script)["COMMAND"].config_class, "", arguments)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("job", JOBS)
def test_the_jobs_take_their_entry_points(overlay, job, tmp_path):
    config = configuration(overlay, job, tmp_path)
    somewhere = "s3://physface-example/" if overlay != "cpu-small" else "/data/"
    target = {"reconstruct": "output", "synthesize": "output"}.get(job, "storage_path")
    assert str(getattr(config, target)).startswith(somewhere)
    if job.startswith("train-"):
        assert config.out.startswith("/data/")
        assert config.use_gpu == ("gpu" in overlay or overlay == "spot")
        assert config.max_failures >= (20 if overlay == "spot" else 1)


def test_a_wrong_argument_of_an_entry_point_is_found(tmp_path, monkeypatch, capsys):
    documents = build("cpu-small")
    job = named(documents, "RayJob", "reconstruct")
    before = job["spec"]["entrypoint"]
    monkeypatch.setitem(job["spec"], "entrypoint", before.replace("--output", "--ouput"))
    with pytest.raises(SystemExit):
        configuration("cpu-small", "reconstruct", tmp_path)
    assert "ouput" in capsys.readouterr().err


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("job", JOBS)
def test_both_shells_know_the_variables_and_quote_them(overlay, job):
    """KubeRay's submitter expands the entry point, and the shell of the job on the head does so once more."""
    documents = build(overlay)
    document = named(documents, "RayJob", job)
    entrypoint = document["spec"]["entrypoint"]
    used = set(re.findall(r"\$(\w+)", entrypoint))
    assert used and used <= places(documents).keys()
    assert re.findall(r'"\$\w+[^"]*"', entrypoint) and not re.search(r'(?<!")\$', entrypoint)
    # What the submitter's shell would take for its own.
    assert not set("`;&|<>#\n\\!") & set(entrypoint)
    for name in ("submitter", "head"):
        container = pod_templates(document)[name]["spec"]["containers"][0]
        assert {"configMapRef": {"name": "physface-places"}} in container["envFrom"]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("job", JOBS)
def test_what_entry_points_name_is_in_the_image(overlay, job):
    documents = build(overlay)
    entrypoint = named(documents, "RayJob", job)["spec"]["entrypoint"]
    settings = named(documents, "ConfigMap", "physface-settings")["data"]
    script, *configs = re.findall(r"/(?:opt|etc)/physface/(\S+)", entrypoint)
    assert script == f"jobs/{job.replace('-', '_')}.py"
    shipped, of_the_cluster = configs
    assert of_the_cluster == f"{job.replace('-', '_')}.yaml" in settings
    assert shipped.startswith("configs/")
    assert (ROOT / script).is_file() and (ROOT / shipped).is_file()
    copied = re.findall(r"^COPY (?!--from)(\S+) \S+$", DOCKERFILE, re.MULTILINE)
    assert {"jobs", "configs", "raylib"} <= set(copied)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_versions_are_the_pins(overlay, tmp_path):
    project_version = PROJECT["version"]
    target = "cpu" if overlay.startswith("cpu") else "gpu"
    for document in build_with_options(overlay, tmp_path):
        templates = pod_templates(document)
        for name, template in templates.items():
            for container in template["spec"]["containers"]:
                if name != "pod":
                    assert container["image"] == f"physface:{project_version}-{target}"
                    assert container["imagePullPolicy"] == "IfNotPresent"
        if templates.keys() > {"head"}:
            assert cluster_spec(document)["rayVersion"] == PINS["ray"] == metadata.version("ray")
    assert re.search(rf"^FROM base AS {target}$", DOCKERFILE, re.MULTILINE)


def test_python_is_the_one_that_the_lock_is_made_for():
    (version,) = re.findall(r"^ARG PYTHON_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"--python-version {version} " in MAKEFILE
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert set(re.findall(r"^FROM python:(\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_VERSION}-slim-bookworm"}


def test_make_image_builds_what_the_overlays_name():
    for target in ("cpu", "gpu"):
        done = subprocess.run(
            ["make", "--dry-run", "image", f"TARGET={target}"], cwd=ROOT, capture_output=True, text=True
        )
        assert (
            f"--file k8s/Dockerfile --target {target} --tag physface:{PROJECT['version']}-{target} ." in done.stdout
        )


ACTOR_GIB = 1.1
"""Resident memory of a process of the second kind, measured; sums of it count shared libraries more than once."""
OBJECT_STORE = 0.3
"""Share of a pod's memory that Ray keeps for objects."""


def demand(job: str, config: Any) -> list[dict[str, float]]:
    """Returns the bundles of resources that a job holds at the same time."""
    if job == "reconstruct":
        plain = {"CPU": config.cpus_per_actor, "GPU": 0.0}
        return (
            [plain | {"GPU": config.gpus_per_actor}] * config.reconstruct_actors
            + [plain] * config.detect_actors
            + [{"CPU": 0.1, "GPU": 0.0}]  # the task that lists the bucket
        )
    if job.startswith("train-"):
        gpus = getattr(config, "gpus_per_worker", 1.0) if config.use_gpu else 0.0
        # Ray Train's controller and its checkpoint tasks take no CPU of their own.
        return [{"CPU": config.cpus_per_worker, "GPU": gpus}] * config.num_workers
    assert job == "synthesize"
    return [{"CPU": config.cpus_per_actor, "GPU": 0.0}] * config.actors


def place(bundles: list[dict[str, float]], cluster: list[dict[str, int]]) -> list[dict[str, float]]:
    """Returns what is left of each node when all bundles have been placed as Ray does, those with GPUs first."""
    left = [{name: float(value) for name, value in node.items()} for node in cluster]
    for bundle in sorted(bundles, key=lambda b: -b["GPU"]):
        # Ray keeps work without a GPU off nodes that have one while others have room.
        candidates = sorted(left, key=lambda node: bundle["GPU"] == 0 and node["GPU"] > 0)
        fits = [n for n in candidates if all(n[name] >= need - 1e-9 for name, need in bundle.items())]
        assert fits, f"no node has {bundle} left: {left}"
        for name, need in bundle.items():
            fits[0][name] -= need
    return left


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("job", JOBS)
def test_actors_and_workers_fit_the_machines_and_leave_a_cpu(overlay, job, tmp_path, monkeypatch):
    config = configuration(overlay, job, tmp_path)
    spec = cluster_spec(named(build(overlay), "RayJob", job))
    cluster = nodes(spec)
    left = place(demand(job, config), cluster)
    # Without a CPU to spare Ray's own tasks wait for ever (Ray Data's stages, checkpoints), without an error.
    assert max(node["CPU"] for node in left) >= 1, left
    if job in ("reconstruct", "synthesize"):
        cpus = sum(node["CPU"] for node in cluster)
        scales = spec.get("enableInTreeAutoscaling", False)
        assert config.cluster_cpus == (cpus if scales else 0)
        # Most of what is paid for works.
        assert sum(node["CPU"] for node in left) <= 0.5 * cpus
        for node, rest, group in zip(cluster, left, _groups(spec), strict=True):
            memory = quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]) / 2**30
            actors = (node["CPU"] - rest["CPU"]) / config.cpus_per_actor
            assert actors * ACTOR_GIB + OBJECT_STORE * memory <= memory, group["groupName"]


def _groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group for group in spec["workerGroupSpecs"] for _ in range(group["maxReplicas"])]


def test_what_does_not_fit_is_found():
    node = {"CPU": 4, "GPU": 1}
    assert place([{"CPU": 1.0, "GPU": 0.5}] * 2, [node]) == [{"CPU": 2.0, "GPU": 0.0}]
    for bundles in ([{"CPU": 3.0, "GPU": 0.0}] * 3, [{"CPU": 1.0, "GPU": 0.6}] * 3, [{"CPU": 5.0, "GPU": 0.0}]):
        with pytest.raises(AssertionError, match="no node has"):
            place(bundles, [node, node])


def test_networks_on_a_gpu_are_another_run():
    """Labels from bfloat16 and from float32 differ at some borders: rows of both must not mix."""
    on_cpu, on_gpu = ReconstructConfig("a", "b"), ReconstructConfig("a", "b", gpus_per_actor=0.5)
    assert config_sha256(on_cpu, "x") == config_sha256(ReconstructConfig("a", "b", cluster_cpus=9), "x")
    assert config_sha256(on_cpu, "x") != config_sha256(on_gpu, "x")
    for wrong in ({"gpus_per_actor": 1.5}, {"cluster_cpus": -1}):
        with pytest.raises(ConfigError):
            ReconstructConfig("a", "b", **wrong)


def test_settings_are_changes_only():
    """Defaults live in the code; a settings file says only what the cluster's size asks for."""
    for path in [*K8S.glob("base/settings/*.yaml"), *K8S.glob("components/*/*.yaml")]:
        if path.name in ("kustomization.yaml", "raycronjob.yaml", "redis.yaml"):
            continue
        values = yaml.safe_load(path.read_text()) or {}
        assert not {"input", "output", "name", "storage_path", "out", "storage_options"} & values.keys(), path
