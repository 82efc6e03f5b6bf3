"""A Ray cluster on this machine with the nodes of a manifest, and jobs submitted to it as KubeRay does."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from k8s_manifests import ROOT, cluster_spec, localized, nodes

BIN = Path(sys.executable).parent
OF_THE_IMAGE = ("HOME", "NUMBA_CACHE_DIR")
"""Variables of the pods that name folders which only pods have."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class LocalCluster:
    """Head and workers of a RayCluster specification as processes here, its CPUs and GPUs as logical ones.

    Args:
        document: RayCluster or RayJob.
        home: folder for logs.
        environment: what the pods' ConfigMaps and Secrets would set.
    """

    def __init__(self, document: dict[str, Any], home: Path, environment: dict[str, str]):
        spec = cluster_spec(document)
        assert spec["authOptions"] == {"mode": "token"}
        self._home = home
        self._temp = Path(f"/tmp/k{os.getpid()}-{free_port()}")  # short, since sockets lie below it
        self._processes: dict[str, subprocess.Popen] = {}
        self._options: dict[str, list[str]] = {}
        pod = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
        variables = {v["name"]: v["value"] for v in pod["env"] if v["name"] not in OF_THE_IMAGE}
        # KubeRay's token, for every pod.
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32}
        self.environment = os.environ | variables | environment | {"PATH": f"{BIN}:{os.environ['PATH']}"}
        for name in ("RAY_ADDRESS", "RAY_TMPDIR"):
            self.environment.pop(name, None)
        self._gcs, dashboard = f"127.0.0.1:{free_port()}", free_port()
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        start = spec["headGroupSpec"]["rayStartParams"]
        options = [f"--{name}={value}" for name, value in start.items()]
        options += ["--head", f"--port={self._gcs.rpartition(':')[2]}", f"--dashboard-port={dashboard}"]
        options += [f"--ray-client-server-port={free_port()}", f"--temp-dir={self._temp}"]
        self._start("head", options)
        self._until(["ray", "job", "list", f"--address={self.dashboard}"], "")
        self.nodes = nodes(spec)
        # One after the other: a dozen that start at once on two cores give up over one another.
        for number, node in enumerate(self.nodes):
            name = f"worker-{number}"
            self._start(name, [f"--address={self._gcs}", f"--num-cpus={node['CPU']}", f"--num-gpus={node['GPU']}"])
            self._until_started(name)
        cpus = sum(node["CPU"] for node in self.nodes)
        self._until(["ray", "status", f"--address={self._gcs}"], rf"/{cpus}\.0 CPU")

    def _start(self, name: str, options: list[str]) -> None:
        # The port that an agent takes by default is held by any other Ray on the machine.
        command = [BIN / "ray", "start", "--block", "--object-store-memory=100000000", *options]
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        self._options[name] = options
        with (self._home / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def _until_started(self, name: str, seconds: float = 240) -> None:
        """Waits until a node says that it runs."""
        end, log = time.monotonic() + seconds, self._home / f"{name}.log"
        while "Ray runtime started" not in log.read_text():
            assert time.monotonic() < end, log.read_text()[-2000:]
            self._restart()
            time.sleep(0.2)

    def _restart(self) -> None:
        """Starts nodes again that gave up, as KubeRay does."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                self._start(name, self._options[name])

    def _until(self, command: list[str], pattern: str, seconds: float = 600) -> None:
        """Waits until a command succeeds and says something."""
        end = time.monotonic() + seconds
        while True:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
            if done.returncode == 0 and re.search(pattern, done.stdout):
                return
            logs = "".join(path.read_text()[-1000:] for path in self._home.glob("*.log"))
            assert time.monotonic() < end, done.stdout[-2000:] + done.stderr[-2000:] + logs
            self._restart()
            time.sleep(0.5)

    def submit(self, job: dict[str, Any], settings: Path, seconds: float = 600) -> str:
        """Runs a RayJob's entry point to its end and returns its log; fails unless it succeeded.

        The submitter's shell gets what KubeRay v1.7 gives it in K8sJobMode.
        """
        assert job["spec"]["submissionMode"] == "K8sJobMode"
        name = job["metadata"]["name"]
        address, identity = f"--address {self.dashboard}", f"{name}-{free_port()}"
        script = (
            f"if ! ray job status {address} {identity} >/dev/null 2>&1 ; then ray job submit {address} --no-wait "
            f"--submission-id {identity} -- {localized(job['spec']['entrypoint'], settings)} ; fi ; "
            f"ray job logs {address} --follow {identity}"
        )
        end = time.monotonic() + seconds
        while True:
            command = ["/bin/bash", "-ce", "--", script]
            done = subprocess.run(
                command, cwd="/", env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
            )
            # A node's agent, which takes jobs, comes up some seconds after the server; KubeRay's submitter retries.
            if "try again later" not in done.stdout + done.stderr or time.monotonic() > end:
                break
            time.sleep(1)
        log = done.stdout + done.stderr
        command = ["ray", "job", "status", f"--address={self.dashboard}", identity]
        while True:
            status = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout
            if "RUNNING" not in status and "PENDING" not in status:
                break
            assert time.monotonic() < end, log[-3000:]
            time.sleep(1)
        assert "succeeded" in status.lower(), status[-1000:] + log[-5000:]
        return log

    def stop(self) -> None:
        for sign, seconds in ((signal.SIGTERM, 8), (signal.SIGKILL, 30)):
            for process in self._processes.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
            end = time.monotonic() + seconds
            while any(process.poll() is None for process in self._processes.values()) and time.monotonic() < end:
                time.sleep(0.1)
        shutil.rmtree(self._temp, ignore_errors=True)
