"""Replays an exit table as a label job: workers, deaths and ledger restarts, without Ray and without networks.

Shapes: N images of the job, T rows of the table, n rows of a batch, K exits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import rows_to_advance
from anchornet.ledger.ledger import Lease, Ledger, LedgerPlan, MemoryMark

NO_EXIT = -1


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Who computes, and what goes wrong."""

    num_workers: int = 16
    """Leases open at once."""
    batch_rows: int = 32
    death_probability: float = 0.0
    """Of a worker, per batch; it dies somewhere inside, its work is lost, its rows come again."""
    kill_every: int = 0
    """The ledger is killed after so many leases and opened again on its mark; 0 is never."""
    seed: int = 0


class Batch(NamedTuple):
    """Images of the job that are computed together in one stage."""

    stage: int
    images: np.ndarray


class Outcome(NamedTuple):
    """What a whole job did."""

    spent_macs: int
    """Everything that was computed, lost work included."""
    lost_macs: int
    accuracy: float
    """Over all images; one without a label counts as wrong."""
    num_unlabelled: int
    num_kills: int
    reserve_lost: bool
    """Lost leases (they stay charged in full) were more than the budget had above the first exit of every image."""


@dataclass
class Replay:
    """One job: image i of the job is row ``table_row[i]`` of the table."""

    table: ExitTable
    table_row: np.ndarray
    plan: LedgerPlan
    fleet: Fleet
    mark: MemoryMark = field(default_factory=MemoryMark)

    def __post_init__(self) -> None:
        """Queues and standings of a fresh job."""
        self._random = np.random.default_rng(self.fleet.seed)
        self._exit = np.full(len(self.table_row), NO_EXIT, np.int8)
        self._retries: deque[Batch] = deque()
        self._waiting: list[list[np.ndarray]] = [[] for _ in self.plan.stage_starts]
        self._next_image = 0
        self._spent = self._lost = self._charged_lost = self._kills = self._leases = 0
        self._ledger = Ledger.open(self.plan, self.mark)

    def run(self) -> Outcome:
        """Work until nothing is left."""
        working: list[tuple[Lease, Batch]] = []
        while True:
            while len(working) < self.fleet.num_workers and (batch := self._next_batch(bool(working))) is not None:
                working.append((self._lease(batch), batch))
            if not working:
                break
            chosen = int(self._random.integers(len(working)))
            working[chosen], working[-1] = working[-1], working[chosen]
            self._compute(*working.pop())
        return self._outcome()

    def _lease(self, batch: Batch) -> Lease:
        if self.fleet.kill_every and self._leases and self._leases % self.fleet.kill_every == 0:
            self._kills += 1
            before = self._ledger.charged_macs
            self._ledger = Ledger.open(self.plan, self.mark)
            self._charged_lost += self._ledger.charged_macs - before
        self._leases += 1
        return self._ledger.lease(batch.stage, batch.images)

    def _next_batch(self, others_work: bool) -> Batch | None:
        """Retries first, then later stages when a batch is full, then fresh images, then what is left over."""
        if self._retries:
            return self._retries.popleft()
        for stage in range(len(self._waiting) - 1, 0, -1):
            if sum(map(len, self._waiting[stage])) >= self.fleet.batch_rows:
                return self._take_waiting(stage)
        if self._next_image < len(self.table_row):
            images = np.arange(self._next_image, min(self._next_image + self.fleet.batch_rows, len(self.table_row)))
            self._next_image += len(images)
            return Batch(0, images)
        for stage, waiting in enumerate(self._waiting):
            if waiting and not others_work:
                return self._take_waiting(stage)
        return None

    def _take_waiting(self, stage: int) -> Batch:
        images = np.concatenate(self._waiting[stage])
        self._waiting[stage] = [images[self.fleet.batch_rows :]] if len(images) > self.fleet.batch_rows else []
        return Batch(stage, images[: self.fleet.batch_rows])

    def _compute(self, lease: Lease, batch: Batch) -> None:
        """One worker computes one batch, or dies trying."""
        dies = self._random.random() < self.fleet.death_probability
        exits, going, steps = self._run_stage(lease, batch)
        if dies:
            done = int(self._random.integers(0, len(steps) + 1))
            self._spent += sum(steps[:done])
            self._lost += sum(steps[:done])
            self._charged_lost += lease.allowance_macs
            self._retries.append(batch)
            return
        self._spent += sum(steps)
        self._exit[batch.images] = np.where(exits == NO_EXIT, self._exit[batch.images], exits)
        if going.any():
            self._waiting[batch.stage + 1].append(batch.images[going])
        left = self._exit[batch.images[~going]]
        num_failed = int((left == NO_EXIT).sum())
        counts = np.bincount(left[left != NO_EXIT], minlength=self.table.num_exits)
        self._ledger.settle(lease.lease_id, sum(steps), counts.tolist(), num_failed)

    def _run_stage(self, lease: Lease, batch: Batch) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Last exit computed (n,), who goes on to the next stage (n,), and multiply-adds per exit."""
        starts = (*self.plan.stage_starts, self.table.num_exits)
        confidence = self.table.confidence[self.table_row[batch.images]]
        thresholds = lease.policy.thresholds_for(batch.images)
        exits = np.full(len(batch.images), NO_EXIT, np.int64)
        rows = np.arange(len(batch.images))
        score = confidence[:, starts[batch.stage] - 1] if batch.stage else np.full(len(rows), -1.0, np.float32)
        steps: list[int] = []
        for k in range(starts[batch.stage], starts[batch.stage + 1]):
            cost = np.full(len(rows), self.plan.exit_macs[k], np.int64)
            go = rows_to_advance(score[rows], np.ones(len(rows), bool), cost, lease.allowance_macs - sum(steps))
            rows = rows[go]
            steps.append(int(cost[go].sum()))
            exits[rows], score[rows] = k, confidence[rows, k]
            stays = (confidence[rows, k] < thresholds[rows, k]) & (k < self.table.num_exits - 1)
            rows = rows[stays]
        going = np.zeros(len(batch.images), bool)
        going[rows] = True
        return exits, going, steps

    def _outcome(self) -> Outcome:
        labelled = self._exit != NO_EXIT
        right = self.table.correct[self.table_row, np.maximum(self._exit, 0)] & labelled
        spare = self.plan.budget_macs - self.plan.minimum_macs
        return Outcome(
            self._spent,
            self._lost,
            float(right.mean()),
            int((~labelled).sum()),
            self._kills,
            self._charged_lost > spare,
        )
