"""KubeRay's custom resources: their schemas as JSON Schema, and the operator's own rules beyond them."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}
ALLOWED = {
    "submissionMode": SUBMISSION_MODES,
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    "operator": {"Exists", "Equal", "In", "NotIn", "DoesNotExist", "Gt", "Lt"},
    "fsGroupChangePolicy": {"OnRootMismatch", "Always"},
    "protocol": {"TCP", "UDP", "SCTP"},
}
"""Values of fields that the schemas call plain strings."""


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a CRD's schema as JSON Schema that refuses fields it does not name, as the API server does."""
    schema = copy.deepcopy(schema)
    for part in _schemas(schema):
        if part.pop("x-kubernetes-int-or-string", False):
            part.pop("anyOf", None)
            part["type"] = ["integer", "string"]
        if "properties" in part and not part.get("x-kubernetes-preserve-unknown-fields"):
            part.setdefault("additionalProperties", False)
        if part.pop("nullable", False):
            part["type"] = [part["type"], "null"]
    return schema


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yields every schema within a schema; a field named `properties` is no schema."""
    if not isinstance(schema, dict):
        return
    yield schema
    for child in schema.get("properties", {}).values():
        yield from _schemas(child)
    for key in ("items", "additionalProperties"):
        yield from _schemas(schema.get(key))


def read_schemas(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the strict schema of each kind from the folder of KubeRay's definitions."""
    found = {}
    for path in sorted(folder.glob("ray.io_*.yaml")):
        definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
        schema = version["schema"]["openAPIV3Schema"]
        for name in ("apiVersion", "kind"):
            schema["properties"][name] = {"type": "string"}
        found[definition["spec"]["names"]["kind"]] = strict(schema) | {"required": ["apiVersion", "kind", "spec"]}
    # The same operator version's RayCronJob: a RayJob's specification and when to run it.
    job = found["RayJob"]
    cron = {
        "type": "object",
        "additionalProperties": False,
        "required": ["schedule", "jobTemplate"],
        "properties": {
            "schedule": {"type": "string", "pattern": r"^(\S+ ){4}\S+$"},
            "timeZone": {"type": "string"},
            "suspend": {"type": "boolean"},
            "jobTemplate": job["properties"]["spec"],
        },
    }
    found.setdefault("RayCronJob", job | {"properties": job["properties"] | {"spec": cron}})
    return found


def unchecked_rules(schema: dict[str, Any], value: Any) -> list[str]:
    """Returns the API server's rules (CEL) on fields that a document sets; JSON Schema cannot check them."""
    rules = [rule["rule"] for rule in schema.get("x-kubernetes-validations", [])]
    if isinstance(value, dict):
        for key, child in value.items():
            below = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            rules += unchecked_rules(below, child) if isinstance(below, dict) else []
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        rules += [rule for child in value for rule in unchecked_rules(schema["items"], child)]
    return rules


def bad_values(value: Any) -> list[str]:
    """Returns what stands in a field of `ALLOWED` and is not allowed there."""
    found = []
    if isinstance(value, dict):
        for key, child in value.items():
            if isinstance(child, str) and child not in ALLOWED.get(key, {child}):
                found.append(f"{key} is {child!r}, expected one of {sorted(ALLOWED[key])}")
            found += bad_values(child)
    if isinstance(value, list):
        found += [text for child in value for text in bad_values(child)]
    return found


def operator_complaints(document: dict[str, Any]) -> list[str]:
    """Returns what KubeRay v1.7 refuses when it takes up an object, whatever its schema says."""
    kind, name, spec = document["kind"], document["metadata"]["name"], document["spec"]
    if kind == "RayCronJob":
        return job_complaints(spec["jobTemplate"])
    longest = {"RayCluster": 53, "RayJob": 47}[kind]
    found = []
    if len(name) > longest or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        found.append(f"name {name!r} is no DNS label of at most {longest} characters")
    return found + (cluster_complaints(spec) if kind == "RayCluster" else job_complaints(spec))


def job_complaints(spec: dict[str, Any]) -> list[str]:
    """Returns what is refused in a RayJob's specification."""
    found = []
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not spec.get("shutdownAfterJobFinishes"):
        found.append("ttlSecondsAfterFinished without shutdownAfterJobFinishes")
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        found.append("ttlSecondsAfterFinished is negative")
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        found.append("suspend without shutdownAfterJobFinishes")
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        found.append("activeDeadlineSeconds is not positive")
    if spec.get("backoffLimit", 0) < 0:
        found.append("backoffLimit is negative")
    if spec.get("submissionMode") == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        found.append("SidecarMode has no submitter of its own")
    if "rayClusterSpec" not in spec:
        return [*found, "no rayClusterSpec"]
    return found + cluster_complaints(spec["rayClusterSpec"])


def cluster_complaints(spec: dict[str, Any]) -> list[str]:
    """Returns what is refused in a RayCluster's specification."""
    found = []
    groups = [("head", spec["headGroupSpec"])] + [(g["groupName"], g) for g in spec.get("workerGroupSpecs", [])]
    names = [name for name, _ in groups]
    found += [f"group {name} is there twice" for name in {n for n in names if names.count(n) > 1}]
    scaling = spec.get("enableInTreeAutoscaling", False)
    second = scaling and spec.get("autoscalerOptions", {}).get("version") == "v2"
    for name, group in groups:
        start, pod = group.get("rayStartParams", {}), group["template"]["spec"]
        if {"num-cpus", "num-gpus", "memory", "resources"} & start.keys() and group.get("resources"):
            found.append(f"{name}: resources in rayStartParams and in resources")
        if "labels" in start:
            found.append(f"{name}: labels in rayStartParams")
        if second and pod.get("restartPolicy", "Never") != "Never":
            found.append(f"{name}: restartPolicy must be Never with the second autoscaler")
        environment = {variable["name"] for variable in pod["containers"][0].get("env", [])}
        if name == "head" and {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"} & environment:
            found.append("Redis is configured by variables, not by gcsFaultToleranceOptions")
        if name == "head" and "RAY_enable_autoscaler_v2" in environment and spec.get("autoscalerOptions"):
            found.append("the autoscaler's version is given twice")
        if name != "head" and not 0 <= group["minReplicas"] <= group.get("replicas", 0) <= group["maxReplicas"]:
            found.append(f"{name}: minReplicas, replicas and maxReplicas are not in order")
        if group.get("suspend") and scaling:
            found.append(f"{name}: suspended with an autoscaler")
    version = tuple(int(part) for part in spec.get("rayVersion", "0.0").split(".")[:2])
    if spec.get("authOptions", {}).get("mode") == "token" and version < (2, 52):
        found.append("token authentication needs rayVersion 2.52")
    return found
