"""Every type of node for AWS, started by Ray's own code in the account of account.yaml, as moto plays EC2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto import mock_aws
from ray.autoscaler._private.aws import utils
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config

from tests.unit.cluster.aws_account import ACCOUNT, DEFAULTS, NUMBER, REGION, SETTINGS, TYPES, may, template
from tests.unit.cluster.cluster_files import AWS, cluster_of, too_old

pytestmark = [
    pytest.mark.skipif(too_old(), reason="the cluster files are for the Ray of cluster/Dockerfile"),
    pytest.mark.filterwarnings("ignore:Tried to parse AWS..EC2..SecurityGroupEgress"),  # which moto does not play
]


@dataclass(frozen=True)
class Launched:
    """What there is after Ray has started one node of each type."""

    stack: dict[str, str]
    """What account.yaml says at its end."""
    machines: dict[str, dict[str, Any]]
    """What EC2 says of the node of each type."""
    groups: list[dict[str, Any]]
    roles: dict[str, list[str]]
    """The roles of each profile."""
    calls: set[str]
    """What Ray asked EC2 for, from the first node on."""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray puts a key for SSH there
        for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", REGION),
        ):
            patch.setenv(name, value)
        _forget_clients()
        yield _launch()
    _forget_clients()


def _forget_clients() -> None:
    for cache in (utils.resource_cache, utils.client_cache):
        cache.cache_clear()


def _launch() -> Launched:
    ec2, iam = boto3.client("ec2"), boto3.client("iam")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    stack = _account(vpc)
    file = cluster_of(
        AWS, region=REGION, account=NUMBER, image=image, private_subnet=subnet, security_group=stack["SecurityGroup"]
    )
    config = bootstrap_aws(prepare_config(file))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    calls: set[str] = set()
    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register("before-call.ec2", lambda model, **_: calls.add(f"ec2:{model.name}"))
    for name, each in config["available_node_types"].items():
        provider.create_node(each["node_config"], {"ray-node-name": name, "ray-user-node-type": name}, 1)
    nodes = provider.non_terminated_nodes({})
    found = ec2.describe_instances(InstanceIds=nodes)["Reservations"]
    machines = {_tag(each, "ray-user-node-type"): each for part in found for each in part["Instances"]}
    provider.set_node_tags(nodes[0], {"ray-node-status": "up-to-date"})
    provider.terminate_nodes(nodes)
    groups = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["SecurityGroups"]
    profiles = iam.list_instance_profiles()["InstanceProfiles"]
    roles = {each["InstanceProfileName"]: [role["RoleName"] for role in each["Roles"]] for each in profiles}
    return Launched(stack, machines, groups, roles, calls)


def _account(vpc: str) -> dict[str, str]:
    cloudformation = boto3.client("cloudformation")
    settings = [{"ParameterKey": key, "ParameterValue": value} for key, value in {**SETTINGS, "VpcId": vpc}.items()]
    cloudformation.create_stack(
        StackName="anchornet",
        TemplateBody=ACCOUNT.read_text(),
        Parameters=settings,
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    outputs = cloudformation.describe_stacks(StackName="anchornet")["Stacks"][0]["Outputs"]
    return {output["OutputKey"]: output["OutputValue"] for output in outputs}


def _tag(machine: dict[str, Any], key: str) -> str:
    return next(tag["Value"] for tag in machine["Tags"] if tag["Key"] == key)


def test_every_node_has_the_profile_that_the_account_made_for_it(launched: Launched) -> None:
    profiles = {name: each["IamInstanceProfile"]["Arn"].rpartition("/")[2] for name, each in launched.machines.items()}
    worker = launched.stack["WorkerProfile"]
    assert profiles == {"head": launched.stack["HeadProfile"], **dict.fromkeys(set(TYPES) - {"head"}, worker)}


def test_ray_makes_no_role_and_no_group_of_its_own(launched: Launched) -> None:
    assert launched.roles == {"anchornet-head": ["anchornet-head"], "anchornet-worker": ["anchornet-worker"]}
    own = launched.stack["SecurityGroup"]
    assert [group["GroupId"] for group in launched.groups if group["GroupName"] != "default"] == [own]
    used = {name: [group["GroupId"] for group in each["SecurityGroups"]] for name, each in launched.machines.items()}
    assert used == {name: [own] for name in TYPES}


def test_nodes_are_reached_from_nodes_alone(launched: Launched) -> None:
    (group,) = [each for each in launched.groups if each["GroupId"] == launched.stack["SecurityGroup"]]
    (rule,) = group["IpPermissions"]
    assert rule["IpProtocol"] == "-1"
    assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]
    assert (rule["IpRanges"], rule.get("Ipv6Ranges", []), rule.get("PrefixListIds", [])) == ([], [], [])
    resources = template()["Resources"].values()
    assert [each["Type"] for each in resources].count("AWS::EC2::SecurityGroup") == 1
    assert not any("SecurityGroupIngress" in each["Properties"] for each in resources)


def test_two_types_are_spot_and_two_are_not(launched: Launched) -> None:
    market = {name: machine.get("InstanceLifecycle", "on-demand") for name, machine in launched.machines.items()}
    assert market == {"head": "on-demand", "decode": "spot", "gpu_spot": "spot", "gpu_on_demand": "on-demand"}


def test_the_head_may_do_what_ray_does_on_it(launched: Launched) -> None:
    assert {"ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances", "ec2:DescribeInstances"} == launched.calls
    assert launched.calls <= set(may("HeadRole"))


def test_a_node_bears_the_tag_that_the_roles_ask_for(launched: Launched) -> None:
    parameters = template()["Parameters"]
    assert {name: parameters[name]["Default"] for name in DEFAULTS} == DEFAULTS
    assert {_tag(machine, "ray-cluster-name") for machine in launched.machines.values()} == {DEFAULTS["ClusterName"]}
