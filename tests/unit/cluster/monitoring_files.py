"""The files of cluster/monitoring as tests want them: rules, expressions, and which metrics and labels these ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from jobs.shell.metrics import HISTOGRAMS, NAMES, _tags
from tests.unit.cluster.cluster_files import CLUSTER

FOLDER = CLUSTER / "monitoring"
CONFIG: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
GROUPS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
"""The alerts by name."""
CASES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana" / "anchornet.json").read_text())
VARIABLES: dict[str, dict[str, Any]] = {each["name"]: each for each in DASHBOARD["templating"]["list"]}

FROM_RAY = {"WorkerId", "SessionName"}
"""Labels that Ray gives to each of our series, among others (tests/ray/test_seen.py scrapes them)."""
RAYS_OWN = {
    "ray_actors": {"SessionName", "Name", "State", "Source"},
    "autoscaler_active_nodes": {"SessionName", "NodeType"},
    "autoscaler_pending_nodes": {"SessionName", "NodeType"},
    "autoscaler_recently_failed_nodes": {"SessionName", "NodeType"},
}
"""What is asked of Ray's own metrics, with their labels."""


def _exposed() -> Iterator[tuple[str, set[str]]]:
    for name in NAMES:
        labels = {*_tags(name), *FROM_RAY}
        if name in HISTOGRAMS:
            yield f"ray_{name}_bucket", labels | {"le"}
            yield from ((f"ray_{name}_{part}", labels) for part in ("sum", "count"))
        else:
            yield f"ray_{name}", labels


EXPOSED = dict(_exposed())
"""Our metrics as Prometheus sees them, with their labels."""
_METRIC = r"\b((?:ray|autoscaler)_\w+)"
_SELECTOR = re.compile(_METRIC + r"(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(by|without|on|ignoring)\s*\(([^)]*)\)")


class Asked(NamedTuple):
    """That an expression asks for a label of a metric, and for which value."""

    metric: str
    label: str
    value: str | None = None


def metrics_in(expression: str) -> set[str]:
    """Names of all metrics that an expression reads."""
    return set(re.findall(_METRIC, expression))


def labels_in(expression: str) -> Iterator[Asked]:
    """Every label that an expression asks for.

    What by() and without() name is asked of the metric that follows, what on() and ignoring() name of those on both sides.
    """
    found = list(_SELECTOR.finditer(expression))
    for each in found:
        for label, value in _MATCHER.findall(each[2] or ""):
            yield Asked(each[1], label, value)
    for grouping in _GROUPING.finditer(expression):
        after = [each[1] for each in found if each.start() > grouping.end()][:1]
        before = [each[1] for each in found if each.start() < grouping.start()][-1:]
        assert after, f"{grouping[0]} stands behind what it is about in {expression}; write it before"
        for metric in after if grouping[1] in ("by", "without") else before + after:
            yield from (Asked(metric, label) for label in re.split(r"\s*,\s*", grouping[2].strip()))


def panel_expressions() -> dict[str, str]:
    """Of the dashboard: title and letter -> expression."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    }


def all_expressions() -> dict[str, str]:
    """Where it stands -> expression: of alerts, panels, variables and annotations."""
    queries = {name: each["query"]["query"] for name, each in VARIABLES.items() if each["type"] == "query"}
    marks = {each["name"]: each["expr"] for each in DASHBOARD["annotations"]["list"]}
    return {name: rule["expr"] for name, rule in RULES.items()} | panel_expressions() | queries | marks


def data_sources(node: Any) -> Iterator[Any]:
    """Every data source that is named in a part of the dashboard."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "datasource")
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from data_sources(each)
