"""The files for AWS against what is published of it: botocore's model of its API and cfn-lint's of CloudFormation.

Ray's own code starts the nodes in test_aws_launch.py. Not shown in either: that the policies suffice and forbid (moto does not
judge their conditions), that there are such machines, and what is in their image.
"""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from tests.unit.cluster.aws_account import ACCOUNT, DEFAULTS, NUMBER, REGION, TYPES, listed, may, statements, template
from tests.unit.cluster.cluster_files import AWS, cluster_of, too_old

pytestmark = pytest.mark.skipif(too_old(), reason="the cluster files are for the Ray of cluster/Dockerfile")

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


def test_nodes_reach_nodes_and_https() -> None:
    resources = template()["Resources"]
    assert [(each["FromPort"], each["ToPort"]) for each in resources["Group"]["Properties"]["SecurityGroupEgress"]] == [
        (443, 443)
    ]
    others = [each["Properties"] for each in resources.values() if each["Type"] == "AWS::EC2::SecurityGroupEgress"]
    assert [each["DestinationSecurityGroupId"] for each in others] == [{"Fn::GetAtt": "Group.GroupId"}]


def test_nodes_pull_from_the_repository_that_the_roles_name() -> None:
    docker = cluster_of(AWS)["docker"]
    registry = f"{NUMBER}.dkr.ecr.{REGION}.amazonaws.com/{DEFAULTS['Repository']}"
    assert (docker["image"], docker["head_image"]) == (f"{registry}:gpu", f"{registry}:cpu")
