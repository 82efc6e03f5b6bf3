"""Every overlay builds, and every object is what Kubernetes and KubeRay accept; a wrong field is not."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from k8s_manifests import (
    JOBS,
    OPTIONS,
    OVERLAYS,
    build,
    build_with_options,
    cluster_spec,
    kustomize,
    named,
    pod_templates,
    walk,
)
from kuberay_rules import bad_values, operator_complaints, read_schemas, unchecked_rules

SHARED = Path(__file__).resolve().parents[2] / "shared" / "kuberay"
RAY_KINDS = ("RayCluster", "RayJob", "RayCronJob")
KUBERNETES = ("1.30", "1.37")
"""Oldest and newest version whose schemas are checked."""


@pytest.fixture(scope="session")
def kuberay_schemas() -> dict[str, dict[str, Any]]:
    """Strict schemas of KubeRay v1.7.0 by kind; skips where the definitions are not beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("KubeRay's resource definitions are not beside the checkout")
    return read_schemas(SHARED)


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> dict[str, tuple[dict[str, Any], ...]]:
    """Every overlay with all options."""
    return {name: build_with_options(name, tmp_path_factory.mktemp(name)) for name in OVERLAYS}


def _valid(schema: dict[str, Any], document: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(document)


def _changed(document: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Returns a copy with another value at a path; None removes what is there."""
    document = copy.deepcopy(document)
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


def test_each_overlay_has_everything():
    assert set(OVERLAYS) == {"cpu-small", "cpu", "gpu", "gpu-autoscale", "spot"}
    for overlay in OVERLAYS:
        documents = build(overlay)
        assert {d["metadata"]["name"] for d in documents if d["kind"] == "RayJob"} == set(JOBS)
        assert [d["metadata"]["name"] for d in documents if d["kind"] == "RayCluster"] == ["interactive"]
        # The templates that components are made of are not among what is applied.
        assert {d["kind"] for d in documents} == {
            "Namespace", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "NetworkPolicy",
            "RayCluster", "RayJob",
        }  # fmt: skip
        groups = {
            group["groupName"]
            for group in cluster_spec(named(documents, "RayJob", "reconstruct"))["workerGroupSpecs"]
        }
        assert groups == ({"cpu"} if overlay.startswith("cpu") else {"cpu", "gpu"})


def test_a_broken_kustomization_does_not_build(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n")
    with pytest.raises(AssertionError, match="nowhere"):
        kustomize(tmp_path)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_takes_every_object(overlay, full, kuberay_schemas):
    documents = [d for d in full[overlay] if d["kind"] in RAY_KINDS]
    assert {d["kind"] for d in documents} == set(RAY_KINDS)
    for document in documents:
        schema = kuberay_schemas[document["kind"]]
        jsonschema.Draft202012Validator(schema).validate(document)
        assert unchecked_rules(schema, document) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_operator_has_no_complaint(overlay, full):
    for document in full[overlay]:
        assert bad_values(document) == [], document["metadata"]["name"]
        if document["kind"] in RAY_KINDS:
            assert operator_complaints(document) == [], document["metadata"]["name"]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_every_object(overlay, version, full):
    """Core kinds as they are; pod templates within KubeRay's kinds as if they stood alone."""
    checked = 0
    for document in full[overlay]:
        if document["kind"] not in RAY_KINDS:
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
        for name, template in pod_templates(document).items():
            alone = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
            kubernetes_validate.validate(alone, version, strict=True)
            checked += 1
    assert checked >= 20


GROUP = ("workerGroupSpecs", 0)
CONTAINER = ("template", "spec", "containers", 0)
WRONG = [
    (("rayVersoin",), "2.60.0"),
    (("rayVersion",), 2.6),
    (("headGroupSpec", *CONTAINER, "imagePulPolicy"), "Always"),
    (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
    (("headGroupSpec", "template"), None),
    ((*GROUP, "replicas"), "two"),
    ((*GROUP, "groupName"), None),
    ((*GROUP, "maxReplicas"), None),
    ((*GROUP, *CONTAINER, "resources", "limit"), {"cpu": "1"}),
    ((*GROUP, "template", "spec", "tolerations"), [{"kee": "x"}]),
    (("authOptions", "mode"), "tokens"),
    (("autoscalerOptions", "version"), "v3"),
    (("autoscalerOptions", "upscalingMode"), "Fast"),
    (("gcsFaultToleranceOptions",), {"redisAdress": "redis:6379"}),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=[".".join(map(str, path)) for path, _ in WRONG])
def test_a_wrong_field_of_a_cluster_is_refused(path, value, kuberay_schemas):
    cluster = named(build("gpu-autoscale"), "RayCluster", "interactive")
    job = named(build("gpu-autoscale"), "RayJob", "reconstruct")
    assert _valid(kuberay_schemas["RayCluster"], cluster) and _valid(kuberay_schemas["RayJob"], job)
    assert not _valid(kuberay_schemas["RayCluster"], _changed(cluster, ("spec", *path), value))
    assert not _valid(kuberay_schemas["RayJob"], _changed(job, ("spec", "rayClusterSpec", *path), value))


@pytest.mark.parametrize(
    ("path", "value"),
    [(("entrypiont",), "x"), (("backoffLimit",), "3"), (("suspend",), "no"), (("preRunningDeadlineSeconds",), 0)],
)
def test_a_wrong_field_of_a_job_is_refused(path, value, kuberay_schemas):
    job = named(build("cpu-small"), "RayJob", "reconstruct")
    assert not _valid(kuberay_schemas["RayJob"], _changed(job, ("spec", *path), value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schedule",), "every night"),
        (("schedule",), None),
        (("timezone",), "Etc/UTC"),
        (("jobTemplate", "spec"), {}),
        (("jobTemplate", "entrypiont"), "x"),
    ],
)
def test_a_wrong_field_of_a_nightly_job_is_refused(path, value, full, kuberay_schemas):
    nightly = named(full["cpu-small"], "RayCronJob", "nightly")
    assert not _valid(kuberay_schemas["RayCronJob"], _changed(nightly, ("spec", *path), value))


SPEC = ("spec", "rayClusterSpec")
REFUSED_BY_THE_OPERATOR = [
    (("spec", "submissionMode"), "K8SJobMode", "submissionMode"),
    ((*SPEC, "headGroupSpec", *CONTAINER, "imagePullPolicy"), "Allways", "imagePullPolicy"),
    ((*SPEC, *GROUP, "template", "spec", "restartPolicy"), "Always", "restartPolicy"),
    ((*SPEC, *GROUP, "template", "spec", "restartPolicy"), "Sometimes", "restartPolicy"),
    ((*SPEC, *GROUP, "groupName"), "gpu", "twice"),
    ((*SPEC, *GROUP, "minReplicas"), 9, "in order"),
    ((*SPEC, *GROUP, "resources"), {"CPU": "3"}, "rayStartParams"),
    ((*SPEC, "rayVersion"), "2.40.0", "token"),
    (("spec", "shutdownAfterJobFinishes"), False, "ttlSecondsAfterFinished"),
    (("spec", "activeDeadlineSeconds"), 0, "activeDeadlineSeconds"),
    (("spec", "backoffLimit"), -1, "backoffLimit"),
    (("spec", "submissionMode"), "SidecarMode", "submitter"),
    (("spec", "rayClusterSpec"), None, "rayClusterSpec"),
    (("metadata", "name"), "Reconstruct", "DNS"),
    (("metadata", "name"), "r" * 48, "DNS"),
]


@pytest.mark.parametrize(("path", "value", "word"), REFUSED_BY_THE_OPERATOR)
def test_what_the_operator_refuses_is_found(path, value, word):
    job = named(build("gpu-autoscale"), "RayJob", "reconstruct")
    job = _changed(job, (*SPEC, *GROUP, "rayStartParams", "num-cpus"), "15")
    assert bad_values(job) + operator_complaints(job) == []
    complaints = bad_values(_changed(job, path, value)) + operator_complaints(_changed(job, path, value))
    assert any(word in complaint for complaint in complaints), complaints


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("NetworkPolicy", "physface", ("spec", "ingres"), []),
        ("NetworkPolicy", "physface", ("spec", "ingress", 0, "from"), "anywhere"),
        ("PersistentVolumeClaim", "physface-data", ("spec", "resources", "request"), {"storage": "1Gi"}),
        ("ConfigMap", "physface-places", ("data", "NUMBER"), 3),
        ("ServiceAccount", "physface", ("automountToken",), True),
        ("StatefulSet", "redis", ("spec", "template", "spec", "containers", 0, "imagee"), "x"),
        ("StatefulSet", "redis", ("spec", "selector"), None),
    ],
)
def test_a_wrong_field_of_a_core_kind_is_refused(kind, name, path, value, full):
    document = named(full["gpu"], kind, name)
    kubernetes_validate.validate(document, KUBERNETES[-1], strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(_changed(document, path, value), KUBERNETES[-1], strict=True)


def test_a_wrong_field_of_a_pod_template_is_refused_without_definitions():
    template = pod_templates(named(build("gpu"), "RayJob", "reconstruct"))["cpu"]
    alone = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
    wrong = _changed(alone, ("template", "spec", "containers", 0, "securityContxt"), {})
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_job_has_the_cluster_of_the_overlay(overlay, full):
    """One description, copied: only the shared volume differs, and what an option gives the cluster alone."""
    clusters = {
        d["metadata"]["name"]: copy.deepcopy(cluster_spec(d)) for d in full[overlay] if d["kind"] in RAY_KINDS
    }
    assert clusters["interactive"].pop("gcsFaultToleranceOptions")["redisAddress"] == "redis:6379"
    for name, spec in clusters.items():
        shared = overlay == "cpu-small" or name in ("train-unet", "train-meshnet", "interactive")
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            volumes = group["template"]["spec"]["volumes"]
            (data,) = [volume for volume in volumes if volume["name"] == "data"]
            assert data.get("persistentVolumeClaim") == ({"claimName": "physface-data"} if shared else None)
            volumes.remove(data)
    assert all(spec == clusters["interactive"] for spec in clusters.values())
    nightly = named(full[overlay], "RayCronJob", "nightly")["spec"]
    assert nightly["jobTemplate"] == named(full[overlay], "RayJob", "reconstruct")["spec"]
    # A RayCronJob does not wait for the run before; two must not write to one output.
    assert (
        nightly["schedule"].split()[2:] == ["*", "*", "*"] and nightly["jobTemplate"]["activeDeadlineSeconds"] < 86400
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("job", [*JOBS, "interactive", "nightly"])
def test_setup_and_one_label_are_enough(overlay, job, full):
    """`kubectl apply -l 'app.kubernetes.io/component in (setup,JOB)'` brings all that the job's pods refer to."""
    chosen = [d for d in full[overlay] if d["metadata"]["labels"]["app.kubernetes.io/component"] in ("setup", job)]
    runs = [d["metadata"]["name"] for d in chosen if d["kind"] in RAY_KINDS]
    assert runs == [job]
    there = {(d["kind"], d["metadata"]["name"]) for d in chosen}
    for document in chosen:
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "physface"
        for template in pod_templates(document).values():
            pod = template["spec"]
            if "serviceAccountName" in pod:
                assert ("ServiceAccount", pod["serviceAccountName"]) in there
            for volume in pod.get("volumes", []):
                if "configMap" in volume:
                    assert ("ConfigMap", volume["configMap"]["name"]) in there
                if "persistentVolumeClaim" in volume:
                    assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
            for source in [s for c in pod["containers"] for s in c.get("envFrom", [])]:
                if "configMapRef" in source:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in there
                else:
                    assert source["secretRef"]["optional"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_confined(overlay, full):
    for document in full[overlay]:
        for name, template in pod_templates(document).items():
            where, pod = (document["metadata"]["name"], name), template["spec"]
            assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0, where
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
            assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), where
            assert all("hostPath" not in volume for volume in pod.get("volumes", [])), where
            for container in pod["containers"]:
                security = container["securityContext"]
                assert security["capabilities"] == {"drop": ["ALL"]}, where
                assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"], where
                mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
                if container["image"].startswith("physface:"):
                    assert {"/tmp", "/home/ray"} <= mounted, where
                assert {mount["name"] for mount in container["volumeMounts"]} <= {
                    volume["name"] for volume in pod.get("volumes", [])
                } | {"state"}, where
                limits, requests = container["resources"]["limits"], container["resources"]["requests"]
                # Memory that was not set aside is memory that the node's killer takes back.
                assert limits["memory"] == requests["memory"] or name in ("submitter", "pod"), where
                assert limits.get("nvidia.com/gpu") == requests.get("nvidia.com/gpu"), where
            # The autoscaler, which talks to Kubernetes, lives in the head's pod.
            scaling = document["kind"] in RAY_KINDS and cluster_spec(document).get("enableInTreeAutoscaling")
            assert pod["automountServiceAccountToken"] == bool(scaling and name == "head"), where


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_stands_in_a_manifest(overlay, full):
    assert all(document["kind"] != "Secret" for document in full[overlay])
    for document in full[overlay]:
        for path, value in walk(document):
            name = value.get("name", "") if isinstance(value, dict) else ""
            if re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", str(name)):
                assert "value" not in value, path
            if isinstance(value, str):
                assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|aws_secret", value), path


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_end_and_leave_nothing_running(overlay):
    for job in JOBS:
        spec = named(build(overlay), "RayJob", job)["spec"]
        assert spec["shutdownAfterJobFinishes"] is True
        assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
        assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"] <= 7 * 86400
        assert spec["backoffLimit"] >= (6 if overlay == "spot" else 1)
        assert cluster_spec({"kind": "RayJob", "spec": spec})["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("overlay", ["gpu-autoscale", "spot"])
def test_machines_come_and_go_where_the_overlay_says_so(overlay):
    spec = cluster_spec(named(build(overlay), "RayJob", "reconstruct"))
    assert spec["enableInTreeAutoscaling"] is True and spec["autoscalerOptions"]["version"] == "v2"
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert group["template"]["spec"]["restartPolicy"] == "Never"


def _spot_labels(pod: dict[str, Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return [(e["key"], e["operator"], tuple(e["values"])) for term in terms for e in term["matchExpressions"]]


def test_only_workers_are_on_machines_that_may_go():
    spec = cluster_spec(named(build("spot"), "RayJob", "train-unet"))
    head = spec["headGroupSpec"]["template"]["spec"]
    stays = _spot_labels(head)
    # One term: all of its expressions must hold.
    assert (
        len(head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"])
        == 1
    )
    assert {operator for _, operator, _ in stays} == {"NotIn"}
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        goes = _spot_labels(pod)
        assert {operator for _, operator, _ in goes} == {"In"}
        assert {(key, values) for key, _, values in goes} == {(key, values) for key, _, values in stays}
        tainted = {t["key"] for t in pod["tolerations"]}
        assert {
            "karpenter.sh/capacity-type",
            "cloud.google.com/gke-spot",
            "kubernetes.azure.com/scalesetpriority",
        } <= tainted
        assert ("nvidia.com/gpu" in tainted) == (group["groupName"] == "gpu")
        assert pod["terminationGracePeriodSeconds"] <= 15


def test_only_ray_and_the_operator_reach_the_pods():
    policy = named(build("gpu"), "NetworkPolicy", "physface")["spec"]
    assert policy["podSelector"] == {} and set(policy["policyTypes"]) == {"Ingress", "Egress"}
    within, operator = policy["ingress"]
    assert within == {"from": [{"podSelector": {}}]}
    (source,) = operator["from"]
    assert source["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
    assert {port["port"] for port in operator["ports"]} == {8265, 52365}
    open_ports = {p["port"] for rule in policy["egress"] if "to" not in rule for p in rule["ports"]}
    assert open_ports == {53, 443, 6443}


def test_options_are_what_the_components_offer(tmp_path):
    names = {d["kind"] for d in build_with_options("cpu-small", tmp_path)} - {d["kind"] for d in build("cpu-small")}
    assert names == {"RayCronJob", "StatefulSet", "Service"} and len(OPTIONS) == 2
