"""The manifests for KubeRay: its schema, the rules of its operator, who reaches whom, and what Ray and the jobs make of them.

Rules and labels of the operator are restated from its source (ray-operator/controllers/ray/utils/validation.go and common/pod.go,
August 2026), which no Python package holds.
"""

from __future__ import annotations

import copy
import functools
import gzip
import importlib.util
import inspect
import itertools
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray
import yaml
from jsonschema import Draft7Validator
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager import config as autoscaler
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.dashboard.modules.job import job_supervisor

from jobs.labelling.plan import check_resources as check_pools
from jobs.resources.capacity import Capacity, Resources
from jobs.resources.default_pools import default_pools
from jobs.settings.label import LabelConfig
from jobs.settings.train import TrainConfig
from jobs.shell.job import run_job
from jobs.training.plan import check_resources as check_workers

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "cluster" / "kuberay"
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
CONFIGS: dict[str, tuple[type, tuple[str, ...]]] = {
    "label": (LabelConfig, ("dry_run", "retry_failed")),
    "train": (TrainConfig, ()),
}
"""Of each job: its configuration and the flags of its command line."""
NAMESPACE = "anchornet"
METRICS, AUTOSCALER_METRICS, DASHBOARD_METRICS, DASHBOARD, GCS, DRAWN = 8080, 44217, 44227, 8265, 6379, 34567
Document = dict[str, Any]

each_job = pytest.mark.parametrize("name", sorted(CONFIGS))


def _values() -> dict[str, str]:
    """What the command on top of kustomization.yaml fills in, by placeholder."""
    return dict(re.findall(r"-e 's\|(<[a-z-]+>)\|([^|]+)\|g'", (FOLDER / "kustomization.yaml").read_text()))


def _filled(text: str) -> str:
    """``text`` as that command makes it."""
    for placeholder, value in _values().items():
        text = text.replace(placeholder, value)
    return text


@functools.cache
def _parsed(name: str) -> list[Document]:
    return list(yaml.safe_load_all(_filled((FOLDER / f"{name}.yaml").read_text())))


def _documents(name: str) -> list[Document]:
    """What a file holds; nobody else has this copy of it. What an anchor names is one object in several places."""
    return copy.deepcopy(_parsed(name))


def _job(name: str) -> Document:
    (job,) = _documents(name)
    return job


def _cluster(job: Document) -> Document:
    return job["spec"]["rayClusterSpec"]


def _groups(job: Document) -> dict[str, Document]:
    return {group["groupName"]: group for group in _cluster(job)["workerGroupSpecs"]}


def _pods(job: Document) -> dict[str, Document]:
    """Templates of all pods of a job: head, worker groups, submitter."""
    groups = {name: group["template"] for name, group in _groups(job).items()}
    head = _cluster(job)["headGroupSpec"]["template"]
    return {"head": head, **groups, "submitter": job["spec"]["submitterPodTemplate"]}


def _containers(job: Document) -> Iterator[Document]:
    for pod in _pods(job).values():
        yield from pod["spec"]["containers"]


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
    job = _job(name)
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
        _misspell(lambda job: _cluster(job)["autoscalerOptions"]),
        _misspell(lambda job: _groups(job)["gpu-spot"]),
        _misspell(lambda job: _pods(job)["decode"]["spec"]["containers"][0]["resources"]),
        _misspell(lambda job: _pods(job)["gpu-spot"]["spec"]["tolerations"][0]),
        _misspell(lambda job: _pods(job)["head"]["spec"]["containers"][0]["securityContext"]["capabilities"]),
        _misspell(lambda job: _pods(job)["submitter"]["metadata"]),
        lambda job: _groups(job)["decode"].update(maxReplicas="16"),
        lambda job: _groups(job)["decode"].pop("maxReplicas"),
    ],
)
def test_the_schema_finds_a_wrong_field_at_any_depth(change: Callable[[Document], None], schema: Document) -> None:
    job = _job("label")
    change(job)
    assert _errors(schema, job)


def test_rules_of_the_network_are_what_kubernetes_knows(schema: Document) -> None:
    """The definition holds the schema of an ingress rule, for policies that KubeRay itself may write."""
    cluster = schema["properties"]["spec"]["properties"]["rayClusterSpec"]
    rules = cluster["properties"]["networkPolicy"]["properties"]["head"]["properties"]["ingressRules"]
    for policy in _documents("networkpolicy"):
        assert not _errors(rules, policy["spec"]["ingress"])
        assert set(policy["spec"]) == {"podSelector", "policyTypes", "ingress"}


def test_the_plain_manifests_are_what_kubernetes_knows() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for name in ("serviceaccount", "networkpolicy"):
        for document in _documents(name):
            validate.validate(document, validate.latest_version(), strict=True)


def _objections(job: Document) -> list[str]:
    """What the operator, or Kubernetes behind it, would refuse about a job that fits the schema."""
    spec, cluster = job["spec"], _cluster(job)
    head, groups = cluster["headGroupSpec"], list(_groups(job).values())
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
    assert _objections(_job(name)) == []


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
    job = _job("label")
    change(job)
    assert _objections(job) == [rule]


@each_job
def test_a_job_has_the_version_of_ray_and_the_folder_of_the_image(name: str) -> None:
    if not DOCKERFILE.is_file():
        pytest.skip("cluster/Dockerfile is not there")
    text = DOCKERFILE.read_text()
    job = _job(name)
    assert re.findall(r"^ARG RAY=(\S+)$", text, re.MULTILINE) == [_cluster(job)["rayVersion"]]
    places = {
        each["workingDir"] for each in _containers(job) if each["name"].startswith("ray-") and "workingDir" in each
    }
    assert re.findall(r"^WORKDIR (\S+)$", text, re.MULTILINE) == list(places)


@each_job
def test_every_image_is_our_own_at_one_commit_and_with_cuda_only_where_there_are_gpus(name: str) -> None:
    registry, commit = _values()["<registry>"], _values()["<commit>"]
    for container in _containers(_job(name)):
        platform = "gpu" if "nvidia.com/gpu" in container["resources"]["limits"] else "cpu"
        assert container["image"] == f"{registry}/anchornet:{platform}-{commit}"


@each_job
def test_every_pod_meets_the_restricted_standard_and_only_the_head_gets_a_token_of_kubernetes(name: str) -> None:
    job = _job(name)
    for kind, pod in _pods(job).items():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is (kind == "head")
        assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & set(pod["spec"])
    for container in (*_containers(job), _cluster(job)["autoscalerOptions"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


@each_job
def test_pods_of_ray_use_our_account_and_end_in_90_seconds(name: str) -> None:
    (account,) = _documents("serviceaccount")
    assert account["automountServiceAccountToken"] is False
    assert set(account["metadata"]) == {"name", "labels", "annotations"}
    job = _job(name)
    for kind, pod in _pods(job).items():
        if kind != "submitter":  # which talks to no cloud
            assert pod["spec"]["serviceAccountName"] == account["metadata"]["name"]
            assert pod["spec"]["terminationGracePeriodSeconds"] == 90
            assert "restartPolicy" not in pod["spec"]


@each_job
def test_nothing_is_opened_to_the_world_and_strangers_are_refused(name: str) -> None:
    cluster = _cluster(_job(name))
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not {"enableIngress", "ingressOptions", "headService"} & set(cluster["headGroupSpec"])
    assert "gcsFaultToleranceOptions" not in cluster
    kinds = {document["kind"] for path in FOLDER.glob("*.yaml") for document in _documents(path.stem)}
    assert not kinds & {"Service", "Ingress", "Secret", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


@each_job
def test_memory_and_gpus_are_asked_for_as_they_are_limited_and_cpus_are_not_limited(name: str) -> None:
    job = _job(name)
    for container in (*_containers(job), _cluster(job)["autoscalerOptions"]):
        asked, limits = dict(container["resources"]["requests"]), container["resources"]["limits"]
        assert asked.pop("cpu")
        assert asked == limits
        assert "memory" in limits


@each_job
def test_groups_start_empty_and_tell_ray_the_cpus_that_they_ask_for(name: str) -> None:
    job = _job(name)
    assert _cluster(job)["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for group in _groups(job).values():
        assert group["minReplicas"] == group["replicas"] == 0
        (container,) = group["template"]["spec"]["containers"]
        assert group["rayStartParams"] == {"num-cpus": container["resources"]["requests"]["cpu"]}


@each_job
def test_gpus_on_demand_differ_from_spot_in_market_number_and_priority_alone(name: str) -> None:
    groups = _groups(_job(name))
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


@each_job
def test_a_job_ends_in_time_is_tried_again_and_leaves_no_cluster_behind(name: str) -> None:
    spec = _job(name)["spec"]
    assert spec["backoffLimit"] == 3
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
    assert 0 < spec["activeDeadlineSeconds"] <= 7 * 86400
    assert "submissionMode" not in spec


@each_job
def test_variables_for_ray_are_ones_that_it_reads(name: str) -> None:
    cluster = _cluster(_job(name))
    (patience,) = cluster["autoscalerOptions"]["env"]
    (stop,) = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    assert f'"{patience["name"]}"' in inspect.getsource(autoscaler)
    assert int(patience["value"]) < autoscaler.InstanceReconcileConfig().allocate_status_timeout_s
    assert f'"{stop["name"]}"' in inspect.getsource(job_supervisor)
    assert int(stop["value"]) < cluster["headGroupSpec"]["template"]["spec"]["terminationGracePeriodSeconds"]


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
    pod, spot = _pods(_job(name))[kind], kind in ("decode", "gpu-spot")
    assert [_may_run(pod, node) for node in SPOT] == [spot] * 3
    assert [_may_run(pod, node) for node in STEADY] == [not spot] * 3


def _autoscaling(job: Document) -> autoscaler.AutoscalingConfig:
    """The groups as the autoscaler sees them, by Ray's own translation."""
    cluster = {"metadata": {"name": "attempt", "namespace": NAMESPACE}, "spec": _cluster(job)}
    return autoscaler.AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(cluster), skip_content_hash=True)


def _launched(job: Document, demand: dict[str, float], count: int, refused: str | None = None) -> dict[str, int]:
    """How many nodes of each group the autoscaler starts for ``count`` processes; ``refused``: a group that just had no room."""
    config = _autoscaling(job)
    requests = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(demand)] * count)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=requests,
        recoverable_resource_availabilities={refused: 0.0} if refused else {},
    )
    return {each.instance_type: each.count for each in ResourceDemandScheduler().schedule(request).to_launch}


@each_job
def test_gpus_come_from_spot_then_on_demand_and_decoding_has_nodes_of_its_own(name: str) -> None:
    job = _job(name)
    if ray.__version__ != _cluster(job)["rayVersion"]:
        pytest.skip("the autoscaler of another Ray than the manifest's is installed")
    gpu, cpu, most = {"GPU": 1.0, "CPU": 0.5}, {"CPU": 0.5}, _groups(job)["gpu-spot"]["maxReplicas"]
    assert _launched(job, gpu, 1) == {"gpu-spot": 1}
    assert _launched(job, gpu, most + 1) == {"gpu-spot": most, "gpu-on-demand": 1}
    assert _launched(job, gpu, 1, refused="gpu-spot") == {"gpu-on-demand": 1}
    assert _launched(job, cpu, 31) == {"decode": 2}
    assert _autoscaling(job).get_idle_timeout_s() == 120
    assert _cluster(job)["enableInTreeAutoscaling"] is True
    assert _cluster(job)["autoscalerOptions"]["version"] == "v2"  # the first version has no priorities


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The configuration that a job makes of its entrypoint, by its own command line and loader."""

    def configuration(name: str) -> Any:
        monkeypatch.chdir(ROOT)
        seen: list[Any] = []
        words = shlex.split(_job(name)["spec"]["entrypoint"])
        assert words[:3] == ["python", "-m", f"jobs.{name}"]
        cls, flags = CONFIGS[name]
        assert run_job(cls, lambda config: seen.append(config) or 0, None, words[3:], flags) == 0
        return seen[0]

    return configuration


@each_job
def test_the_entrypoint_is_a_command_that_a_shell_leaves_as_it_is(name: str) -> None:
    entrypoint = _job(name)["spec"]["entrypoint"]
    assert re.fullmatch(r"[\w ./:=,\[\]-]+", entrypoint)
    assert importlib.util.find_spec(entrypoint.split()[2]) is not None


@each_job
def test_the_job_knows_how_far_its_groups_go(name: str, read: Callable[[str], Any]) -> None:
    config = read(name)
    types = _autoscaling(_job(name)).get_raw_config_mutable()["available_node_types"].values()
    most = {
        kind: sum(each["max_workers"] * each["resources"].get(kind, 0) for each in types) for kind in ("CPU", "GPU")
    }
    assert {"CPU": config.cluster.max_cpus, "GPU": config.cluster.max_gpus} == most
    assert config.run.folder.startswith("s3://")  # all nodes see it


def test_the_label_job_fits_its_groups_and_may_use_every_gpu(read: Callable[[str], Any]) -> None:
    config = read("label")
    capacity = Capacity(Resources(0, 0), Resources(config.cluster.max_cpus, config.cluster.max_gpus))
    pools = default_pools(capacity, 2)
    check_pools(config, pools, capacity)
    assert sum(pool.largest * pool.gpus for pool in pools) == config.cluster.max_gpus
    assert {uri.split(":")[0] for uri in (config.bundle, config.input.path)} == {"s3"}


def test_the_train_job_fits_its_groups_with_its_most_workers_on_spot_and_its_fewest_on_demand(
    read: Callable[[str], Any],
) -> None:
    config, groups = read("train"), _groups(_job("train"))
    check_workers(config, Capacity(Resources(0, 0), Resources(config.cluster.max_cpus, config.cluster.max_gpus)))
    assert config.workers.use_gpu is True
    assert config.workers.most == groups["gpu-spot"]["maxReplicas"]
    assert config.workers.fewest == groups["gpu-on-demand"]["maxReplicas"]


class Pod(NamedTuple):
    """A pod as policies and monitors see it."""

    labels: dict[str, str]
    namespace: str = NAMESPACE


def _running(job: str, kind: str) -> Pod:
    """A pod of a job with the labels that KubeRay gives it besides those of its template."""
    labels = dict(_pods(_job(job))[kind]["metadata"]["labels"])
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
    return Pod({**own, **labels, **_groups(_job(job)).get(kind, {}).get("labels", {})})


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
    policies = [each["spec"] for each in _documents("networkpolicy")]
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
    operator = Pod({"app.kubernetes.io/component": "kuberay-operator"}, _values()["<kuberay-namespace>"])
    monitoring = Pod({"app.kubernetes.io/name": "prometheus"}, _values()["<monitoring-namespace>"])

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
        Pod({}, _values()["<kuberay-namespace>"]),
        *(_running(other, kind) for kind in ("head", "decode", "submitter")),
    ]
    for port in (GCS, DASHBOARD, METRICS, AUTOSCALER_METRICS, DRAWN):
        assert not [each for each in strangers if _admits(each, _running(name, target), port)]


@each_job
@pytest.mark.parametrize("kind", ["head", "decode", "gpu-spot", "gpu-on-demand", "submitter"])
def test_prometheus_reads_every_port_with_metrics_and_knows_whose_they_are(name: str, kind: str) -> None:
    (monitor,) = _documents("podmonitor")
    assert set(monitor["spec"]) == {"selector", "podTargetLabels", "podMetricsEndpoints"}
    pod = _running(name, kind)
    (container,) = _pods(_job(name))[kind]["spec"]["containers"]
    named = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
    endpoints = [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]]
    of_head = {METRICS, AUTOSCALER_METRICS, DASHBOARD_METRICS}
    expected = {"head": of_head, "submitter": set()}.get(kind, {METRICS})
    assert _selects(monitor["spec"]["selector"], pod.labels) is bool(expected)
    assert {named[each] for each in endpoints if each in named} == expected
    if expected:
        assert set(monitor["spec"]["podTargetLabels"]) <= set(pod.labels)


def _identities(documents: list[Document]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in documents}


def test_the_kustomization_lists_every_file() -> None:
    (kustomization,) = _documents("kustomization")
    assert kustomization["namespace"] == NAMESPACE
    assert sorted(kustomization["resources"]) == sorted(
        path.name for path in FOLDER.glob("*") if path.name != "kustomization.yaml"
    )


def test_a_selector_applies_the_base_and_each_job_by_itself() -> None:
    for path in FOLDER.glob("*.yaml"):
        for document in _documents(path.stem):
            if document["kind"] != "Kustomization":
                component = path.stem if path.stem in CONFIGS else "base"
                labels = document["metadata"]["labels"]
                assert labels == {"app.kubernetes.io/part-of": "anchornet", "app.kubernetes.io/component": component}


def test_the_command_fills_in_every_placeholder_and_knows_no_other() -> None:
    used = set()
    for path in FOLDER.glob("*.yaml"):
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        used |= set(re.findall(r"<[^>]*>", "\n".join(lines)))
    assert used == set(_values())


def test_kustomize_renders_what_the_files_say_in_our_namespace() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    command = ["kubectl", "kustomize", str(FOLDER)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    documents = list(yaml.safe_load_all(_filled(rendered)))
    written = [each for path in FOLDER.glob("*.yaml") if path.stem != "kustomization" for each in _documents(path.stem)]
    assert {each["metadata"].pop("namespace") for each in documents} == {NAMESPACE}
    assert _identities(documents) == _identities(written)
    assert all(document in written for document in documents)
