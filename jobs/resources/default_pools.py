"""Pools of actors for a label job that names none: from the size of the cluster, and from what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jobs.resources.capacity import Capacity
from jobs.settings.common import PoolSettings


def default_pools(capacity: Capacity, num_stages: int, seconds: Sequence[float] = ()) -> tuple[PoolSettings, ...]:
    """A pool for each stage, of one actor at the start and more where the cluster has or may have room.

    GPUs are shared out by ``seconds``, what each stage takes per image (as ``--dry-run`` measures it), or evenly; fewer GPUs than
    stages are shared by all of them. Without GPUs, actors get half of the CPUs; reading and decoding has the other half. Where
    nobody says how large the cluster may become, and on a single machine, whose cores one actor per stage uses up, nothing grows.
    """
    total = sum(seconds)
    shares = [each / total for each in seconds] if total else [1 / num_stages] * num_stages
    gpus, cpus = _finite(capacity.most.gpus), _finite(capacity.most.cpus)
    if gpus >= num_stages:
        return tuple(PoolSettings(max_actors=1 + int((gpus - num_stages) * share), gpus=1.0) for share in shares)
    if gpus:
        return (PoolSettings(gpus=math.floor(100 * gpus / num_stages) / 100),) * num_stages
    if capacity.one_machine or not cpus:
        return (PoolSettings(),) * num_stages
    return tuple(PoolSettings(max_actors=max(1, int(cpus / 2 * share)), cpus=1.0, threads=1) for share in shares)


def _finite(amount: float) -> int:
    return int(amount) if math.isfinite(amount) else 0


def pools_text(stages: Sequence[str], pools: Sequence[PoolSettings]) -> str:
    """For people: what was chosen."""
    return "; ".join(_pool_text(stage, pool) for stage, pool in zip(stages, pools, strict=True))


def _pool_text(stage: str, pool: PoolSettings) -> str:
    size = f"{pool.actors} to {pool.largest} actors" if pool.largest > pool.actors else f"{pool.actors} actor"
    gpus = f" and {pool.gpus:g} GPU" if pool.gpus else ""
    return f"{stage} {size} of {pool.cpus:g} CPU{gpus}"
