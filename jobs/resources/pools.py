"""Pools of actors: how Ray Data runs them, and where their networks lie."""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch
from ray.data import ActorPoolStrategy

from anchornet.cascade.protocol import Placement
from jobs.settings.common import InferenceSettings, PoolSettings

_CALLS = "max_concurrent_calls_per_actor"


def claim(pool: PoolSettings, inference: InferenceSettings) -> Placement:
    """Where the networks of an actor run; torch gets as many CPU threads in this process as the pool gives an actor."""
    torch.set_num_threads(threads_per_actor(pool))
    on_gpu = pool.gpus > 0 and inference.device != "cpu"
    return Placement("cuda" if on_gpu else "cpu", getattr(torch, inference.precision))


def threads_per_actor(pool: PoolSettings) -> int:
    """CPU threads of torch in one actor; Ray alone would give an actor that holds less than a CPU a single one."""
    return pool.threads or max(1, (os.cpu_count() or 1) // pool.largest)


def pool_options(pool: PoolSettings, calls_in_flight: int = 1) -> dict[str, Any]:
    """How Ray Data runs a pool of actors; with more than one call in flight the actor does its own locking."""
    options: dict[str, Any] = {"num_cpus": pool.cpus, "num_gpus": pool.gpus}
    concurrency = {}
    if _CALLS in inspect.signature(ActorPoolStrategy).parameters:
        concurrency[_CALLS] = calls_in_flight
    else:  # Ray before 2.60 takes it as an option of the actor, which 2.60 calls deprecated
        options["max_concurrency"] = calls_in_flight
    options["compute"] = ActorPoolStrategy(
        min_size=pool.actors,
        max_size=pool.largest,
        initial_size=pool.actors,
        enable_true_multi_threading=calls_in_flight > 1,
        **concurrency,
    )
    if pool.accelerator_type:
        options["accelerator_type"] = pool.accelerator_type
    if pool.labels:
        options["label_selector"] = dict(pool.labels)
    return options
