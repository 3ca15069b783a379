"""The files for Google Cloud, as far as they can be looked at without Google.

The structure that Google's API and Ray's code for it ask for is restated here. Not shown: that the API knows every field (its
description comes in a package of 111 MB; by hand, all fields of the file were found in compute v1 of google-api-python-client
2.202.0 in November 2026), that there are such machines and images in the zone, and that the roles suffice. ``account.sh`` runs
against a ``gcloud`` that writes down what it is asked for; whether the real one takes that is not shown either.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ray import autoscaler

from tests.unit.cluster.cluster_files import CLUSTER, GCP, VALUES, cluster_of

SCRIPT = CLUSTER / "gcp" / "account.sh"
PROJECT = VALUES["project"]
SETTINGS = {"PROJECT": PROJECT, "REGION": VALUES["region"], "INPUT_BUCKET": "photographs", "RUN_BUCKET": "results"}
TYPES = ("head", "decode", "gpu_spot", "gpu_on_demand")
IAP = "35.235.240.0/20"
"""The one range that may knock from outside: Google's own proxy, which asks who it is."""


def account(name: str) -> str:
    return f"{name}@{PROJECT}.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def machines() -> dict[str, dict[str, Any]]:
    return {name: each["node_config"] for name, each in cluster_of(GCP)["available_node_types"].items()}


def test_spot_machines_are_given_up_when_they_are_taken_away(machines: dict[str, dict[str, Any]]) -> None:
    spot = {
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "DELETE",
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
    }
    assert (machines["decode"]["scheduling"], machines["gpu_spot"]["scheduling"]) == (spot, spot)
    assert {machines[name]["scheduling"]["provisioningModel"] for name in ("head", "gpu_on_demand")} == {"STANDARD"}


def test_a_machine_with_a_gpu_has_one_l4_and_is_never_moved(machines: dict[str, dict[str, Any]]) -> None:
    having = {
        name: machine["guestAccelerators"] for name, machine in machines.items() if "guestAccelerators" in machine
    }
    one = [{"acceleratorType": "nvidia-l4", "acceleratorCount": 1}]
    assert having == {"gpu_spot": one, "gpu_on_demand": one}
    assert {machines[name]["scheduling"]["onHostMaintenance"] for name in having} == {"TERMINATE"}
    resources = {name: each["resources"] for name, each in cluster_of(GCP)["available_node_types"].items()}
    assert {name for name, each in resources.items() if each.get("GPU") == 1} == set(having)


def test_what_ray_counts_is_what_the_machine_is_called_after(machines: dict[str, dict[str, Any]]) -> None:
    types = cluster_of(GCP)["available_node_types"]
    for name in ("decode", "gpu_spot", "gpu_on_demand"):
        assert types[name]["resources"]["CPU"] == int(machines[name]["machineType"].rpartition("-")[2])


@pytest.mark.parametrize("name", TYPES)
def test_every_node_has_an_account_of_its_own_and_no_public_address(
    name: str, machines: dict[str, dict[str, Any]]
) -> None:
    (served,) = machines[name]["serviceAccounts"]
    assert served["email"] == account("anchornet-head" if name == "head" else "anchornet-worker")
    assert served["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]
    (interface,) = machines[name]["networkInterfaces"]  # Ray adds one with a public address to a type that has none
    assert interface == {"subnetwork": f"projects/{PROJECT}/regions/{VALUES['region']}/subnetworks/anchornet"}


@pytest.mark.parametrize("name", TYPES)
def test_every_node_starts_from_a_disk_that_its_kind_of_machine_takes(
    name: str, machines: dict[str, dict[str, Any]]
) -> None:
    (disk,) = machines[name]["disks"]
    assert (disk["boot"], disk["autoDelete"], disk["type"]) == (True, True, "PERSISTENT")
    # Google's default, pd-standard, is refused for c3 and g2.
    assert disk["initializeParams"]["diskType"] == f"zones/{VALUES['zone']}/diskTypes/pd-balanced"


def test_nodes_with_a_gpu_wait_for_its_driver_and_check_the_owner_of_the_token() -> None:
    config = cluster_of(GCP)
    general = config["initialization_commands"]
    for name in ("gpu_spot", "gpu_on_demand"):
        own = config["available_node_types"][name]["initialization_commands"]
        assert own[: len(general)] == general
        assert "nvidia-smi" in own[-1]


@pytest.mark.parametrize(("uid", "code"), [("1000", 0), ("1001", 1)])
def test_a_token_that_the_container_could_not_read_ends_the_start(uid: str, code: int, tmp_path: Path) -> None:
    program(tmp_path / "id", f"echo {uid}")
    check = cluster_of(GCP)["initialization_commands"][0]
    done = subprocess.run(
        ["bash", "-c", check], env=with_programs(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert ("take an Ubuntu image" in done.stderr) is bool(code)


class Asked(NamedTuple):
    """One command that the script gave to gcloud."""

    words: tuple[str, ...]

    @property
    def verb(self) -> str:
        return " ".join(word for word in self.words if not word.startswith("-"))

    def option(self, name: str) -> str:
        return next((word.partition("=")[2] for word in self.words if word.startswith(f"--{name}=")), "")


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def with_programs(folder: Path, **variables: str) -> dict[str, str]:
    """An environment where these programs are found first."""
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **variables}


def run_script(folder: Path, settings: dict[str, str], *, there: bool = False) -> list[Asked]:
    """What the script asks gcloud for in a project where nothing is there yet, or everything."""
    log = folder / "asked"
    log.touch()
    describe = 'for word; do [ "$word" = describe ] && exit 1; done; ' if not there else ""
    program(folder / "gcloud", f'{describe}printf "%s\\t" "$@" >> "{log}"; echo >> "{log}"')
    done = subprocess.run(
        ["bash", str(SCRIPT)], env=with_programs(folder, **settings), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    asked = [Asked(tuple(line.rstrip("\t").split("\t"))) for line in log.read_text().splitlines()]
    return [each for each in asked if "describe" not in each.words]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Asked]:
    return run_script(tmp_path_factory.mktemp("gcloud"), SETTINGS)


def test_the_roles_are_these_and_no_others(asked: list[Asked]) -> None:
    bindings = {
        (each.option("member").removeprefix("serviceAccount:"), each.option("role"), each.verb.rpartition(" ")[2])
        for each in asked
        if "add-iam-policy-binding" in each.words
    }
    head, worker = account("anchornet-head"), account("anchornet-worker")
    both = {
        (who, role, what)
        for who in (head, worker)
        for role, what in (
            ("roles/storage.objectViewer", "gs://photographs"),
            ("roles/storage.objectUser", "gs://results"),
            ("roles/artifactregistry.reader", "anchornet"),
        )
    }
    assert bindings == both | {
        (head, "roles/compute.instanceAdmin.v1", PROJECT),
        (head, "roles/iam.serviceAccountUser", worker),
    }


def test_only_nodes_and_googles_proxy_get_in(asked: list[Asked]) -> None:
    rules = {
        each.verb.rpartition(" ")[2]: (each.option("allow"), each.option("source-ranges"), each.option("source-tags"))
        for each in asked
        if each.verb.startswith("compute firewall-rules create")
    }
    assert rules == {
        "anchornet-inside": ("all", "", "anchornet"),
        "anchornet-ssh-through-iap": ("tcp:22", IAP, ""),
    }


def test_the_network_is_the_one_that_the_cluster_file_names(
    asked: list[Asked], machines: dict[str, dict[str, Any]]
) -> None:
    (made,) = [each for each in asked if each.verb.startswith("compute networks subnets create")]
    assert made.verb.endswith(" anchornet")
    assert "--enable-private-ip-google-access" in made.words  # nodes without an address reach storage by it
    assert {tag for machine in machines.values() for tag in machine["tags"]["items"]} == {"anchornet"}


def test_the_account_that_ray_arms_by_itself_is_disabled(asked: list[Asked]) -> None:
    (disabled,) = [each for each in asked if each.verb.startswith("iam service-accounts disable")]
    assert disabled.verb.endswith(f" {account(_account_that_ray_makes())}")
    assert any(each.verb.startswith("iam service-accounts create ray-autoscaler-sa-v1") for each in asked)


def _account_that_ray_makes() -> str:
    """Out of the text of Ray's module, which cannot be imported without Google's client."""
    source = (Path(autoscaler.__file__).parent / "_private" / "gcp" / "config.py").read_text()
    names = ("RAY", "VERSION", "DEFAULT_SERVICE_ACCOUNT_ID")
    lines = re.findall(rf"^(?:{'|'.join(names)}) = .+$", source, re.MULTILINE)
    found: dict[str, Any] = {}
    exec("\n".join(lines), found)
    return str(found["DEFAULT_SERVICE_ACCOUNT_ID"])


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    again = run_script(tmp_path, SETTINGS, there=True)
    assert again
    assert not [each for each in again if "create" in each.words]


@pytest.mark.parametrize("missing", sorted(SETTINGS))
def test_the_script_says_which_setting_is_missing(missing: str, tmp_path: Path) -> None:
    program(tmp_path / "gcloud", f'touch "{tmp_path}/called"')
    settings = {name: value for name, value in SETTINGS.items() if name != missing}
    environment = {name: value for name, value in with_programs(tmp_path, **settings).items() if name != missing}
    done = subprocess.run(["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search(rf"set {missing}, ", done.stderr)
    assert not (tmp_path / "called").exists()
