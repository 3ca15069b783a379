"""The manifests for KubeRay against its schema and the rules of its operator.

Rules of the operator are restated from its source (ray-operator/controllers/ray/utils/validation.go, August 2026), which no
Python package holds.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from tests.unit.cluster.kuberay_files import Document, cluster_of, documents_of, each_job, groups_of, job_of, pods_of


@pytest.fixture(scope="module")
def schema(shared_data: Path) -> Document:
    """Of a RayJob, and strict: a field that the definition does not name is an error where Kubernetes would drop it."""
    path = shared_data / "kuberay-crds" / "ray.io_rayjobs.yaml.gz"
    if not path.is_file():
        pytest.skip("the shared data has no definitions of KubeRay")
    (version,) = (
        each
        for each in yaml.load(gzip.decompress(path.read_bytes()), yaml.CSafeLoader)["spec"]["versions"]
        if each["name"] == "v1"
    )
    return _strict(version["schema"]["openAPIV3Schema"])


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _strict(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def _errors(schema: Document, document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft7Validator(schema).iter_errors(document)]


@each_job
def test_a_job_is_what_the_definition_of_kuberay_says(name: str, schema: Document) -> None:
    job = job_of(name)
    assert not _errors(schema, job)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")


def _misspell(at: Callable[[Document], Document]) -> Callable[[Document], None]:
    def change(job: Document) -> None:
        at(job)["misspelt"] = "1"

    return change


@pytest.mark.parametrize(
    "change",
    [
        _misspell(lambda job: job["spec"]),
        _misspell(lambda job: cluster_of(job)["autoscalerOptions"]),
        _misspell(lambda job: groups_of(job)["gpu-spot"]),
        _misspell(lambda job: pods_of(job)["decode"]["spec"]["containers"][0]["resources"]),
        _misspell(lambda job: pods_of(job)["gpu-spot"]["spec"]["tolerations"][0]),
        _misspell(lambda job: pods_of(job)["head"]["spec"]["containers"][0]["securityContext"]["capabilities"]),
        _misspell(lambda job: pods_of(job)["submitter"]["metadata"]),
        lambda job: groups_of(job)["decode"].update(maxReplicas="16"),
        lambda job: groups_of(job)["decode"].pop("maxReplicas"),
    ],
)
def test_the_schema_finds_a_wrong_field_at_any_depth(change: Callable[[Document], None], schema: Document) -> None:
    job = job_of("label")
    change(job)
    assert _errors(schema, job)


def test_rules_of_the_network_are_what_kubernetes_knows(schema: Document) -> None:
    """The definition holds the schema of an ingress rule, for policies that KubeRay itself may write."""
    cluster = schema["properties"]["spec"]["properties"]["rayClusterSpec"]
    rules = cluster["properties"]["networkPolicy"]["properties"]["head"]["properties"]["ingressRules"]
    for policy in documents_of("networkpolicy"):
        assert not _errors(rules, policy["spec"]["ingress"])
        assert set(policy["spec"]) == {"podSelector", "policyTypes", "ingress"}


def test_the_plain_manifests_are_what_kubernetes_knows() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for name in ("serviceaccount", "networkpolicy"):
        for document in documents_of(name):
            validate.validate(document, validate.latest_version(), strict=True)


def _objections(job: Document) -> list[str]:
    """What the operator, or Kubernetes behind it, would refuse about a job that fits the schema."""
    spec, cluster = job["spec"], cluster_of(job)
    head, groups = cluster["headGroupSpec"], list(groups_of(job).values())
    policies = [group["template"]["spec"].get("restartPolicy", "Never") for group in (head, *groups)]
    starts = [group.get("rayStartParams", {}) for group in (head, *groups)]
    head_variables = {each["name"] for each in head["template"]["spec"]["containers"][0].get("env", [])}
    shuts, mode = spec.get("shutdownAfterJobFinishes", False), spec.get("submissionMode", "K8sJobMode")
    version = tuple(int(part) for part in cluster.get("rayVersion", "0").split("."))
    rules = {
        "a name of at most 47 characters": len(job["metadata"]["name"]) <= 47,
        "a name of DNS": re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"]),
        "pods that never restart": cluster["autoscalerOptions"].get("version") != "v2" or set(policies) == {"Never"},
        "one way to delete": not (shuts and spec.get("deletionStrategy", {}).get("deletionRules")),
        "a time to live only with a shutdown": shuts or not spec.get("ttlSecondsAfterFinished"),
        "a Ray that knows tokens": cluster.get("authOptions", {}).get("mode") != "token" or version >= (2, 52),
        "a mode that exists": mode in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        "no submitter beside a sidecar": mode != "SidecarMode"
        or not {"submitterPodTemplate", "submitterConfig"} & set(spec),
        "no retries by hand": mode != "InteractiveMode" or not spec.get("backoffLimit"),
        "limits above zero": spec.get("activeDeadlineSeconds", 1) > 0 and spec.get("backoffLimit", 0) >= 0,
        "labels in their own field": not any("labels" in start for start in starts),
        "resources in one place": not any(
            group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(start)
            for group, start in zip((head, *groups), starts, strict=True)
        ),
        "one switch for the autoscaler": "RAY_enable_autoscaler_v2" not in head_variables,
        "no Redis in a variable": not {"RAY_REDIS_ADDRESS", "REDIS_USERNAME"} & head_variables,
        "no suspended group": not any(group.get("suspend") for group in groups),
        "a submitter that its Job restarts": spec["submitterPodTemplate"]["spec"].get("restartPolicy")
        in ("Never", "OnFailure"),
    }
    return [rule for rule, holds in rules.items() if not holds]


@each_job
def test_the_operator_has_nothing_to_object_to(name: str) -> None:
    assert _objections(job_of(name)) == []


def _set(*path: str | int, to: Any) -> Callable[[Document], None]:
    def change(job: Document) -> None:
        here: Any = job
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = to

    return change


_RAY = ("spec", "rayClusterSpec")
_HEAD_POD = (*_RAY, "headGroupSpec", "template", "spec")


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("a name of at most 47 characters", _set("metadata", "name", to="a" * 48)),
        ("a name of DNS", _set("metadata", "name", to="4nchornet")),
        ("pods that never restart", _set(*_HEAD_POD, "restartPolicy", to="Always")),
        (
            "pods that never restart",
            _set(*_RAY, "workerGroupSpecs", 2, "template", "spec", "restartPolicy", to="Always"),
        ),
        ("one way to delete", _set("spec", "deletionStrategy", to={"deletionRules": [{"policy": "DeleteCluster"}]})),
        ("a time to live only with a shutdown", _set("spec", "shutdownAfterJobFinishes", to=False)),
        ("a Ray that knows tokens", _set(*_RAY, "rayVersion", to="2.51.1")),
        ("a mode that exists", _set("spec", "submissionMode", to="Sidecar")),
        ("no submitter beside a sidecar", _set("spec", "submissionMode", to="SidecarMode")),
        ("no retries by hand", _set("spec", "submissionMode", to="InteractiveMode")),
        ("limits above zero", _set("spec", "activeDeadlineSeconds", to=0)),
        ("labels in their own field", _set(*_RAY, "headGroupSpec", "rayStartParams", "labels", to="a=b")),
        ("resources in one place", _set(*_RAY, "workerGroupSpecs", 0, "resources", to={"CPU": "15"})),
        (
            "one switch for the autoscaler",
            _set(*_HEAD_POD, "containers", 0, "env", 0, "name", to="RAY_enable_autoscaler_v2"),
        ),
        ("no Redis in a variable", _set(*_HEAD_POD, "containers", 0, "env", 0, "name", to="RAY_REDIS_ADDRESS")),
        ("no suspended group", _set(*_RAY, "workerGroupSpecs", 0, "suspend", to=True)),
        (
            "a submitter that its Job restarts",
            _set("spec", "submitterPodTemplate", "spec", "restartPolicy", to="Always"),
        ),
    ],
)
def test_a_job_that_breaks_a_rule_is_objected_to(rule: str, change: Callable[[Document], None]) -> None:
    job = job_of("label")
    change(job)
    assert _objections(job) == [rule]
