"""A purse: permission of one worker to compute in one stage, drawn from batch by batch without asking anybody.

A worker asks the ledger once for many batches: :meth:`Purse.statement` says what was done and hands back the rest, the
ledger answers with a :class:`Grant`, :meth:`Purse.fill` puts it into the purse. Plain numbers; who has threads locks.

Shapes: n rows, K exits.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anchornet.budget.policy import MixedPolicy

_IDLE = 0.25
"""Part of an interval after which a purse that nobody uses goes back: others may wait for it, above all at the end."""


class Statement(NamedTuple):
    """What a worker did since its last statement, what it keeps of its purse, and what it wants next."""

    worker: bytes
    number: int
    """Counts up; a number that was seen before is a message that came twice."""
    session: str
    """Session of the ledger that filled the purse."""
    stage: int
    purse_macs: int
    """What the purse held after the last grant."""
    spent_macs: int
    kept_macs: int
    """For the batch that is computing at this moment; what is neither spent nor kept comes back."""
    kept_rows: int
    batch_rows: int
    """Rows at hand that want to be computed next; 0 wants nothing."""
    wanted_rows: int
    """Rows that the worker expects to compute until its next statement."""
    image_ids: np.ndarray
    """(n,) int64: rows computed since the last statement."""
    exit_counts: tuple[int, ...]
    """(K,) of these, rows that left at each exit."""
    num_failed: int
    """Of these, rows that got no label and do not go on."""
    position: float
    """Mean position on the frontier under which they were computed."""
    compute_s: float
    num_batches: int = 0
    """Batches in which they were computed."""
    waited_s: float = 0.0
    """What the worker waited for grants meanwhile, with nothing else to compute."""


class Grant(NamedTuple):
    """What the ledger puts into a purse."""

    policy: MixedPolicy
    position: float
    """Where on the frontier the policy lies."""
    num_rows: int
    allowance_macs: int
    retry_s: float
    """Above 0: nothing was granted, because others hold money that will come back; ask again after so long."""
    max_age_s: float
    """State what was done after so long."""
    first_macs: int
    """Set aside for the first exit of each row of the purse (0 after the first stage)."""
    dense_macs: int
    """The most that a first exit costs per row (0 after the first stage)."""
    most_macs: int
    """The most that a row can cost in this stage."""
    session: str


class Draw(NamedTuple):
    """What one batch may do."""

    policy: MixedPolicy
    position: float
    allowance_macs: int
    """It must not compute more than this."""


class Purse:
    """The purse of one worker in one stage; one batch at a time is drawn and not yet done."""

    def __init__(self, stage: int, num_exits: int) -> None:
        self.worker = uuid.uuid4().bytes
        self.stage = stage
        self.left_macs = 0
        """May still be drawn."""
        self.left_rows = 0
        self.grant: Grant | None = None
        """The last one."""
        self._number = 0
        self._since_s = 0.0
        self._held_macs = self._held_rows = 0
        self._clear(num_exits)

    def _clear(self, num_exits: int) -> None:
        """Nothing was done since the last statement."""
        self._image_ids = [np.zeros(0, np.int64)]
        self._num_rows = self._spent_macs = self._num_failed = 0
        self._exit_counts = [0] * num_exits
        self._positions = self._compute_s = self._waited_s = 0.0
        self._num_batches = 0

    @property
    def is_idle(self) -> bool:
        """True when there is something to give back or to report, and nothing is computing."""
        return not self._held_rows and bool(self.left_macs or self.left_rows or self._num_rows)

    @property
    def idle_s(self) -> float:
        """After so long without a batch the purse should go back."""
        return _IDLE * self.grant.max_age_s if self.grant else 0.0

    def is_old(self, now_s: float) -> bool:
        """True when a statement is due."""
        return self.grant is not None and now_s - self._since_s > self.grant.max_age_s

    def needs_grant(self, num_rows: int, now_s: float) -> bool:
        """True when a statement should be made before a batch of ``num_rows`` is drawn.

        The rows of the purse are used up, or it is old, or there is less in it for this batch than its first exits can cost.
        """
        grant = self.grant
        if grant is None or self.left_rows < num_rows or self.is_old(now_s):
            return True
        return self._for_batch(num_rows) < num_rows * grant.dense_macs

    def statement(self, batch_rows: int, now_s: float) -> Statement:
        """What was done since the last one; all but what is being computed leaves the purse.

        batch_rows: rows at hand for which a grant is wanted; 0 gives back and wants nothing.
        """
        wanted_rows = 2 * batch_rows
        if batch_rows and self.grant is not None:
            rows_per_s = self._num_rows / max(now_s - self._since_s, 1e-3)
            wanted_rows = max(batch_rows, math.ceil(rows_per_s * self.grant.max_age_s))
        self._number += 1
        statement = Statement(
            worker=self.worker,
            number=self._number,
            session=self.grant.session if self.grant else "",
            stage=self.stage,
            purse_macs=self.left_macs + self._held_macs + self._spent_macs,
            spent_macs=self._spent_macs,
            kept_macs=self._held_macs,
            kept_rows=self._held_rows,
            batch_rows=batch_rows,
            wanted_rows=wanted_rows,
            image_ids=np.concatenate(self._image_ids),
            exit_counts=tuple(self._exit_counts),
            num_failed=self._num_failed,
            position=self._positions / max(self._num_rows, 1),
            compute_s=self._compute_s,
            num_batches=self._num_batches,
            waited_s=self._waited_s,
        )
        self.left_macs = self.left_rows = 0
        self._since_s = now_s
        self._clear(len(self._exit_counts))
        return statement

    def fill(self, grant: Grant) -> None:
        """Put the answer to the last statement into the purse."""
        self.grant = grant
        self.left_macs += grant.allowance_macs
        self.left_rows += grant.num_rows

    def draw(self, num_rows: int) -> Draw:
        """Permission for a batch that is computed now: its even share of the grant, or what its first exits can cost.

        Never the first exits of the other rows. What earlier batches left over goes back to the ledger, which knows best.
        """
        assert self.grant is not None and num_rows > 0 and not self._held_rows
        even_macs = -(-self.grant.allowance_macs * num_rows // max(self.grant.num_rows, num_rows))
        wanted = min(max(even_macs, num_rows * self.grant.dense_macs), num_rows * self.grant.most_macs)
        allowance = max(0, min(wanted, self._for_batch(num_rows)))
        self.left_macs -= allowance
        self.left_rows = max(0, self.left_rows - num_rows)
        self._held_macs, self._held_rows = allowance, num_rows
        return Draw(self.grant.policy, self.grant.position, allowance)

    def done(
        self,
        draw: Draw,
        image_ids: np.ndarray,
        spent_macs: int,
        exit_counts: Sequence[int],
        num_failed: int = 0,
        compute_s: float = 0.0,
    ) -> None:
        """What the drawn batch did; what it did not need is in the purse again. Arguments as in :class:`Statement`."""
        self.left_macs += self._held_macs - spent_macs
        self._held_macs = self._held_rows = 0
        self._image_ids.append(np.array(image_ids, np.int64))  # a copy: the caller may reuse its buffer
        self._num_rows += len(image_ids)
        self._spent_macs += spent_macs
        self._exit_counts = [a + int(b) for a, b in zip(self._exit_counts, exit_counts, strict=True)]
        self._num_failed += num_failed
        self._positions += draw.position * len(image_ids)
        self._compute_s += compute_s
        self._num_batches += 1

    def waited(self, duration_s: float) -> None:
        """A batch that was ready waited so long for its grant."""
        self._waited_s += duration_s

    def _for_batch(self, num_rows: int) -> int:
        """What a batch may take without touching the first exits of the other rows of the purse."""
        assert self.grant is not None
        return self.left_macs - self.grant.first_macs * max(0, self.left_rows - num_rows)
