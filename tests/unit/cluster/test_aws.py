"""The files for AWS against what is published of it: botocore's model of its API, cfn-lint's of CloudFormation, and moto, which
plays both.

The account of account.yaml is made in moto, and Ray's own code starts every type of node in it. Not shown here: that the policies
suffice and forbid (moto does not judge their conditions), that there are such machines, and what is in their image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from moto import mock_aws
from ray.autoscaler._private.aws import utils
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config

from tests.unit.cluster.cluster_files import AWS, CLUSTER, cluster_of, too_old

pytestmark = [
    pytest.mark.skipif(too_old(), reason="the cluster files are for the Ray of cluster/Dockerfile"),
    pytest.mark.filterwarnings("ignore:Tried to parse AWS..EC2..SecurityGroupEgress"),  # which moto does not play
]
ACCOUNT = CLUSTER / "aws" / "account.yaml"
REGION = "us-east-1"
NUMBER = "123456789012"
"""Of the account; moto's."""
UNSCOPED = {
    "ec2:DescribeInstances",
    "ecr:GetAuthorizationToken",
    "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
}
"""Actions for which AWS knows no resource, or for which its own guide to sessions names none."""
SETTINGS = {"InputBucket": "photographs", "InputPrefix": "2026/animals", "RunBucket": "results", "RunPrefix": "runs"}
DEFAULTS = {"ClusterName": "anchornet", "Repository": "anchornet"}
"""Of the template, and what cluster.yaml says."""
TYPES = sorted(yaml.safe_load(AWS.read_text())["available_node_types"])


class _Template(yaml.SafeLoader):
    """Reads the short forms of CloudFormation's functions as their long ones."""


def _function(loader: _Template, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value = loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else loader.construct_sequence(node)
    return {"Ref" if suffix == "Ref" else f"Fn::{suffix}": value}


_Template.add_multi_constructor("!", _function)


def template() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(ACCOUNT.read_text(), _Template)
    return found


def spoken(value: Any) -> Any:
    """A value of the template with its parameters and references in place."""
    if isinstance(value, list):
        return [spoken(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "Ref" in value:
        return {**SETTINGS, **DEFAULTS}.get(value["Ref"], value["Ref"])
    if "Fn::GetAtt" in value:
        return str(value["Fn::GetAtt"])
    if "Fn::Sub" in value:
        known = {**SETTINGS, **DEFAULTS, "AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": NUMBER}
        return re.sub(r"\$\{([^}]+)\}", lambda name: str(known.get(name[1], name[1])), value["Fn::Sub"])
    return {key: spoken(each) for key, each in value.items()}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(role: str) -> list[dict[str, Any]]:
    """What a role may do, its own policies and those attached to it."""
    resources = template()["Resources"]
    policies = [policy["PolicyDocument"] for policy in resources[role]["Properties"].get("Policies", [])]
    policies += [
        each["Properties"]["PolicyDocument"]
        for each in resources.values()
        if each["Type"] == "AWS::IAM::ManagedPolicy" and {"Ref": role} in each["Properties"]["Roles"]
    ]
    return [spoken(statement) for policy in policies for statement in policy["Statement"]]


def may(role: str, prefix: str = "") -> dict[str, set[str]]:
    """The resources of each action that begins so."""
    found: dict[str, set[str]] = {}
    for statement in statements(role):
        for action in listed(statement["Action"]):
            if action.startswith(prefix):
                found.setdefault(action, set()).update(listed(statement["Resource"]))
    return found


@pytest.fixture(scope="module")
def run_instances() -> Any:
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


@pytest.mark.parametrize("name", TYPES)
def test_ec2_knows_every_field_of_a_machine(name: str, run_instances: Any) -> None:
    machine = dict(cluster_of(AWS)["available_node_types"][name]["node_config"])
    (machine["SubnetId"],) = machine.pop("SubnetIds")  # Ray takes one after the other
    report = ParamValidator().validate({**machine, "MinCount": 1, "MaxCount": 1}, run_instances)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("name", TYPES)
def test_every_machine_keeps_its_secrets_and_its_disk(name: str) -> None:
    machine = cluster_of(AWS)["available_node_types"][name]["node_config"]
    assert machine["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    (disk,) = machine["BlockDeviceMappings"]
    assert disk["Ebs"]["Encrypted"] is True
    assert disk["Ebs"]["DeleteOnTermination"] is True


def test_cloudformation_has_nothing_to_say_against_the_account() -> None:
    api = pytest.importorskip("cfnlint.api")
    matches = api.lint_all(ACCOUNT.read_text())
    # Its third kind, information, asks for a description in a form of its own.
    assert [str(match) for match in matches if match.rule.id[0] in "EW"] == []


@pytest.mark.parametrize("role", ["HeadRole", "WorkerRole"])
def test_no_role_may_do_everything_or_something_to_everything(role: str) -> None:
    allowed = statements(role)
    assert allowed
    for statement in allowed:
        actions = set(listed(statement["Action"]))
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in actions)
        assert "*" not in listed(statement["Resource"]) or actions <= UNSCOPED
    assert "ManagedPolicyArns" not in template()["Resources"][role]["Properties"]


@pytest.mark.parametrize("role", ["HeadRole", "WorkerRole"])
def test_one_prefix_is_read_and_one_is_written(role: str) -> None:
    source = {"arn:aws:s3:::photographs/2026/animals", "arn:aws:s3:::photographs/2026/animals/*"}
    run = {"arn:aws:s3:::results/runs", "arn:aws:s3:::results/runs/*"}
    assert may(role, "s3:") == {
        "s3:GetObject": source | run,
        "s3:ListBucket": {"arn:aws:s3:::photographs", "arn:aws:s3:::results"},
        "s3:PutObject": run,
        "s3:DeleteObject": run,
        "s3:AbortMultipartUpload": run,
    }
    prefixes = [
        statement["Condition"]["StringLikeIfExists"]["s3:prefix"]
        for statement in statements(role)
        if statement["Action"] == "s3:ListBucket"
    ]
    assert prefixes == [["2026/animals", "2026/animals/*"], ["runs", "runs/*"]]


def test_a_worker_may_read_write_and_pull_and_nothing_else() -> None:
    assert {action.partition(":")[0] for action in may("WorkerRole")} == {"s3", "ecr"}
    pulls = may("WorkerRole", "ecr:")
    assert pulls.pop("ecr:GetAuthorizationToken") == {"*"}
    assert set().union(*pulls.values()) == {f"arn:aws:ecr:{REGION}:{NUMBER}:repository/anchornet"}
    assert not {"ecr:PutImage", "ecr:InitiateLayerUpload"} & set(pulls)


def test_the_head_ends_and_tags_only_nodes_of_its_own_cluster() -> None:
    own = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": "anchornet"}}
    starting = {"StringEquals": {"aws:RequestTag/ray-cluster-name": "anchornet", "ec2:CreateAction": "RunInstances"}}
    found: dict[str, list[Any]] = {}
    for statement in statements("HeadRole"):
        for action in listed(statement["Action"]):
            found.setdefault(action, []).append(statement.get("Condition"))
    assert found["ec2:TerminateInstances"] == [own]
    assert found["ec2:CreateTags"] == [starting, own]
    assert {"StringEquals": {"aws:RequestTag/ray-cluster-name": "anchornet"}} in found["ec2:RunInstances"]
    assert may("HeadRole", "ec2:Run")["ec2:RunInstances"] >= {
        f"arn:aws:ec2:{REGION}:{NUMBER}:security-group/Group.GroupId"
    }


def test_the_head_gives_away_the_role_of_workers_and_no_other() -> None:
    (statement,) = [each for each in statements("HeadRole") if "iam:PassRole" in listed(each["Action"])]
    assert statement["Resource"] == "WorkerRole.Arn"
    assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    assert may("HeadRole", "iam:").keys() == {"iam:PassRole"}


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


def test_nodes_reach_nodes_and_https() -> None:
    resources = template()["Resources"]
    assert [(each["FromPort"], each["ToPort"]) for each in resources["Group"]["Properties"]["SecurityGroupEgress"]] == [
        (443, 443)
    ]
    others = [each["Properties"] for each in resources.values() if each["Type"] == "AWS::EC2::SecurityGroupEgress"]
    assert [each["DestinationSecurityGroupId"] for each in others] == [{"Fn::GetAtt": "Group.GroupId"}]


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


def test_nodes_pull_from_the_repository_that_the_roles_name() -> None:
    docker = cluster_of(AWS)["docker"]
    registry = f"{NUMBER}.dkr.ecr.{REGION}.amazonaws.com/{DEFAULTS['Repository']}"
    assert (docker["image"], docker["head_image"]) == (f"{registry}:gpu", f"{registry}:cpu")
