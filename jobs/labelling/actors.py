"""The actors of the label pipeline: each holds one cascade and runs one stage of it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy

from anchornet.bundle import Bundle, load_bundle
from anchornet.cascade import label_stage
from anchornet.cascade import rows as records
from anchornet.systems.anchornet.cascade import AnchorCascade
from jobs.settings import InferenceSettings, PoolSettings

CALLS_IN_FLIGHT = 2
"""Calls an actor works on at a time: one computes, the next one has its batch and its lease ready."""


def open_cascade(
    bundle: Bundle, pool: PoolSettings, inference: InferenceSettings, random_patches_seed: int | None = None
) -> AnchorCascade:
    """The bundle's cascade on this process's device, with as many CPU threads as the pool gives an actor."""
    torch.set_num_threads(threads_per_actor(pool))
    device = "cuda" if pool.gpus > 0 else "cpu"
    precision = getattr(torch, inference.precision)
    return AnchorCascade(bundle, device=device, precision=precision, random_patches_seed=random_patches_seed)


def threads_per_actor(pool: PoolSettings) -> int:
    """CPU threads of torch in one actor; Ray alone would give an actor that holds less than a CPU a single one."""
    return pool.threads or max(1, (os.cpu_count() or 1) // pool.largest)


@dataclass(frozen=True)
class StageWork:
    """What an actor of the label pipeline needs to know."""

    bundle: str
    stage: int
    pool: PoolSettings
    inference: InferenceSettings


class StageActor:
    """One stage of the cascade: leases a share of the budget for each batch, computes, settles.

    Two calls may be in flight. Only one computes; the other gets its lease meanwhile, so a GPU never waits for the
    ledger.
    """

    def __init__(self, work: StageWork, ledger: ActorHandle) -> None:
        self._bundle = load_bundle(work.bundle)
        self._cascade = open_cascade(self._bundle, work.pool, work.inference)
        self._stage = self._cascade.stages[work.stage]
        self._calibrate = self._bundle.calibrator
        self._index = work.stage
        self._ledger = ledger
        self._computing = threading.Lock()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Work rows in, work rows out; output rows (LABEL_SCHEMA) after the last stage."""
        rows = records.carrying_rows(table)
        if self._index == 0:
            self._release(table)
        if len(rows):
            table = self._run(table, rows)
        if self._index == len(self._cascade.stages) - 1:
            return label_stage.finish_rows(self._cascade, table, self._calibrate)
        return table

    def _release(self, table: pa.Table) -> None:
        """Tell the ledger of images that could not be read, so that it keeps no first exit in reserve for them."""
        unreadable = table.filter(table[f"{records.CARRY}image"].is_null())["image_id"].to_numpy()
        if len(unreadable):
            self._ledger.skip.remote(unreadable)

    def _run(self, table: pa.Table, rows: np.ndarray) -> pa.Table:
        image_ids = table["image_id"].to_numpy()[rows]
        lease = ray.get(self._ledger.lease.remote(self._index, image_ids))
        thresholds = lease.policy.thresholds_for(image_ids)
        with self._computing:
            started = time.perf_counter()
            batch = label_stage.label_stage(self._cascade, self._stage, table, rows, thresholds, lease.allowance_macs)
            compute_s = time.perf_counter() - started
        # Waited for outside the lock: until it is settled the whole allowance counts as spent.
        settlement = (lease.lease_id, batch.spent_macs, batch.exit_counts, batch.num_starved)
        ray.get(self._ledger.settle.remote(self._index, len(rows), compute_s, *settlement))
        return batch.table


def pool_options(pool: PoolSettings, calls_in_flight: int = 1) -> dict[str, Any]:
    """How Ray Data runs a pool of actors; with more than one call in flight the actor does its own locking."""
    strategy = ActorPoolStrategy(
        min_size=pool.actors,
        max_size=pool.largest,
        initial_size=pool.actors,
        max_concurrent_calls_per_actor=calls_in_flight,
        enable_true_multi_threading=calls_in_flight > 1,
    )
    options: dict[str, Any] = {"compute": strategy, "num_cpus": pool.cpus, "num_gpus": pool.gpus}
    if pool.accelerator_type:
        options["accelerator_type"] = pool.accelerator_type
    return options
