"""The actors of the label pipeline: each holds one cascade and runs one stage of it."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import ray

from anchornet.bundle import load_bundle
from anchornet.cascade import label_stage
from anchornet.cascade import rows as records
from jobs.labelling.ledger_actor import LedgerHandle
from jobs.labelling.purse_holder import PurseHolder
from jobs.resources.loading import loading
from jobs.resources.pools import claim
from jobs.settings.common import InferenceSettings, PoolSettings
from jobs.settings.label import OutputSettings
from jobs.shell.worker_log import tell_driver

logger = logging.getLogger(__name__)

CALLS_IN_FLIGHT = 2
"""Calls an actor works on at a time: one computes, the next one has its batch and its permission ready."""


@dataclass(frozen=True)
class StageWork:
    """What an actor of the label pipeline needs to know."""

    bundle: str
    stage_index: int
    pool: PoolSettings
    inference: InferenceSettings
    output: OutputSettings
    run: str
    """Name of the run, for the log."""


class StageActor:
    """One stage of the cascade: draws each batch's share of the budget from its purse, and computes.

    Two calls may be in flight. Only one computes; the other fills the purse meanwhile, so a GPU waits for the ledger only
    where nothing is free for a second batch.
    """

    def __init__(self, work: StageWork, ledger: LedgerHandle) -> None:
        tell_driver(ledger, work.run)
        with loading(ledger, f"pools.{work.stage_index}"):
            bundle = load_bundle(work.bundle)
            placement = replace(claim(work.pool, work.inference), embedding=work.output.embedding)
            self._cascade = bundle.cascade(placement)
        self._top_k = work.output.top_k
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
            return self._label(table, nobody, 0).table
        self._purse.prepare(len(rows))
        with self._computing:
            done, errors = self._compute(table, len(rows))
        if len(errors) == len(rows) > 1:
            raise errors[0]  # nothing but errors: it is the network, and not an image
        return done

    def _label(self, table: pa.Table, thresholds: np.ndarray, allowance_macs: int) -> label_stage.StageBatch:
        return label_stage.label_stage(self._cascade, self._stage_index, table, thresholds, allowance_macs, self._top_k)

    def _compute(self, table: pa.Table, num_rows: int) -> tuple[pa.Table, list[Exception]]:
        """The rows after the stage, and what was raised for single ones, which are ``failed``.

        A batch that raises is halved until the rows that do it stand alone. How much of it was computed is not known, so all
        that it was allowed counts as spent.
        """
        image_ids = table["image_id"].to_numpy()
        draw = self._purse.draw(num_rows)
        started = time.perf_counter()
        try:
            thresholds = draw.policy.thresholds_for(image_ids)
            batch = self._label(table, thresholds, draw.allowance_macs)
        except (OSError, MemoryError, ray.exceptions.RayError):
            raise  # the machine's, not an image's
        except Exception as error:
            computed = image_ids[records.wanting_rows(table)] if num_rows == 1 else image_ids[:0]
            nobody = (0,) * len(self._cascade.exits)
            compute_s = time.perf_counter() - started
            self._purse.done(draw, computed, draw.allowance_macs, nobody, len(computed), compute_s)
            return self._after(error, table, num_rows)
        spent = (batch.spent_macs, batch.exit_counts, batch.num_starved)
        self._purse.done(draw, image_ids[records.wanting_rows(table)], *spent, time.perf_counter() - started)
        return batch.table, []

    def _after(self, error: Exception, table: pa.Table, num_rows: int) -> tuple[pa.Table, list[Exception]]:
        """What becomes of rows that could not be computed together."""
        if num_rows == 1:
            reason = f"{type(error).__name__}: {error}"
            logger.warning("image %s failed: %s", table["uri"][int(records.wanting_rows(table)[0])], reason)
            return label_stage.fail_rows(self._cascade, self._stage_index, table, reason, self._top_k), [error]
        middle = int(records.wanting_rows(table)[num_rows // 2])
        halves = [
            self._compute(table.slice(0, middle), num_rows // 2),
            self._compute(table.slice(middle), num_rows - num_rows // 2),
        ]
        return pa.concat_tables([done for done, _ in halves]), [each for _, errors in halves for each in errors]
