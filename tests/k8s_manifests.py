"""What the tests of k8s/ share: built overlays, schemas, and what the operator does with a manifest."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "k8s"
OVERLAYS = tuple(sorted(path.name for path in (K8S / "overlays").iterdir()))
OPTIONS = ("gcs-redis", "nightly")
"""Components that an overlay can add after `assemble`."""
JOBS = ("reconstruct", "synthesize", "train-meshnet", "train-unet")
KUBECTL = Path(sys.executable).with_name("kubectl")

Manifest = dict[str, Any]


@cache
def build(overlay: str) -> tuple[Manifest, ...]:
    """Returns the objects that `kubectl apply -k` would send for an overlay."""
    return kustomize(K8S / "overlays" / overlay)


def kustomize(folder: Path) -> tuple[Manifest, ...]:
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", f"kustomize warns: {done.stderr}"
    return tuple(yaml.safe_load_all(done.stdout))


def build_with_options(overlay: str, folder: Path) -> tuple[Manifest, ...]:
    """Returns an overlay's objects with every option added, as README tells to."""
    shutil.copytree(K8S, folder / "k8s")
    path = folder / "k8s" / "overlays" / overlay / "kustomization.yaml"
    path.write_text(path.read_text() + "".join(f"  - ../../components/{name}\n" for name in OPTIONS))
    return kustomize(path.parent)


def named(documents: tuple[Manifest, ...], kind: str, name: str) -> Manifest:
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def cluster_spec(document: Manifest) -> Manifest:
    """Returns the RayCluster specification within any of KubeRay's kinds."""
    spec = document["spec"]
    if document["kind"] == "RayCronJob":
        spec = spec["jobTemplate"]
    return spec if document["kind"] == "RayCluster" else spec["rayClusterSpec"]


def pod_templates(document: Manifest) -> dict[str, Manifest]:
    """Returns every pod template of an object by the name of its part."""
    if document["kind"] == "StatefulSet":
        return {"pod": document["spec"]["template"]}
    if document["kind"] not in ("RayCluster", "RayJob", "RayCronJob"):
        return {}
    spec = cluster_spec(document)
    found = {"head": spec["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    if document["kind"] != "RayCluster":
        job = document["spec"].get("jobTemplate", document["spec"])
        found["submitter"] = job["submitterPodTemplate"]
    return found


def walk(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yields every value within a document with its path."""
    yield path, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from walk(child, (*path, key))


def places(documents: tuple[Manifest, ...]) -> dict[str, str]:
    """Returns the variables that the pods' shells fill into entry points."""
    return dict(named(documents, "ConfigMap", "physface-places")["data"])


def write_settings(documents: tuple[Manifest, ...], folder: Path, changes: dict[str, Manifest] | None = None) -> None:
    """Writes the files that pods see in /etc/physface, with further keys on top of some."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in named(documents, "ConfigMap", "physface-settings")["data"].items():
        values = (yaml.safe_load(text) or {}) | (changes or {}).get(name, {})
        (folder / name).write_text(yaml.safe_dump(values))


def localized(entrypoint: str, settings: Path) -> str:
    """Returns an entry point that finds the image's folders on this machine."""
    return entrypoint.replace("/opt/physface", str(ROOT)).replace("/etc/physface", str(settings))


def words(entrypoint: str, variables: dict[str, str]) -> list[str]:
    """Returns the words of an entry point as a shell with these variables sees them."""
    return [string.Template(word).substitute(variables) for word in shlex.split(entrypoint)]


def quantity(text: str | int) -> float:
    """Returns a Kubernetes quantity as a number."""
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    assert match, text
    units = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(match[1]) * units[match[2]]


def ray_resources(group: Manifest) -> dict[str, int]:
    """Returns what a pod of a group tells Ray that it has: its limits, rounded up, where nothing else is given."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    given = group.get("rayStartParams", {})
    return {
        "CPU": int(given.get("num-cpus", math.ceil(quantity(limits["cpu"])))),
        "GPU": int(given.get("num-gpus", quantity(limits.get("nvidia.com/gpu", 0)))),
    }


def nodes(spec: Manifest, most: bool = True) -> list[dict[str, int]]:
    """Returns the Ray nodes of a cluster besides its head, at its largest or as it starts."""
    count = "maxReplicas" if most else "replicas"
    return [ray_resources(group) for group in spec["workerGroupSpecs"] for _ in range(group[count])]
