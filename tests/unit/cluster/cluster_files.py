"""The files of cluster/ as tests want them: placeholders filled, and asked of Ray what it would start."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from packaging.version import Version
from ray import __version__
from ray.autoscaler.v2.event_logger import AutoscalerEventLogger
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import NodeState, NodeStatus, ResourceRequestByCount
from ray.core.generated.common_pb2 import LabelSelectorOperator
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "cluster"
AWS = CLUSTER / "aws" / "cluster.yaml"
GCP = CLUSTER / "gcp" / "cluster.yaml"
DOCKERFILE = CLUSTER / "Dockerfile"
PLACEHOLDER = re.compile(r"<([a-z]+(?:-[a-z]+)*)>")
VALUES = {
    "region": "us-east-1",
    "zone": "us-east1-b",
    "account": "123456789012",
    "project": "photographs",
    "image": "ami-0123456789abcdef0",
    "private-subnet": "subnet-0123456789abcdef0",
    "security-group": "sg-0123456789abcdef0",
}
"""What somebody might put into the places of a file."""


def filled(path: Path, **values: str) -> str:
    """The text of a file with something in every place that is marked ``<so>``; ``private_subnet`` fills <private-subnet>."""
    known = {**VALUES, **{name.replace("_", "-"): value for name, value in values.items()}}
    return PLACEHOLDER.sub(lambda found: known[found[1]], path.read_text())


def cluster_of(path: Path, **values: str) -> dict[str, Any]:
    """A cluster file as Ray's command line reads it."""
    config: dict[str, Any] = yaml.safe_load(filled(path, **values))
    return config


def docker_arguments() -> dict[str, str]:
    """The defaults of the Dockerfile's ARGs."""
    return dict(re.findall(r"^ARG (\w+)=(.+)$", DOCKERFILE.read_text(), re.MULTILINE))


def too_old() -> bool:
    """Whether the Ray of this environment is older than that of the image: it does not know all that the files say."""
    return Version(__version__) < Version(docker_arguments()["RAY"])


class Demand(NamedTuple):
    """So many processes of one kind."""

    number: int
    resources: Mapping[str, float]
    labels: Mapping[str, str] | None = None
    """Of the nodes to use."""


def started(config: Mapping[str, Any], demands: Sequence[Demand], refused: Collection[str] = ()) -> dict[str, int]:
    """How many nodes of each type Ray's autoscaler would start for what waits, on a cluster that is a head alone.

    refused: types that the cloud has just refused.
    """
    known = AutoscalingConfig(dict(config), skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=known.get_node_type_configs(),
        max_num_nodes=known.get_max_num_nodes(),
        resource_requests=[
            ResourceRequestByCount(request=_request(demand), count=demand.number) for demand in demands if demand.number
        ],
        current_instances=[_head(known)],
        recoverable_resource_availabilities=dict.fromkeys(refused, 0.0),
    )
    reply = ResourceDemandScheduler(AutoscalerEventLogger(_NobodyListens())).schedule(request)
    counts: Counter[str] = Counter()
    for launch in reply.to_launch:
        counts[launch.instance_type] += launch.count
    return dict(counts)


def _request(demand: Demand) -> Any:
    wanted = (demand.labels or {}).items()
    selector = [(label, LabelSelectorOperator.LABEL_OPERATOR_IN, [value]) for label, value in wanted]
    return ResourceRequestUtil.make(dict(demand.resources), label_selectors=[selector] if selector else None)


def _head(known: AutoscalingConfig) -> AutoscalerInstance:
    name = known.get_head_node_type()
    resources = known.get_node_resources(name)
    return AutoscalerInstance(
        cloud_instance_id="cloud-head",
        im_instance=Instance(
            instance_type=name,
            status=Instance.RAY_RUNNING,
            instance_id="head",
            node_id="ray-head",
            node_kind=NodeKind.HEAD,
        ),
        ray_node=NodeState(
            ray_node_type_name=name,
            node_id=b"ray-head",
            total_resources=resources,
            available_resources=resources,
            status=NodeStatus.RUNNING,
        ),
    )


class _NobodyListens:
    """Where the autoscaler writes what it tells people."""

    def info(self, *_: Any) -> None: ...

    def warning(self, *_: Any) -> None: ...

    def error(self, *_: Any) -> None: ...

    def debug(self, *_: Any) -> None: ...
