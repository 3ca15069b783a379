"""Replays an exit table as a label job: pools of workers with purses, deaths and ledger restarts, on a simulated clock.

No Ray and no networks; ledger, purses and policies are the real ones, and a worker does what an actor of the label job
does: it computes one batch while it has the next one and its grant ready.

Shapes: N images of the job, T rows of the table, n rows of a batch, K exits.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import rows_to_advance
from anchornet.ledger.ledger import Ledger, LedgerPlan, MemoryMark
from anchornet.ledger.purse import Draw, Grant, Purse, Statement

NO_EXIT = -1
_QUEUED = 4
"""A pool waits when so many batches per worker wait for the next one, as Ray Data's backpressure makes it."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Who computes, and what goes wrong."""

    num_workers: int = 16
    """Of each stage."""
    batch_rows: int = 32
    batch_s: float = 0.25
    """Simulated seconds of a batch whose rows cost a GFLOP each."""
    death_probability: float = 0.0
    """Of a worker, per batch; it dies somewhere inside, its work and its purse are lost, its rows come again."""
    kill_every: int = 0
    """The ledger is killed after every so many batches, before or after it counted a statement; 0 is never."""
    seed: int = 0


class Batch(NamedTuple):
    """Images of the job that are computed together in one stage."""

    stage: int
    images: np.ndarray


class Result(NamedTuple):
    """What computing a batch gave."""

    exits: np.ndarray
    """(n,) last exit computed."""
    going: np.ndarray
    """(n,) bool: wants the next stage."""
    steps: list[int]
    """Multiply-adds one after the other."""


@dataclass(eq=False)
class Worker:
    """One actor: its purse, the batch it computes, and the one it has ready."""

    purse: Purse
    computing: tuple[Batch, Draw] | None = None
    ready: Batch | None = None
    idle_since_s: float | None = None


class Outcome(NamedTuple):
    """What a whole job did."""

    spent_macs: int
    """Everything that was computed, lost work included."""
    lost_macs: int
    accuracy: float
    """Over all images; one without a label counts as wrong."""
    num_unlabelled: int
    num_kills: int
    num_exchanges: int
    num_batches: tuple[int, ...]
    """Of each stage."""


@dataclass
class Replay:
    """One job: image i of the job is row ``table_row[i]`` of the table, and they come in that order."""

    table: ExitTable
    table_row: np.ndarray
    plan: LedgerPlan
    fleet: Fleet
    mark: MemoryMark = field(default_factory=MemoryMark)

    def __post_init__(self) -> None:
        """Queues and standings of a fresh job."""
        self._random = np.random.default_rng(self.fleet.seed)
        self._steps = np.diff(self.table.cost_macs, axis=1, prepend=0)
        num_stages = len(self.plan.stage_starts)
        self._exit = np.full(len(self.table_row), NO_EXIT, np.int8)
        self._retries: list[deque[Batch]] = [deque() for _ in range(num_stages)]
        self._queues: list[deque[np.ndarray]] = [deque() for _ in range(num_stages)]
        self._queued = [0] * num_stages
        self._left = [len(self.table_row)] + [0] * (num_stages - 1)
        """Rows of each stage that are not done; a stage is over when it and all before it have none."""
        for start in range(0, len(self.table_row), self.fleet.batch_rows):
            self._push(0, np.arange(start, min(start + self.fleet.batch_rows, len(self.table_row))))
        self._idle: list[dict[Worker, None]] = [{} for _ in range(num_stages)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now_s = 0.0
        self._spent = self._lost = self._kills = self._exchanges = 0
        self._batches = [0] * num_stages
        self._ledger = Ledger.open(self.plan, self.mark)

    def run(self) -> Outcome:
        """Work until nothing is left."""
        for stage in range(len(self._queues)):
            for _ in range(self.fleet.num_workers):
                self._later(self._random.random() * 0.1, self._starter(Worker(Purse(stage, self.table.num_exits))))
        while self._events:
            self._now_s, _, event = heapq.heappop(self._events)
            event()
        return self._outcome()

    def _later(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + seconds, next(self._order), event))

    def _starter(self, worker: Worker) -> Callable[[], None]:
        return lambda: self._start(worker)

    def _start(self, worker: Worker) -> None:
        """Begin the next batch, or wait for one, or for money."""
        worker.ready = worker.ready or self._take(worker.purse.stage)
        if worker.ready is None:
            self._rest(worker)
            return
        num_rows = len(worker.ready.images)
        if worker.purse.left_rows < num_rows:
            grant = self._exchange(worker.purse, num_rows)
            if not grant.num_rows:
                self._later(grant.retry_s, self._starter(worker))
                return
        draw = worker.purse.draw(num_rows)
        worker.computing, worker.ready = (worker.ready, draw), None
        result = self._compute(*worker.computing)
        seconds = (
            self.fleet.batch_s
            * (0.1 + sum(result.steps) / 1e9 / self.fleet.batch_rows)
            * self._random.uniform(0.8, 1.2)
        )
        self._later(seconds, lambda: self._finish(worker, result))
        worker.ready = self._take(worker.purse.stage)
        if worker.ready is not None and worker.purse.needs_grant(len(worker.ready.images), self._now_s):
            self._exchange(worker.purse, len(worker.ready.images))

    def _rest(self, worker: Worker) -> None:
        """Nothing to do: give the purse back when it stays so."""
        worker.idle_since_s = since_s = self._now_s
        self._idle[worker.purse.stage][worker] = None

        def give_back() -> None:
            if worker.idle_since_s == since_s and worker.purse.is_idle:
                self._exchange(worker.purse, 0)

        if worker.purse.grant is not None:
            self._later(worker.purse.idle_s, give_back)

    def _finish(self, worker: Worker, result: Result) -> None:
        """A batch is done, or its worker dies."""
        assert worker.computing is not None
        (batch, draw), worker.computing = worker.computing, None
        self._batches[batch.stage] += 1
        if self._random.random() < self.fleet.death_probability:
            self._die(worker, batch, result)
            return
        self._spent += sum(result.steps)
        self._exit[batch.images] = np.where(result.exits == NO_EXIT, self._exit[batch.images], result.exits)
        left = self._exit[batch.images[~result.going]]
        num_failed = int((left == NO_EXIT).sum())
        counts = np.bincount(left[left != NO_EXIT], minlength=self.table.num_exits).tolist()
        worker.purse.done(draw, batch.images, sum(result.steps), counts, num_failed)
        self._left[batch.stage] -= len(batch.images)
        if result.going.any():
            self._left[batch.stage + 1] += int(result.going.sum())
            self._push(batch.stage + 1, batch.images[result.going])
        self._start(worker)
        self._wake()

    def _die(self, worker: Worker, batch: Batch, result: Result) -> None:
        """Its rows come again, its purse never does; another worker takes its place."""
        done = sum(result.steps[: int(self._random.integers(0, len(result.steps) + 1))])
        self._spent += done
        self._lost += done
        self._retries[batch.stage] += [batch] if worker.ready is None else [batch, worker.ready]
        self._later(1.0, self._starter(Worker(Purse(batch.stage, self.table.num_exits))))
        self._wake()

    def _wake(self) -> None:
        """Call as many workers as there are batches for them."""
        for stage, idle in enumerate(self._idle):
            batches = len(self._retries[stage]) + -(-self._queued[stage] // self.fleet.batch_rows)
            for worker in list(itertools.islice(idle, batches)):
                if not self._may_take(stage):
                    break
                del idle[worker]
                worker.idle_since_s = None
                self._start(worker)

    def _exchange(self, purse: Purse, batch_rows: int) -> Grant:
        """One message; the ledger may be killed before or after it counts."""
        statement = purse.statement(batch_rows, self._now_s)
        self._exchanges += 1
        if self.fleet.kill_every and sum(self._batches) >= self.fleet.kill_every * (self._kills + 1):
            self._kill(statement)
        grant = self._ledger.exchange(statement, self._now_s)
        purse.fill(grant)
        return grant

    def _kill(self, statement: Statement) -> None:
        self._kills += 1
        if self._random.random() < 0.5:
            self._ledger.exchange(statement, self._now_s)
        self._ledger = Ledger.open(self.plan, self.mark, self._now_s)

    def _push(self, stage: int, images: np.ndarray) -> None:
        self._queues[stage].append(images)
        self._queued[stage] += len(images)

    def _may_take(self, stage: int) -> bool:
        """A whole batch is there, or the rest when no more comes; and the next pool is not behind."""
        if stage + 1 < len(self._queues):
            most = _QUEUED * self.fleet.num_workers * self.fleet.batch_rows
            if self._queued[stage + 1] >= most:
                return False
        complete = not any(self._left[:stage])
        wanted = 1 if complete else self.fleet.batch_rows
        return bool(self._retries[stage]) or self._queued[stage] >= wanted

    def _take(self, stage: int) -> Batch | None:
        """The next batch of a stage; lost ones first."""
        if not self._may_take(stage):
            return None
        if self._retries[stage]:
            return self._retries[stage].popleft()
        queue, parts, missing = self._queues[stage], [], self.fleet.batch_rows
        while missing and queue:
            images = queue.popleft()
            parts.append(images[:missing])
            if len(images) > missing:
                queue.appendleft(images[missing:])
            missing -= len(parts[-1])
        images = np.concatenate(parts)
        self._queued[stage] -= len(images)
        return Batch(stage, images)

    def _compute(self, batch: Batch, draw: Draw) -> Result:
        """Run a stage under a policy and an allowance, as ``anchornet.cascade.run`` does."""
        starts = (*self.plan.stage_starts, self.table.num_exits)
        table_rows = self.table_row[batch.images]
        confidence = self.table.confidence[table_rows]
        thresholds = draw.policy.thresholds_for(batch.images)
        exits = np.full(len(batch.images), NO_EXIT, np.int64)
        rows = np.arange(len(batch.images))
        score = confidence[:, starts[batch.stage] - 1] if batch.stage else np.full(len(rows), -1.0, np.float32)
        steps: list[int] = []
        for k in range(starts[batch.stage], starts[batch.stage + 1]):
            rows, done = self._advance(score, rows, self._steps[table_rows, k], k, draw.allowance_macs - sum(steps))
            steps += done
            exits[rows], score[rows] = k, confidence[rows, k]
            rows = rows[(confidence[rows, k] < thresholds[rows, k]) & (k < self.table.num_exits - 1)]
        going = np.zeros(len(batch.images), bool)
        going[rows] = True
        return Result(exits, going, steps)

    def _advance(
        self, score: np.ndarray, rows: np.ndarray, cost: np.ndarray, exit_index: int, left_macs: int
    ) -> tuple[np.ndarray, list[int]]:
        """Rows that were computed, and multiply-adds piece by piece: only as many at a time as surely fit."""
        dense = self.plan.exit_macs[exit_index]
        computed: list[np.ndarray] = []
        steps: list[int] = []
        while len(rows):
            go = rows_to_advance(score[rows], np.ones(len(rows), bool), np.full(len(rows), dense), left_macs)
            if not go.any():
                break
            computed.append(rows[go])
            steps.append(int(cost[rows[go]].sum()))
            left_macs -= steps[-1]
            rows = rows[~go]
        return (np.sort(np.concatenate(computed)) if computed else rows[:0]), steps

    def _outcome(self) -> Outcome:
        labelled = self._exit != NO_EXIT
        right = self.table.correct[self.table_row, np.maximum(self._exit, 0)] & labelled
        assert not any(self._left), "the replay stopped before all rows were done"
        return Outcome(
            spent_macs=self._spent,
            lost_macs=self._lost,
            accuracy=float(right.mean()),
            num_unlabelled=int((~labelled).sum()),
            num_kills=self._kills,
            num_exchanges=self._exchanges,
            num_batches=tuple(self._batches),
        )
