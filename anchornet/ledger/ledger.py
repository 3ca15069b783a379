"""The ledger: hands out one compute budget in leases, adds up what was spent, and never lets it be exceeded.

All bookkeeping is in integers (multiply-adds). Shapes: n rows of a lease, K exits, S stages.

The bound. At any time ``charged`` = settled work + the allowances of open leases, and a lease is granted only while
``charged`` + its allowance <= budget. A worker never computes more than its allowance, so whatever happens to it, its work
is covered; a lease that is never settled stays charged in full. Before ``charged`` passes the number in the write-ahead
mark, a higher number is written; a ledger that is opened on a mark takes that number as spent. A lease that is named in the
mark and settled later gives back what it did not need. What the written labels prove is which images are done
(``num_images`` of a resumed plan leaves them out). They prove no refund: they are a lower bound of what was computed, and
only an upper bound keeps the promise.

The reserve. The first exit of every image that was not seen yet is set aside; only those images may use it.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anchornet.budget.frontier import MixedPolicy
from anchornet.ledger.allowance import Purse, Wish
from anchornet.ledger.counts import LedgerTally
from anchornet.ledger.mark import FileMark, Mark, MarkState, MemoryMark, OpenLease
from anchornet.ledger.plan import Lease, LedgerPlan
from anchornet.ledger.seen import SeenImages
from anchornet.ledger.steering import Outlook, StageResult, Steering
from anchornet.units import GIGA

__all__ = ["FileMark", "Lease", "Ledger", "LedgerPlan", "Mark", "MemoryMark"]

log = logging.getLogger(__name__)

_EPOCH_SHIFT = 40
_EAGER_AT_FIRST = 6.0
_MOST_EAGER = 64.0
_PRESS = 1.0
_CHUNK_OF_OPEN = 0.03


class _Open(NamedTuple):
    """An open lease as the ledger remembers it."""

    terms: OpenLease
    image_ids: np.ndarray | None
    """None after a restart: the mark does not keep them."""
    packed: bytes


class Ledger:
    """One budget. Not thread-safe: one actor or one loop calls it."""

    def __init__(self, plan: LedgerPlan, mark: Mark, state: MarkState | None) -> None:
        """Use :meth:`open`. state: what the mark said before, None for a fresh job."""
        self.plan = plan
        self._mark = mark
        num_stages = len(plan.stage_starts)
        # epoch 0: the empty mark that a driver writes before any ledger was opened
        same_session = state is not None and state.epoch > 0 and state.session == plan.session
        self._seen = SeenImages(num_stages, plan.id_limit or plan.num_images)
        self._settled_macs = state.authorised_macs if state else 0
        self._headroom_macs = 0
        self._open: dict[int, _Open] = {}
        self._open_macs = 0
        self._open_expected = 0.0
        self._epoch = state.epoch + 1 if state else 1
        self._owner = uuid.uuid4().hex
        self._next_id = 0
        self._largest_rows = 0
        self._eager = [_EAGER_AT_FIRST] * num_stages
        self._steering = Steering(plan.frontier, plan.stage_starts, plan.num_images)
        self._pending = list(state.pending) if state and same_session else [0] * num_stages
        self._tally = LedgerTally(len(plan.exit_macs), state, same_session)
        if state and same_session:
            self._seen.restore(state.seen)
            self._take_over(state)
        self._planned = self._plan_policy()
        self._write_mark()

    @classmethod
    def open(cls, plan: LedgerPlan, mark: Mark) -> Ledger:
        """A ledger that goes on where the mark stands: everything ever authorised there counts as spent.

        Raises RuntimeError when the mark is damaged.
        """
        content = mark.read()
        state = MarkState.from_bytes(content) if content is not None else None
        ledger = cls(plan, mark, state)
        if state is not None and state.authorised_macs:
            log.info("ledger reopened: %d of %d multiply-adds count as spent", state.authorised_macs, plan.budget_macs)
            if ledger.left_macs < ledger._reserve_macs():
                log.warning("the budget left does not cover the first exit of every image; some will get no label")
        return ledger

    @property
    def charged_macs(self) -> int:
        """Settled work and the allowances of open leases."""
        return self._settled_macs + self._open_macs

    @property
    def left_macs(self) -> int:
        """Budget that is neither spent nor promised to an open lease (in fixed mode it may be negative)."""
        return self.plan.budget_macs - self.charged_macs

    @property
    def num_unseen(self) -> int:
        """Images that have not been leased yet."""
        return max(0, self.plan.num_images - self._seen.num_leased[0])

    def lease(self, stage: int, image_ids: np.ndarray) -> Lease:
        """Permission for a batch: a policy, and how much it may compute at most.

        image_ids (n,) int64. Asking twice for the same images is safe: the second lease is charged as well, but they count
        as seen once. Raises ValueError for a stage or ids that do not exist.
        """
        if not 0 <= stage < len(self.plan.stage_starts):
            raise ValueError(f"stage must be in 0..{len(self.plan.stage_starts) - 1}, got {stage}; check stage_starts")
        image_ids = np.array(image_ids, np.int64)  # a copy: the caller may reuse its buffer
        self._largest_rows = max(self._largest_rows, len(image_ids))
        position = self._steer(stage, image_ids)
        num_new = self._seen.lease(stage, image_ids)
        self._pending[stage] = max(0, self._pending[stage] - num_new) if stage else 0
        outlook = self._steering.outlook(stage, position)
        allowance = self._allowance(stage, len(image_ids), outlook)
        lease_id = self._record_lease(stage, image_ids, allowance, outlook, position)
        position = self._press(stage, len(image_ids), position, outlook, allowance)
        policy = self.plan.fixed_policy or self.plan.frontier.mix(position)
        self._tally.leased(len(image_ids), num_new, stage, self._seen.num_leased[0], position)
        self._headroom_macs -= allowance
        if self._headroom_macs < 0:  # money that settlements freed is granted again only after the next mark
            self._write_mark()
        return Lease(lease_id, policy, allowance)

    def settle(self, lease_id: int, spent_macs: int, exit_counts: Sequence[int], num_failed: int = 0) -> None:
        """Close a lease with what was really computed; the rest of its allowance is free again.

        exit_counts (K,): rows that left at each exit in this stage; num_failed: rows that got no label and do not go on.
        A lease that is not open (settled before, or from before a restart) changes nothing: it is charged already.
        Raises RuntimeError, after charging it, when more was computed than allowed.
        """
        spent_macs = int(spent_macs)
        if spent_macs < 0 or len(exit_counts) != len(self.plan.exit_macs):
            raise ValueError(
                f"settle needs spent >= 0 and {len(self.plan.exit_macs)} counts, got {spent_macs}, {exit_counts}"
            )
        lease = self._open.pop(lease_id, None)
        if lease is None:
            self._tally.unknown_settlements += 1
            log.info("settlement of lease %d ignored: it is not open", lease_id)
            return
        terms = lease.terms
        self._open_macs -= terms.allowance_macs
        self._open_expected -= terms.expected_macs
        self._settled_macs += spent_macs
        self._learn(lease, spent_macs, exit_counts, num_failed)
        if spent_macs > terms.allowance_macs:
            self._tally.overdrawn_macs += spent_macs - terms.allowance_macs
            raise RuntimeError(
                f"lease {lease_id} computed {spent_macs} multiply-adds, {terms.allowance_macs} were allowed; they are "
                "charged, but the budget may be exceeded: the worker's counter or the exit costs are wrong"
            )

    def skip(self, image_ids: np.ndarray) -> None:
        """These images will never be leased (unreadable files): nothing is kept in reserve for them any more."""
        self._seen.skip(np.asarray(image_ids, np.int64))

    def close(self) -> None:
        """Mark the spend as it is, without a chunk for more: a later start then finds what was really charged."""
        self._write_mark(last=True)

    def report(self) -> dict[str, Any]:
        """Asked, planned and spent, what was lost, exits planned and realised, policy over time; JSON-able."""
        lost = sum(
            lease.terms.allowance_macs
            for lease in self._open.values()
            if lease.image_ids is not None and self._seen.all_settled(lease.terms.stage, lease.image_ids)
        )
        report = {
            "mode": "hard" if self.plan.fixed_policy is None else "fixed",
            "asked_macs": self.plan.budget_macs,
            "planned_macs": round(self._planned.expected_macs * self.plan.num_images),
            "spent_macs": self.charged_macs,
            "open_macs": self._open_macs,
            "lost_lease_macs": lost,
            "num_images": self.plan.num_images,
            "num_seen": self._seen.num_leased[0],
            "exits": list(self.plan.frontier.exits),
            "exits_planned": list(self._planned.exit_fractions),
            "expected_accuracy_planned": self._planned.accuracy,
            "expected_accuracy_se": self._planned.accuracy_se,
            "expected_spend_error": self._planned.spend_error,
        }
        return report | self._tally.report(self.plan.frontier.costs_macs)

    def _plan_policy(self) -> MixedPolicy:
        """The point of the frontier for everything that is left, before the first lease."""
        if self.plan.fixed_policy is not None:
            return self.plan.fixed_policy
        frontier, images = self.plan.frontier, max(1, self.num_unseen)
        gflops = max(self.left_macs / images / GIGA, frontier.minimum_gflops)
        return frontier.at(gflops)

    def _steer(self, stage: int, image_ids: np.ndarray) -> float:
        """Position on the frontier for a batch that is about to be leased, the batch itself still counted as waiting."""
        if self.plan.fixed_policy is not None:
            costs = self.plan.frontier.costs_macs
            return float(np.interp(self.plan.fixed_policy.expected_macs, costs, np.arange(len(costs))))
        money = self.plan.budget_macs - self._settled_macs - self._open_expected - self._contingency_macs()
        waiting = [self.num_unseen, *self._pending[1:]]
        waiting[stage] = max(waiting[stage], len(image_ids))
        seen_fraction = self._seen.num_leased[0] / max(1, self.plan.num_images)
        return self._steering.position(money, waiting, self._seen.num_computing, min(seen_fraction, 1.0))

    def _allowance(self, stage: int, num_rows: int, outlook: Outlook) -> int:
        """Multiply-adds a batch may compute, its rows already marked as seen."""
        most = num_rows * self.plan.stage_most_macs(stage)
        if self.plan.fixed_policy is not None:
            return most
        purse = Purse(
            left_macs=self.left_macs - self._reserve_macs(),
            contingency_macs=self._contingency_macs(),
            num_open=len(self._open),
            waiting=self.num_unseen + sum(self._pending),
            computing=sum(self._seen.num_computing),
        )
        owed = num_rows * self.plan.exit_macs[0] if stage == 0 else 0
        wish = Wish(num_rows, owed, most, num_rows * outlook.cost_macs, outlook.sd_macs * math.sqrt(num_rows))
        return purse.grant(wish, self._eager[stage])

    def _press(self, stage: int, num_rows: int, position: float, outlook: Outlook, allowance_macs: int) -> float:
        """A dearer position when the allowance leaves no room for chance.

        Without room a batch can only spend less than expected, never more; asking for a little more makes up for it, and
        the allowance still holds.
        """
        spread = outlook.sd_macs * math.sqrt(num_rows)
        room = allowance_macs - num_rows * outlook.cost_macs
        if self.plan.fixed_policy is not None or spread <= 0.0 or not 0 <= room < spread:
            return position
        pressed = outlook.cost_macs + _PRESS * (spread - room) / num_rows
        return max(position, self._steering.position_costing(stage, pressed))

    def _contingency_macs(self) -> int:
        """Kept back so that rows of lost batches can still get their first exit when everything else is spent."""
        if self.plan.fixed_policy is not None:
            return 0
        first = self.plan.exit_macs[0]
        batches = min(3 * self._largest_rows * first, int(self.plan.contingency_fraction * self.plan.budget_macs))
        coming = self.num_unseen + self._seen.num_computing[0]
        return batches + int(1.5 * self._tally.repeated_share() * coming * first)

    def _reserve_macs(self) -> int:
        return self.num_unseen * self.plan.exit_macs[0]

    def _record_lease(
        self, stage: int, image_ids: np.ndarray, allowance_macs: int, outlook: Outlook, position: float
    ) -> int:
        lease_id = (self._epoch << _EPOCH_SHIFT) + self._next_id
        self._next_id += 1
        expected = min(len(image_ids) * outlook.cost_macs, float(allowance_macs))
        terms = OpenLease(lease_id, stage, len(image_ids), allowance_macs, expected, position)
        self._open[lease_id] = _Open(terms, image_ids, terms.pack())
        self._open_macs += allowance_macs
        self._open_expected += expected
        assert self.plan.fixed_policy is not None or self.charged_macs <= self.plan.budget_macs or not allowance_macs
        return lease_id

    def _learn(self, lease: _Open, spent_macs: int, exit_counts: Sequence[int], num_failed: int) -> None:
        """Statistics of a settled lease; rows settled before (by another lease of the same images) count once."""
        terms, stage = lease.terms, lease.terms.stage
        num_rows = newly = terms.num_rows
        if lease.image_ids is None:
            self._seen.num_settled[stage] += num_rows
        else:
            newly = self._seen.settle(stage, lease.image_ids)
        going_on = max(0, num_rows - sum(exit_counts) - num_failed)
        if stage + 1 < len(self.plan.stage_starts) and num_rows:
            self._pending[stage + 1] += round(going_on * newly / num_rows)
        self._tally.settled(num_rows, newly, spent_macs, exit_counts)
        # a batch that used all it was given wanted more: the next ones get more room, as long as it goes on
        full = spent_macs >= 0.97 * terms.allowance_macs and spent_macs > terms.expected_macs
        passed = num_rows - num_failed - exit_counts[self.plan.stage_starts[stage]]
        self._steering.observe(stage, terms.position, StageResult(num_rows, spent_macs, passed, going_on, full))
        self._eager[stage] = min(max(self._eager[stage] * (1.5 if full else 0.93), 1.0), _MOST_EAGER)

    def _take_over(self, state: MarkState) -> None:
        """Keep the leases that were open when the mark was written: their workers are still computing."""
        for terms in OpenLease.unpack_all(state.open_leases):
            self._open[terms.lease_id] = _Open(terms, None, terms.pack())
            self._settled_macs -= terms.allowance_macs
            self._tally.restart_macs -= terms.allowance_macs
            self._open_macs += terms.allowance_macs
            self._open_expected += terms.expected_macs
            self._seen.num_settled[terms.stage] -= terms.num_rows

    def _write_mark(self, last: bool = False) -> None:
        """Authorise the next chunk, or only what is charged; the mark is safe before anything in it is granted."""
        content = self._mark.read() if self._next_id else None
        if content is not None and MarkState.owner_of(content) != self._owner:
            raise RuntimeError("another ledger has taken over this run's mark; this one stops granting")
        # a mark names every open lease: the more there are, the more one write has to buy
        chunk = int(max(self.plan.chunk_fraction * self.plan.budget_macs, _CHUNK_OF_OPEN * self._open_macs))
        if self.plan.fixed_policy is None:  # near the minimum a lost chunk would cost labels, so it is kept small there
            chunk = max(0, min(chunk, (self.left_macs - self._reserve_macs()) // 10))
        chunk = 0 if last else chunk
        state = MarkState(
            authorised_macs=self.charged_macs + chunk,
            owner=self._owner,
            epoch=self._epoch,
            session=self.plan.session,
            settled_macs=self._settled_macs,
            wasted_macs=self._tally.restart_macs + self._tally.repeated_macs,
            pending=list(self._pending),
            first_rows=self._tally.first_rows,
            first_rows_repeated=self._tally.first_rows_repeated,
            exits_realised=list(self._tally.exits_realised),
            open_leases=b"".join([lease.packed for lease in self._open.values()]),
            seen=self._seen.snapshot(),
        )
        self._mark.write(state.to_bytes())
        self._tally.mark_writes += 1
        self._headroom_macs = chunk
