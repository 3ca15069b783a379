"""The pods of a job on KubeRay: their images, rights, resources and the nodes they may run on."""

from __future__ import annotations

import re

import pytest

from tests.unit.cluster.cluster_files import DOCKERFILE
from tests.unit.cluster.kuberay_files import (
    FOLDER,
    Document,
    cluster_of,
    containers_of,
    documents_of,
    each_job,
    groups_of,
    job_of,
    places,
    pods_of,
)


@each_job
def test_a_job_has_the_version_of_ray_and_the_folder_of_the_image(name: str) -> None:
    if not DOCKERFILE.is_file():
        pytest.skip("cluster/Dockerfile is not there")
    text = DOCKERFILE.read_text()
    job = job_of(name)
    assert re.findall(r"^ARG RAY=(\S+)$", text, re.MULTILINE) == [cluster_of(job)["rayVersion"]]
    places = {
        each["workingDir"] for each in containers_of(job) if each["name"].startswith("ray-") and "workingDir" in each
    }
    assert re.findall(r"^WORKDIR (\S+)$", text, re.MULTILINE) == list(places)


@each_job
def test_every_image_is_our_own_at_one_commit_and_with_cuda_only_where_there_are_gpus(name: str) -> None:
    registry, commit = places()["<registry>"], places()["<commit>"]
    for container in containers_of(job_of(name)):
        platform = "gpu" if "nvidia.com/gpu" in container["resources"]["limits"] else "cpu"
        assert container["image"] == f"{registry}/anchornet:{platform}-{commit}"


@each_job
def test_every_pod_meets_the_restricted_standard_and_only_the_head_gets_a_token_of_kubernetes(name: str) -> None:
    job = job_of(name)
    for kind, pod in pods_of(job).items():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is (kind == "head")
        assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & set(pod["spec"])
    for container in (*containers_of(job), cluster_of(job)["autoscalerOptions"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


@each_job
def test_pods_of_ray_use_our_account_and_end_in_90_seconds(name: str) -> None:
    (account,) = documents_of("serviceaccount")
    assert account["automountServiceAccountToken"] is False
    assert set(account["metadata"]) == {"name", "labels", "annotations"}
    job = job_of(name)
    for kind, pod in pods_of(job).items():
        if kind != "submitter":  # which talks to no cloud
            assert pod["spec"]["serviceAccountName"] == account["metadata"]["name"]
            assert pod["spec"]["terminationGracePeriodSeconds"] == 90
            assert "restartPolicy" not in pod["spec"]


@each_job
def test_nothing_is_opened_to_the_world_and_strangers_are_refused(name: str) -> None:
    cluster = cluster_of(job_of(name))
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not {"enableIngress", "ingressOptions", "headService"} & set(cluster["headGroupSpec"])
    assert "gcsFaultToleranceOptions" not in cluster
    kinds = {document["kind"] for path in FOLDER.glob("*.yaml") for document in documents_of(path.stem)}
    assert not kinds & {"Service", "Ingress", "Secret", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


@each_job
def test_memory_and_gpus_are_asked_for_as_they_are_limited_and_cpus_are_not_limited(name: str) -> None:
    job = job_of(name)
    for container in (*containers_of(job), cluster_of(job)["autoscalerOptions"]):
        asked, limits = dict(container["resources"]["requests"]), container["resources"]["limits"]
        assert asked.pop("cpu")
        assert asked == limits
        assert "memory" in limits


@each_job
def test_groups_start_empty_and_tell_ray_the_cpus_that_they_ask_for(name: str) -> None:
    job = job_of(name)
    assert cluster_of(job)["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for group in groups_of(job).values():
        assert group["minReplicas"] == group["replicas"] == 0
        (container,) = group["template"]["spec"]["containers"]
        assert group["rayStartParams"] == {"num-cpus": container["resources"]["requests"]["cpu"]}


@each_job
def test_gpus_on_demand_differ_from_spot_in_market_number_and_priority_alone(name: str) -> None:
    groups = groups_of(job_of(name))
    spot, on_demand = groups["gpu-spot"], groups["gpu-on-demand"]
    assert spot["template"]["spec"]["containers"] == on_demand["template"]["spec"]["containers"]
    assert spot["rayStartParams"] == on_demand["rayStartParams"]
    assert (spot["priority"], on_demand["priority"]) == (10, 0)
    assert (spot["labels"], on_demand["labels"]) == tuple(
        {"ray.io/market-type": each} for each in ("spot", "on-demand")
    )
    for group in (spot, on_demand):
        keys = {each["key"] for each in group["template"]["spec"]["tolerations"]}
        assert "nvidia.com/gpu" in keys


SPOT = [
    {"karpenter.sh/capacity-type": "spot"},
    {"eks.amazonaws.com/capacityType": "SPOT"},
    {"cloud.google.com/gke-spot": "true"},
]
STEADY = [{"karpenter.sh/capacity-type": "on-demand"}, {"eks.amazonaws.com/capacityType": "ON_DEMAND"}, {}]


def _may_run(pod: Document, node: dict[str, str]) -> bool:
    """Whether the affinity of a pod admits a node with these labels: terms are alternatives, expressions of one all hold."""
    (needed,) = pod["spec"]["affinity"]["nodeAffinity"].values()
    holds = {
        "In": lambda each: node.get(each["key"]) in each["values"],
        "NotIn": lambda each: node.get(each["key"]) not in each["values"],
    }
    terms = [term["matchExpressions"] for term in needed["nodeSelectorTerms"]]
    return any(all(holds[each["operator"]](each) for each in term) for term in terms)


@each_job
@pytest.mark.parametrize("kind", ["head", "submitter", "gpu-on-demand", "decode", "gpu-spot"])
def test_only_what_may_be_lost_runs_on_spot(name: str, kind: str) -> None:
    pod, spot = pods_of(job_of(name))[kind], kind in ("decode", "gpu-spot")
    assert [_may_run(pod, node) for node in SPOT] == [spot] * 3
    assert [_may_run(pod, node) for node in STEADY] == [not spot] * 3
