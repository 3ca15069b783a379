"""The cluster files of both clouds, as far as Ray itself can say what it would do with them, without a cloud.

Not shown here: that the clouds take them (test_aws.py and test_gcp.py go as far as one can without an account), that the images
exist, that the prices are right.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.scripts import scripts

from tests.unit.cluster.cluster_files import AWS, CLUSTER, GCP, PLACEHOLDER, Demand, cluster_of, started, too_old

pytestmark = pytest.mark.skipif(too_old(), reason="the cluster files are for the Ray of cluster/Dockerfile")
TOKEN = "/home/ray/.ray/auth_token"
"""Where Ray looks for it in the container."""
WORKERS = {"decode", "gpu_spot", "gpu_on_demand"}
MARKET = "ray.io/market-type"
SPOT_ALONE = {"InstanceMarketOptions", "scheduling"}
"""What of a machine is for its market."""


@pytest.fixture(params=[AWS, GCP], ids=["aws", "gcp"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def config(path: Path) -> dict[str, Any]:
    return cluster_of(path)


@pytest.fixture
def types(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["available_node_types"]
    return found


@pytest.fixture
def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """With everything that Ray puts in where the file says nothing."""
    found: dict[str, Any] = prepare_config(config)
    return found


def commands(prepared: dict[str, Any], of: str) -> list[str]:
    return [command for command in prepared[f"{of}_start_ray_commands"] if "ray start" in command]


def test_ray_takes_the_file(prepared: dict[str, Any]) -> None:
    validate_config(prepared)


def test_every_place_to_fill_is_explained_on_top(path: Path) -> None:
    comment, body = path.read_text().split("\ncluster_name:")
    assert set(re.findall(r"^#   <([a-z-]+)>  ", comment, re.MULTILINE)) == set(PLACEHOLDER.findall(body))


def test_nothing_is_installed_when_a_node_starts(prepared: dict[str, Any]) -> None:
    assert [prepared[f"{of}setup_commands"] for of in ("", "head_", "worker_")] == [[], [], []]
    assert not any("worker_setup_commands" in each for each in prepared["available_node_types"].values())


def test_nothing_listens_on_every_address(prepared: dict[str, Any]) -> None:
    assert "0.0.0.0" not in json.dumps(prepared)
    (start,) = commands(prepared, "head")
    assert "--dashboard-host=127.0.0.1" in shlex.split(start)


@pytest.mark.parametrize("of", ["head", "worker"])
def test_every_node_starts_with_the_token(of: str, prepared: dict[str, Any]) -> None:
    (start,) = commands(prepared, of)
    assert re.search(r"(^|; )RAY_AUTH_MODE=token ray start ", start)
    assert prepared["file_mounts"] == {TOKEN: "~/.ray/auth_token"}


@pytest.mark.parametrize("of", ["head", "worker"])
def test_ray_knows_every_option_that_it_is_started_with(of: str, prepared: dict[str, Any]) -> None:
    (start,) = commands(prepared, of)
    given = shlex.split(start.partition("ray start ")[2])
    context = scripts.start.make_context("ray start", given)
    assert context.params["head"] is (of == "head")
    assert context.params["metrics_export_port"] == 8080
    assert bool(context.params["autoscaling_config"]) is (of == "head")


def test_no_node_has_a_public_address_and_none_is_kept_stopped(config: dict[str, Any]) -> None:
    assert config["provider"]["use_internal_ips"] is True
    assert config["provider"]["cache_stopped_nodes"] is False


def test_the_head_is_reached_by_its_id_through_the_cloud(config: dict[str, Any]) -> None:
    # Both proxies want the name of the instance, and Ray puts its address there unless it is told.
    assert config["auth"]["ssh_proxy_use_node_id"] is True
    assert "%h" in config["auth"]["ssh_proxy_command"]
    assert "%p" in config["auth"]["ssh_proxy_command"]


def test_a_cluster_without_work_is_a_head_that_takes_none(config: dict[str, Any], types: dict[str, Any]) -> None:
    assert set(types) == WORKERS | {"head"}
    assert config["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["head"]["max_workers"] == 0
    assert {name: types[name]["min_workers"] for name in WORKERS} == dict.fromkeys(WORKERS, 0)


def test_spot_and_on_demand_differ_in_market_and_priority_alone(types: dict[str, Any]) -> None:
    spot, on_demand = types["gpu_spot"], types["gpu_on_demand"]
    assert spot["priority"] > on_demand["priority"]
    assert (spot["labels"][MARKET], on_demand["labels"][MARKET]) == ("spot", "on-demand")

    def common(each: dict[str, Any]) -> dict[str, Any]:
        machine = {key: value for key, value in each["node_config"].items() if key not in SPOT_ALONE}
        labels = {key: value for key, value in each["labels"].items() if key != MARKET}
        rest = {
            key: value for key, value in each.items() if key not in ("node_config", "labels", "priority", "max_workers")
        }
        return {**rest, "labels": labels, "machine": machine}

    assert common(spot) == common(on_demand)


def test_only_nodes_with_a_gpu_pull_the_large_image(config: dict[str, Any]) -> None:
    known = AutoscalingConfig(config, skip_content_hash=True)
    images = {name: known.get_docker_config(name)["image"].rpartition(":")[2] for name in (*WORKERS, "head")}
    assert images == {"head": "cpu", "decode": "cpu", "gpu_spot": "gpu", "gpu_on_demand": "gpu"}


def test_nodes_log_in_where_their_image_lies(config: dict[str, Any]) -> None:
    registry = config["docker"]["image"].partition("/")[0]
    known = AutoscalingConfig(config, skip_content_hash=True)
    for name in (*WORKERS, "head"):
        assert any(registry in command for command in known.get_initialization_commands(name)), name


def test_gpus_come_from_spot_and_processors_from_decode(config: dict[str, Any], types: dict[str, Any]) -> None:
    assert started(config, [Demand(3, {"GPU": 1})]) == {"gpu_spot": 3}
    assert started(config, [Demand(3, {"GPU": 1, "CPU": 2, "accelerator_type:L4": 0.001})]) == {"gpu_spot": 3}
    assert started(config, [Demand(2 * types["decode"]["resources"]["CPU"], {"CPU": 1})]) == {"decode": 2}


def test_a_pool_that_names_a_kind_of_node_gets_it(config: dict[str, Any]) -> None:
    assert started(config, [Demand(1, {"GPU": 1}, {MARKET: "on-demand"})]) == {"gpu_on_demand": 1}
    assert started(config, [Demand(1, {"GPU": 1}, {"ray.io/accelerator-type": "L4"})]) == {"gpu_spot": 1}
    assert started(config, [Demand(1, {"CPU": 1}, {MARKET: "spot"})]) == {"decode": 1}


def test_what_spot_does_not_give_is_taken_on_demand(config: dict[str, Any], types: dict[str, Any]) -> None:
    assert started(config, [Demand(3, {"GPU": 1})], refused=["gpu_spot"]) == {"gpu_on_demand": 3}
    most = types["gpu_spot"]["max_workers"]
    assert started(config, [Demand(most + 1, {"GPU": 1})]) == {"gpu_spot": most, "gpu_on_demand": 1}


def test_no_demand_starts_a_second_head_or_more_nodes_than_allowed(config: dict[str, Any]) -> None:
    counts = started(
        config, [Demand(5000, {"CPU": 1}), Demand(100, {"GPU": 1}), Demand(9, {"CPU": 1}, {MARKET: "on-demand"})]
    )
    assert set(counts) <= WORKERS
    assert sum(counts.values()) == config["max_workers"]


def test_the_size_that_a_job_is_told_is_what_the_file_grows_to(
    path: Path, config: dict[str, Any], types: dict[str, Any]
) -> None:
    told = {name: int(number) for name, number in re.findall(r"cluster\.max_(\w+)=(\d+)", path.read_text())}
    decode, gpu = types["decode"], types["gpu_spot"]
    cpus = decode["max_workers"] * decode["resources"]["CPU"] + gpu["max_workers"] * gpu["resources"]["CPU"]
    assert told == {"cpus": cpus, "gpus": gpu["max_workers"] * gpu["resources"]["GPU"]}
    pools = [Demand(told["gpus"], {"GPU": 1, "CPU": gpu["resources"]["CPU"]})]
    rest = Demand(decode["max_workers"] * decode["resources"]["CPU"], {"CPU": 1})
    whole = {"gpu_spot": gpu["max_workers"], "decode": decode["max_workers"]}
    assert started(config, [*pools, rest]) == whole
    assert config["max_workers"] == sum(whole.values())
    instead = {"gpu_on_demand": gpu["max_workers"], "decode": decode["max_workers"]}
    assert started(config, [*pools, rest], refused=["gpu_spot"]) == instead


@pytest.mark.parametrize(
    "found", sorted(each for each in CLUSTER.rglob("*") if each.is_file()), ids=lambda each: each.name
)
def test_no_file_holds_a_secret_or_the_number_of_an_account(found: Path) -> None:
    secret = re.compile(
        rb"AKIA[0-9A-Z]{16}|PRIVATE KEY|\b(?!123456789012)[0-9]{12}\b|\b[0-9a-f]{64}\b|AIza[0-9A-Za-z_-]{35}"
    )
    assert found.suffix == ".pyc" or not secret.search(found.read_bytes())
