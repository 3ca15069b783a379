"""What a cluster has, what it may grow to, and what a job that waits is waiting for.

Ray's own question for the largest size (``get_max_resources_from_cluster_config``, which Ray Train asks) is answered on Anyscale
alone. Elsewhere an autoscaler shows in the names of node types, and how far it goes is known to ``cluster.max_cpus`` and
``cluster.max_gpus`` or to nobody.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ray
from ray._private.state import state
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.experimental import internal_kv

from jobs.settings.common import ClusterSettings

logger = logging.getLogger(__name__)

_PLAIN_NODE = "node_"
"""How Ray begins the name of a node's type when no autoscaler started it; its id follows."""
_FIRST_STATUS = "__autoscaling_status"
"""Where the first version of the autoscaler leaves its status; the second answers by itself."""
_SHOWN = 4


class Resources(NamedTuple):
    """What Ray counts: sums over all nodes, logical CPUs among them."""

    cpus: float
    gpus: float

    def within(self, other: Resources) -> bool:
        """Whether ``other`` has as much of everything."""
        return self.cpus <= other.cpus and self.gpus <= other.gpus

    def __str__(self) -> str:
        """As a part of a sentence."""
        return f"{_number(self.cpus)} logical CPUs and {_number(self.gpus)} GPUs"


class Capacity(NamedTuple):
    """The size of a cluster."""

    now: Resources
    most: Resources
    """What it may have later; the same as ``now`` where nothing grows, infinite where nobody says."""
    one_machine: bool = False
    """True for a Ray that the job started for itself."""

    @classmethod
    def fixed(cls, cpus: float, gpus: float = 0.0, *, one_machine: bool = False) -> Capacity:
        """Of a cluster that does not grow."""
        return cls(Resources(cpus, gpus), Resources(cpus, gpus), one_machine)

    @property
    def grows(self) -> bool:
        """True when more may come."""
        return self.most != self.now


def check_fits(need: Resources, capacity: Capacity, what: str, remedy: str) -> None:
    """Returns when the cluster holds ``need`` now or may hold it later, which is then said.

    Raises ValueError for what can never start: Ray would wait for it without a word.
    """
    if need.within(capacity.now):
        return
    if need.within(capacity.most):
        logger.info("waiting for the cluster to grow: %s need %s, it has %s", what, need, capacity.now)
        return
    limit = f"the cluster may grow to {capacity.most}" if capacity.grows else f"Ray has {capacity.now}"
    raise ValueError(f"{what} need {need}, {limit}: the job would wait for ever; {remedy}")


def cluster_capacity(cluster: ClusterSettings) -> Capacity:
    """Of the connected Ray, busy or not."""
    have = ray.cluster_resources()
    now = Resources(have.get("CPU", 0.0), have.get("GPU", 0.0))
    if cluster.is_local:
        return Capacity.fixed(*now, one_machine=True)
    known = state.get_max_resources_from_cluster_config()
    if known is not None:
        most = Resources(known.get("CPU", 0.0), known.get("GPU", 0.0))
    else:
        most = Resources(math.inf, math.inf) if _autoscaler_at_work() else now
    cpus = most.cpus if cluster.max_cpus is None else cluster.max_cpus
    gpus = most.gpus if cluster.max_gpus is None else cluster.max_gpus
    return Capacity(now, Resources(max(now.cpus, cpus), max(now.gpus, gpus)))


def _autoscaler_at_work() -> bool:
    """Whether some node is of a type that an autoscaler knows."""
    types = list((_first_report().get("node_type_mapping") or {}).values())
    seen = get_cluster_status(ray.get_runtime_context().gcs_address)
    types += [node.ray_node_type_name for node in (*seen.active_nodes, *seen.idle_nodes)]
    return any(name and not name.startswith(_PLAIN_NODE) for name in types)


class Waiting(NamedTuple):
    """What Ray cannot start at the moment."""

    demands: tuple[tuple[Mapping[str, float], int], ...]
    """What processes ask for, and how many ask for it."""
    launching: tuple[str, ...]
    failed: tuple[str, ...]

    def sentence(self, owners: Mapping[Resources, str]) -> str:
        """For people. owners: what a process of some CPUs and GPUs is."""
        if not self.demands:
            return "no process waits for a CPU, a GPU or a node; what runs may be waiting for storage, or be slow"
        said = "; ".join(_demand(bundle, count, owners) for bundle, count in self.demands[:_SHOWN])
        parts = [f"waiting for {said}"]
        if self.launching:
            parts.append(f"nodes on their way: {', '.join(self.launching)}")
        if self.failed:
            parts.append(f"nodes that did not come: {', '.join(self.failed[:_SHOWN])}")
        if not self.launching:
            parts.append("no node is on its way")
        return ", ".join(parts)


def what_waits() -> Waiting:
    """What the connected Ray says of processes that it has no place for, and of nodes that are to come."""
    seen = get_cluster_status(ray.get_runtime_context().gcs_address)
    groups = (*seen.resource_demands.ray_task_actor_demand, *seen.resource_demands.placement_group_demand)
    demands = [(dict(each.bundle), each.count) for group in groups for each in group.bundles_by_count]
    launching = [f"{each.count} x {each.ray_node_type_name}" for each in seen.pending_launches]
    launching += [node.ray_node_type_name for node in seen.pending_nodes]
    failed = [f"{each.count} x {each.ray_node_type_name} ({each.details})" for each in seen.failed_launches]
    first = _first_report()
    launching += [f"{count} x {name}" for name, count in (first.get("pending_launches") or {}).items()]
    launching += [str(node[1]) for node in first.get("pending_nodes") or []]
    return Waiting(tuple(demands), tuple(launching), tuple(failed))


def _first_report() -> dict[str, Any]:
    status = internal_kv._internal_kv_get(_FIRST_STATUS)
    return (json.loads(status).get("autoscaler_report") if status else None) or {}


def _demand(bundle: Mapping[str, float], count: int, owners: Mapping[Resources, str]) -> str:
    owner = owners.get(Resources(bundle.get("CPU", 0.0), bundle.get("GPU", 0.0)))
    asked = ", ".join(f"{_number(amount)} {name}" for name, amount in sorted(bundle.items()))
    return f"room for {count} x ({asked})" + (f", {owner}" if owner else "")


def _number(value: float) -> str:
    return "any number of" if math.isinf(value) else f"{value:g}"


class Stall:
    """Notices that a job does not move, and says what it waits for: after ``patience_s``, and again each time as long."""

    def __init__(self, patience_s: float, owners: Mapping[Resources, str]) -> None:
        self._patience_s = patience_s
        self._owners = owners
        self._moved: Any = object()
        self._since_s = self._said_s = 0.0

    def watch(self, moved: Any, elapsed_s: float) -> None:
        """moved: what changes with every bit of progress. Warns when it has been the same for too long."""
        if moved != self._moved:
            self._moved, self._since_s, self._said_s = moved, elapsed_s, elapsed_s
        elif elapsed_s - self._said_s >= self._patience_s:
            self._said_s = elapsed_s
            sentence = _or_why_not(self._owners)
            logger.warning("nothing has moved for %.0f s: %s", elapsed_s - self._since_s, sentence)


def _or_why_not(owners: Mapping[Resources, str]) -> str:
    try:
        return what_waits().sentence(owners)
    except Exception as error:  # a line for people: the job goes on whatever Ray's status does
        return f"Ray does not say what is waited for ({type(error).__name__}: {error})"


def owners_of(named: Iterable[tuple[float, float, str]]) -> dict[Resources, str]:
    """(CPUs, GPUs, what it is) of a job's processes, by what they ask for; those that ask for the same share a name."""
    owners: dict[Resources, str] = {}
    for cpus, gpus, name in named:
        key = Resources(cpus, gpus)
        owners[key] = f"{owners[key]} or {name}" if key in owners else name
    return owners
