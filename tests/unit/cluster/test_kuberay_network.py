"""Who reaches whom in the pods of KubeRay, and what Prometheus reads of them.

Labels that KubeRay gives to its pods are restated from its source (ray-operator/controllers/ray/common/pod.go, August 2026).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest

from tests.unit.cluster.kuberay_files import (
    CONFIGS,
    NAMESPACE,
    Document,
    documents_of,
    each_job,
    groups_of,
    job_of,
    places,
    pods_of,
)

METRICS, AUTOSCALER_METRICS, DASHBOARD_METRICS, DASHBOARD, GCS, DRAWN = 8080, 44217, 44227, 8265, 6379, 34567


class Pod(NamedTuple):
    """A pod as policies and monitors see it."""

    labels: dict[str, str]
    namespace: str = NAMESPACE


def _running(job: str, kind: str) -> Pod:
    """A pod of a job with the labels that KubeRay gives it besides those of its template."""
    labels = dict(pods_of(job_of(job))[kind]["metadata"]["labels"])
    if kind == "submitter":
        return Pod({**labels, "job-name": f"anchornet-{job}"})
    role = "head" if kind == "head" else "worker"
    own = {
        "ray.io/is-ray-node": "yes",
        "ray.io/cluster": f"anchornet-{job}-x7k2p",
        "ray.io/node-type": role,
        "ray.io/group": "headgroup" if kind == "head" else kind,
        "ray.io/identifier": f"anchornet-{job}-x7k2p-{role}",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    return Pod({**own, **labels, **groups_of(job_of(job)).get(kind, {}).get("labels", {})})


def _selects(selector: Document, labels: dict[str, str]) -> bool:
    assert set(selector) == {"matchLabels"}
    return selector["matchLabels"].items() <= labels.items()


def _is_peer(peer: Document, pod: Pod) -> bool:
    """Whether a peer of a rule is this pod; without a selector of namespaces the policy's own is meant."""
    spaces = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}})
    name = {"kubernetes.io/metadata.name": pod.namespace}
    return _selects(spaces, name) and _selects(peer.get("podSelector", {"matchLabels": {}}), pod.labels)


def _admits(source: Pod, target: Pod, port: int) -> bool:
    """Whether the policies let ``source`` connect: none selects the target, or a rule of one that does admits it."""
    policies = [each["spec"] for each in documents_of("networkpolicy")]
    rules = [each["ingress"] for each in policies if _selects(each["podSelector"], target.labels)]
    return not rules or any(
        any(_is_peer(peer, source) for peer in rule["from"])
        and ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
        for rule in itertools.chain.from_iterable(rules)
    )


@each_job
def test_the_pods_of_a_job_its_operator_and_monitoring_reach_what_they_need_and_nothing_else(name: str) -> None:
    head, worker, gpu = _running(name, "head"), _running(name, "decode"), _running(name, "gpu-spot")
    ports = {METRICS, AUTOSCALER_METRICS, DASHBOARD_METRICS, DASHBOARD, GCS, DRAWN}
    operator = Pod({"app.kubernetes.io/component": "kuberay-operator"}, places()["<kuberay-namespace>"])
    monitoring = Pod({"app.kubernetes.io/name": "prometheus"}, places()["<monitoring-namespace>"])

    def reached(source: Pod, target: Pod) -> set[int]:
        return {port for port in ports if _admits(source, target, port)}

    assert reached(worker, head) == reached(head, worker) == reached(gpu, worker) == ports
    assert (reached(_running(name, "submitter"), head), reached(_running(name, "submitter"), worker)) == (
        {DASHBOARD},
        set(),
    )
    assert (reached(operator, head), reached(operator, worker)) == ({DASHBOARD}, set())
    assert reached(monitoring, head) == {METRICS, AUTOSCALER_METRICS, DASHBOARD_METRICS}
    assert reached(monitoring, worker) == reached(monitoring, gpu) == {METRICS}


@each_job
@pytest.mark.parametrize("target", ["head", "decode", "gpu-spot", "gpu-on-demand"])
def test_strangers_reach_no_pod_of_ray(name: str, target: str) -> None:
    (other,) = set(CONFIGS) - {name}
    strangers = [
        Pod({}),
        Pod({"app.kubernetes.io/part-of": "anchornet"}),
        Pod({}, "default"),
        Pod(_running(name, "decode").labels, "default"),
        Pod({"app.kubernetes.io/component": "kuberay-operator"}),
        Pod({}, places()["<kuberay-namespace>"]),
        *(_running(other, kind) for kind in ("head", "decode", "submitter")),
    ]
    for port in (GCS, DASHBOARD, METRICS, AUTOSCALER_METRICS, DRAWN):
        assert not [each for each in strangers if _admits(each, _running(name, target), port)]


@each_job
@pytest.mark.parametrize("kind", ["head", "decode", "gpu-spot", "gpu-on-demand", "submitter"])
def test_prometheus_reads_every_port_with_metrics_and_knows_whose_they_are(name: str, kind: str) -> None:
    (monitor,) = documents_of("podmonitor")
    assert set(monitor["spec"]) == {"selector", "podTargetLabels", "podMetricsEndpoints"}
    pod = _running(name, kind)
    (container,) = pods_of(job_of(name))[kind]["spec"]["containers"]
    named = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
    endpoints = [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]]
    of_head = {METRICS, AUTOSCALER_METRICS, DASHBOARD_METRICS}
    expected = {"head": of_head, "submitter": set()}.get(kind, {METRICS})
    assert _selects(monitor["spec"]["selector"], pod.labels) is bool(expected)
    assert {named[each] for each in endpoints if each in named} == expected
    if expected:
        assert set(monitor["spec"]["podTargetLabels"]) <= set(pod.labels)
