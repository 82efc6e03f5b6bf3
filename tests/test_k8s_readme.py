"""The commands of k8s/README.md do what it says, against a stand-in for the API server that takes what it is sent."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from k8s_manifests import K8S, KUBECTL, OPTIONS, OVERLAYS, ROOT, build, kustomize, named, places, pod_templates

README = (K8S / "README.md").read_text()
KINDS = {
    "v1": {
        "Namespace": "namespaces",
        "ServiceAccount": "serviceaccounts",
        "ConfigMap": "configmaps",
        "PersistentVolumeClaim": "persistentvolumeclaims",
    },
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "ray.io/v1": {"RayCluster": "rayclusters", "RayJob": "rayjobs"},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line]


class _ApiServer(BaseHTTPRequestHandler):
    """Knows the kinds, holds nothing, and takes whatever is created."""

    created: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, value: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        version = path.removeprefix("apis/").removeprefix("api/")
        if path == "api":
            self._answer({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "apis":
            groups = [
                {"name": name.split("/")[0], "versions": [{"groupVersion": name, "version": "v1"}]}
                for name in KINDS
                if "/" in name
            ]
            self._answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        elif version in KINDS:
            resources = [
                {"name": plural, "kind": kind, "namespaced": kind != "Namespace", "verbs": ["create", "get", "patch"]}
                for kind, plural in KINDS[version].items()
            ]
            self._answer({"kind": "APIResourceList", "groupVersion": version, "resources": resources})
        else:
            self._answer({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}, 404)

    def do_POST(self) -> None:
        value = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.created.append(value)
        self._answer(value, 201)


@pytest.fixture
def api_server(tmp_path, monkeypatch) -> Iterator[list[dict[str, Any]]]:
    """What kubectl creates from here on."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ApiServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": address}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": ""}}],
        "current-context": "here",
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps what it learns of a server there
    _ApiServer.created.clear()
    yield _ApiServer.created
    server.shutdown()
    server.server_close()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of k8s/ with the overlay that README writes."""
    shutil.copytree(K8S, tmp_path / "k8s")
    (own,) = blocks("yaml")
    (tmp_path / "k8s" / "overlays" / "mine").mkdir()
    (tmp_path / "k8s" / "overlays" / "mine" / "kustomization.yaml").write_text(own)
    return tmp_path


def _apply_commands() -> list[str]:
    found = [command for command in commands() if command.startswith("kubectl apply")]
    assert len(found) == 3
    return found


@pytest.mark.parametrize("command", _apply_commands())
def test_apply_creates_the_setup_and_one_job(command, checkout, api_server):
    _, *arguments = shlex.split(command)
    done = subprocess.run(
        [KUBECTL, *arguments, "--validate=false"],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (job,) = set(re.findall(r"\(setup,(\w+)\)", command))
    there = [(d["kind"], d["metadata"]["name"]) for d in api_server]
    kind = "RayCluster" if job == "interactive" else "RayJob"
    assert sorted(there) == sorted(
        [
            ("Namespace", "physface"),
            ("ServiceAccount", "physface"),
            ("ConfigMap", "physface-places"),
            ("ConfigMap", "physface-settings"),
            ("PersistentVolumeClaim", "physface-data"),
            ("NetworkPolicy", "physface"),
            (kind, job),
        ]
    )
    assert there[0] == ("Namespace", "physface")


def test_the_overlay_of_ones_own_changes_every_place(checkout):
    documents = kustomize(checkout / "k8s" / "overlays" / "mine")
    assert {value for name, value in places(documents).items() if value.startswith("s3://physface-example")} == set()
    assert places(documents)["PHYSFACE_INPUT"] == "s3://my-bucket/portraits"
    role = named(documents, "ServiceAccount", "physface")["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
    assert role.endswith("role/my-role")
    images = {
        container["image"]
        for document in documents
        for template in pod_templates(document).values()
        for container in template["spec"]["containers"]
    }
    assert len(images) == 1 and images.pop().startswith("registry.example/physface:0.1.0-gpu")


def test_images_are_named_as_make_image_names_them():
    built = {"physface:0.1.0-cpu", "physface:0.1.0-gpu"}
    assert {word.removeprefix("registry.example/") for word in re.findall(r"\S*physface:[\d.]+-\w+", README)} == built
    version = re.search(r'(?m)^version = "(.*)"', (ROOT / "pyproject.toml").read_text())
    assert version and all(f":{version[1]}-" in name for name in built)


def test_what_is_told_is_there():
    """Overlays, options, components and the files that the text names."""
    table = set(re.findall(r"(?m)^\| `([a-z-]+)` \|", README))
    assert set(OVERLAYS) <= table
    assert all(f"- `{name}`" in README for name in OPTIONS)
    for path in re.findall(r"`((?:base|tests|k8s|jobs|components)/[\w./-]+\.\w+)`", README):
        assert (ROOT / path).exists() or (K8S / path).exists(), path
    deadline = named(kustomize(K8S / "overlays" / "cpu"), "RayJob", "reconstruct")["spec"]["ttlSecondsAfterFinished"]
    assert deadline == 600 and "ten minutes" in README


def test_five_commands_each():
    for title in ("Five commands: a laptop", "Five commands: GPUs and a bucket"):
        section = README.split(f"## {title}\n")[1]
        assert len(re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[0].splitlines()) == 5


@pytest.mark.parametrize(("overlay", "seconds"), [("cpu", 0.188), ("gpu", 0.144), ("gpu-autoscale", 0.144)])
def test_the_rates_follow_from_the_settings(overlay, seconds):
    settings = yaml.safe_load(named(build(overlay), "ConfigMap", "physface-settings")["data"]["reconstruct.yaml"])
    rate = round(min(settings["detect_actors"] / 0.038, settings["reconstruct_actors"] / seconds))
    (row,) = re.findall(
        rf"(?m)^\| `{overlay}`(?:, all there)? \| (\d+): \d+ \| (\d+) / {seconds} = \d+ \| (\d+) \|", README
    )
    assert [int(value) for value in row] == [settings["detect_actors"], settings["reconstruct_actors"], rate]
