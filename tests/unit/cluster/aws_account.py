"""The template of the account for AWS as tests want it: with its settings in place, and what each role may do."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.unit.cluster.cluster_files import AWS, CLUSTER

ACCOUNT = CLUSTER / "aws" / "account.yaml"
REGION = "us-east-1"
NUMBER = "123456789012"
"""Of the account; moto's."""
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
