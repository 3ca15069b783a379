"""The actors of the label pipeline: each holds one cascade and runs one stage of it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from anchornet.bundle import load_bundle
from anchornet.cascade import label_stage
from anchornet.cascade import rows as records
from jobs.labelling.ledger_actor import LedgerHandle
from jobs.labelling.purse_holder import PurseHolder
from jobs.resources.pools import claim
from jobs.settings.common import InferenceSettings, PoolSettings

CALLS_IN_FLIGHT = 2
"""Calls an actor works on at a time: one computes, the next one has its batch and its permission ready."""


@dataclass(frozen=True)
class StageWork:
    """What an actor of the label pipeline needs to know."""

    bundle: str
    stage_index: int
    pool: PoolSettings
    inference: InferenceSettings


class StageActor:
    """One stage of the cascade: draws each batch's share of the budget from its purse, and computes.

    Two calls may be in flight. Only one computes; the other fills the purse meanwhile, so a GPU waits for the ledger only
    where nothing is free for a second batch.
    """

    def __init__(self, work: StageWork, ledger: LedgerHandle) -> None:
        bundle = load_bundle(work.bundle)
        self._cascade = bundle.cascade(claim(work.pool, work.inference))
        self._calibrate = bundle.calibrator
        self._stage_index = work.stage_index
        self._ledger = ledger
        self._purse = PurseHolder(ledger, work.stage_index, len(self._cascade.exits))
        self._computing = threading.Lock()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Work rows in, work rows out; output rows (LABEL_SCHEMA) after the last stage."""
        if self._stage_index == 0:
            self._release(table)
        table = self._run(table)
        if self._stage_index == len(self._cascade.stages) - 1:
            return label_stage.finish_rows(self._cascade, table, self._calibrate)
        return table

    def _release(self, table: pa.Table) -> None:
        """Tell the ledger of images that could not be read, so that it keeps no first exit in reserve for them."""
        unreadable = np.delete(table["image_id"].to_numpy(), records.wanting_rows(table))
        if len(unreadable):
            self._ledger.skip.remote(unreadable)

    def _run(self, table: pa.Table) -> pa.Table:
        """The batch through this stage, paid from the purse; a batch that nobody wants the stage for needs nothing."""
        rows = records.wanting_rows(table)
        if not len(rows):
            nobody = np.zeros((len(table), len(self._cascade.exits)), np.float32)
            return label_stage.label_stage(self._cascade, self._stage_index, table, nobody, 0).table
        image_ids = table["image_id"].to_numpy()
        self._purse.prepare(len(rows))
        with self._computing:
            draw = self._purse.draw(len(rows))
            thresholds = draw.policy.thresholds_for(image_ids)
            started = time.perf_counter()
            batch = label_stage.label_stage(self._cascade, self._stage_index, table, thresholds, draw.allowance_macs)
            compute_s = time.perf_counter() - started
            spent = (batch.spent_macs, batch.exit_counts, batch.num_starved)
            self._purse.done(draw, image_ids[rows], *spent, compute_s)
        return batch.table
