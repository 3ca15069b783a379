"""The jobs on KubeRay: how they end, which nodes the autoscaler starts for them, and what their own code makes of the command."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager import config as autoscaler
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.dashboard.modules.job import job_supervisor

from jobs.labelling.plan import check_resources as check_pools
from jobs.resources.capacity import Capacity, Resources
from jobs.resources.default_pools import default_pools
from jobs.shell.job import run_job
from jobs.training.plan import check_resources as check_workers
from tests.unit.cluster.kuberay_files import CONFIGS, NAMESPACE, ROOT, Document, cluster_of, each_job, groups_of, job_of


@each_job
def test_a_job_ends_in_time_is_tried_again_and_leaves_no_cluster_behind(name: str) -> None:
    spec = job_of(name)["spec"]
    assert spec["backoffLimit"] == 3
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
    assert 0 < spec["activeDeadlineSeconds"] <= 7 * 86400
    assert "submissionMode" not in spec


@each_job
def test_variables_for_ray_are_ones_that_it_reads(name: str) -> None:
    cluster = cluster_of(job_of(name))
    (patience,) = cluster["autoscalerOptions"]["env"]
    (stop,) = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    assert f'"{patience["name"]}"' in inspect.getsource(autoscaler)
    assert int(patience["value"]) < autoscaler.InstanceReconcileConfig().allocate_status_timeout_s
    assert f'"{stop["name"]}"' in inspect.getsource(job_supervisor)
    assert int(stop["value"]) < cluster["headGroupSpec"]["template"]["spec"]["terminationGracePeriodSeconds"]


def _autoscaling(job: Document) -> autoscaler.AutoscalingConfig:
    """The groups as the autoscaler sees them, by Ray's own translation."""
    cluster = {"metadata": {"name": "attempt", "namespace": NAMESPACE}, "spec": cluster_of(job)}
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
    job = job_of(name)
    if ray.__version__ != cluster_of(job)["rayVersion"]:
        pytest.skip("the autoscaler of another Ray than the manifest's is installed")
    gpu, cpu, most = {"GPU": 1.0, "CPU": 0.5}, {"CPU": 0.5}, groups_of(job)["gpu-spot"]["maxReplicas"]
    assert _launched(job, gpu, 1) == {"gpu-spot": 1}
    assert _launched(job, gpu, most + 1) == {"gpu-spot": most, "gpu-on-demand": 1}
    assert _launched(job, gpu, 1, refused="gpu-spot") == {"gpu-on-demand": 1}
    assert _launched(job, cpu, 31) == {"decode": 2}
    assert _autoscaling(job).get_idle_timeout_s() == 120
    assert cluster_of(job)["enableInTreeAutoscaling"] is True
    assert cluster_of(job)["autoscalerOptions"]["version"] == "v2"  # the first version has no priorities


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The configuration that a job makes of its entrypoint, by its own command line and loader."""

    def configuration(name: str) -> Any:
        monkeypatch.chdir(ROOT)
        seen: list[Any] = []
        words = shlex.split(job_of(name)["spec"]["entrypoint"])
        assert words[:3] == ["python", "-m", f"jobs.{name}"]
        cls, flags = CONFIGS[name]
        assert run_job(cls, lambda config: seen.append(config) or 0, None, words[3:], flags) == 0
        return seen[0]

    return configuration


@each_job
def test_the_entrypoint_is_a_command_that_a_shell_leaves_as_it_is(name: str) -> None:
    entrypoint = job_of(name)["spec"]["entrypoint"]
    assert re.fullmatch(r"[\w ./:=,\[\]-]+", entrypoint)
    assert importlib.util.find_spec(entrypoint.split()[2]) is not None


@each_job
def test_the_job_knows_how_far_its_groups_go(name: str, read: Callable[[str], Any]) -> None:
    config = read(name)
    types = _autoscaling(job_of(name)).get_raw_config_mutable()["available_node_types"].values()
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
    config, groups = read("train"), groups_of(job_of("train"))
    check_workers(config, Capacity(Resources(0, 0), Resources(config.cluster.max_cpus, config.cluster.max_gpus)))
    assert config.workers.use_gpu is True
    assert config.workers.most == groups["gpu-spot"]["maxReplicas"]
    assert config.workers.fewest == groups["gpu-on-demand"]["maxReplicas"]
