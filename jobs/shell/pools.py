"""Pools of actors: how Ray Data runs them, and where their networks lie."""

from __future__ import annotations

import os
from typing import Any

import torch
from ray.data import ActorPoolStrategy

from anchornet.cascade.protocol import Placement
from jobs.settings.common import InferenceSettings, PoolSettings


def claim(pool: PoolSettings, inference: InferenceSettings) -> Placement:
    """Where the networks of an actor run; torch gets as many CPU threads in this process as the pool gives an actor."""
    torch.set_num_threads(threads_per_actor(pool))
    return Placement("cuda" if pool.gpus > 0 else "cpu", getattr(torch, inference.precision))


def threads_per_actor(pool: PoolSettings) -> int:
    """CPU threads of torch in one actor; Ray alone would give an actor that holds less than a CPU a single one."""
    return pool.threads or max(1, (os.cpu_count() or 1) // pool.largest)


def pool_options(pool: PoolSettings, calls_in_flight: int = 1) -> dict[str, Any]:
    """How Ray Data runs a pool of actors; with more than one call in flight the actor does its own locking."""
    strategy = ActorPoolStrategy(
        min_size=pool.actors,
        max_size=pool.largest,
        initial_size=pool.actors,
        enable_true_multi_threading=calls_in_flight > 1,
    )
    options: dict[str, Any] = {"compute": strategy, "num_cpus": pool.cpus, "num_gpus": pool.gpus}
    # An option of the actor rather than of the strategy, whose max_concurrent_calls_per_actor Ray has only since 2.60.
    options["max_concurrency"] = calls_in_flight
    if pool.accelerator_type:
        options["accelerator_type"] = pool.accelerator_type
    return options
