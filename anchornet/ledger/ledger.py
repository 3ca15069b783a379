"""The ledger: the one place that hands out a job's compute budget, in purses, and hears what became of it.

The bound is the account's (``anchornet.ledger.account``); how well the money is used is pacing's
(``anchornet.ledger.pacing``). This class joins them, remembers which images were reported, and writes the mark.

Shapes: n rows, K exits, S stages.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

import numpy as np

from anchornet.budget.frontier import MixedPolicy
from anchornet.ledger.account import Account
from anchornet.ledger.counts import LedgerCounts
from anchornet.ledger.mark import FileMark, Mark, MarkState, MemoryMark, OpenPurse, pack_purses, unpack_purses
from anchornet.ledger.pacing import Pacing
from anchornet.ledger.plan import LedgerPlan
from anchornet.ledger.purse import Grant, Statement
from anchornet.ledger.seen import SeenImages
from anchornet.units import GIGA

__all__ = ["FileMark", "Grant", "Ledger", "LedgerPlan", "Mark", "MemoryMark", "Statement"]

log = logging.getLogger(__name__)

TAKEN_OVER = "another ledger has taken over this run's mark"
"""Begins the error of a ledger that is no longer the one of its run."""
_CHUNK_OF_OPEN = 0.03
"""A mark names every worker: with thousands of them one write must pay for many grants."""


class Ledger:
    """One budget. Not thread-safe: one actor or one loop calls it."""

    def __init__(self, plan: LedgerPlan, mark: Mark, state: MarkState | None, now_s: float = 0.0) -> None:
        """Use :meth:`open`. state: what the mark said before, None for a fresh job."""
        self.plan = plan
        self._mark = mark
        num_stages = len(plan.stage_starts)
        # epoch 0: the empty mark that a driver writes before any ledger was opened
        same_session = state is not None and state.epoch > 0 and state.session == plan.session
        fixed = plan.fixed_policy is not None
        charged_macs = state.authorised_macs if state else 0
        self.account = Account(None if fixed else plan.budget_macs, plan.first_macs, charged_macs)
        self._pacing = Pacing(plan, self.account, state.longest_silence_s if state and same_session else 0.0)
        self._counts = LedgerCounts(len(plan.exit_macs), num_stages, state, same_session)
        counted = state.seen if state and same_session else [0] * num_stages
        self._seen = SeenImages(counted, plan.id_limit or plan.num_images)
        self._epoch = state.epoch + 1 if state else 1
        self._owner = uuid.uuid4().hex
        self._now_s = now_s
        if state and same_session:
            for purse, silent_s in unpack_purses(state.purses):
                self.account.hold(purse, now_s - silent_s)
                self._pacing.note(purse)
        self._planned = self._plan_policy()
        self._write_mark(first=True)

    @classmethod
    def open(cls, plan: LedgerPlan, mark: Mark, now_s: float = 0.0) -> Ledger:
        """A ledger that goes on where the mark stands: everything ever authorised there counts as charged.

        Raises RuntimeError when the mark is damaged.
        """
        content = mark.read()
        state = MarkState.from_bytes(content) if content is not None else None
        ledger = cls(plan, mark, state, now_s)
        if state is not None and state.authorised_macs:
            log.info("ledger reopened: %d of %d multiply-adds count as spent", state.authorised_macs, plan.budget_macs)
            if ledger.account.left_macs() < ledger.account.reserve_macs(ledger.num_unseen):
                log.warning("the budget left does not cover the first exit of every image; some will get no label")
        return ledger

    @property
    def charged_macs(self) -> int:
        """Everything computed and everything permitted."""
        return self.account.charged_macs

    @property
    def num_unseen(self) -> int:
        """Images that no statement named yet."""
        return max(0, self.plan.num_images - self._seen.counts[0])

    def exchange(self, statement: Statement, now_s: float) -> Grant:
        """Count what a worker did and fill its purse again.

        now_s: seconds of any clock that does not run backwards; only how long workers may be silent hangs on it. The same
        statement twice counts once and gets the same answer. Raises ValueError for a stage, ids or counts that do not
        exist, RuntimeError when more was computed than allowed, or when another ledger has taken over the mark.
        """
        self._check(statement)
        self._now_s = now_s
        self._pacing.heard(statement, now_s)
        if self.account.settle(statement, now_s):
            self._learn(statement)
            grant = self._fill(statement, now_s)
        else:
            self._counts.num_repeated_statements += 1
            purse = self.account.purses[statement.worker]
            grant = self._grant(
                purse if purse.number == statement.number else purse._replace(num_rows=0, granted_macs=0)
            )
        if self.account.headroom_macs < 0 or self._headroom_rows < 0:  # nothing leaves that the mark does not cover
            self._write_mark()
        return grant

    def skip(self, image_ids: np.ndarray) -> None:
        """These images will never be computed (unreadable files): nothing is kept in reserve for them any more."""
        self._counts.num_unreadable += self._seen.add(0, np.asarray(image_ids, np.int64))

    def close(self) -> None:
        """Mark the spend as it is, without a chunk for more: a later start then finds what was really charged."""
        self._write_mark(last=True)

    def report(self) -> dict[str, Any]:
        """Asked, planned and spent, what was lost, exits planned and realised, policy over time; JSON-able."""
        account, counts = self.account, self._counts
        accounted = counts.settled_macs + account.open_macs + account.lost_macs
        report = {
            "mode": "hard" if self.plan.fixed_policy is None else "fixed",
            "asked_macs": self.plan.budget_macs,
            "planned_macs": round(self._planned.expected_macs * self.plan.num_images),
            "spent_macs": account.charged_macs,
            "open_macs": account.open_macs,
            "lost_macs": account.lost_macs,
            "restart_macs": account.charged_macs - accounted,
            "num_open": account.num_open(),
            "num_images": self.plan.num_images,
            "num_seen": self._seen.counts[0],
            "num_starts": self._epoch,
            "exits": list(self.plan.frontier.exits),
            "exits_planned": list(self._planned.exit_fractions),
            "expected_accuracy_planned": self._planned.accuracy,
            "expected_accuracy_se": self._planned.accuracy_se,
            "expected_spend_error": self._planned.spend_error,
        }
        return report | counts.report(self.plan.frontier.costs_macs)

    def _check(self, statement: Statement) -> None:
        num_stages, num_exits = len(self.plan.stage_starts), len(self.plan.exit_macs)
        if not 0 <= statement.stage < num_stages:
            raise ValueError(f"stage must be in 0..{num_stages - 1}, got {statement.stage}; check stage_starts")
        if min(statement.spent_macs, statement.kept_macs) < 0 or len(statement.exit_counts) != num_exits:
            raise ValueError(
                f"a statement needs spent and kept >= 0 and {num_exits} counts, got {statement.spent_macs}, "
                f"{statement.kept_macs}, {statement.exit_counts}; the worker runs another cascade"
            )
        if statement.purse_macs and statement.session != self.plan.session:
            raise RuntimeError(
                f"a worker of session {statement.session!r} states to the ledger of session {self.plan.session!r}; its "
                "purse counts as spent, and it must stop"
            )

    def _learn(self, statement: Statement) -> None:
        """Remember which images were reported, and what they cost."""
        num_new = self._seen.add(statement.stage, statement.image_ids)
        self._counts.stated(statement, num_new)
        self._headroom_rows -= num_new
        self._pacing.observe(statement)

    def _fill(self, statement: Statement, now_s: float) -> Grant:
        """The answer to a statement that wants something, or nothing."""
        purse = self.account.purses[statement.worker]
        if statement.batch_rows:
            later = zip(self._counts.gone_on, self._seen.counts[1:], strict=False)
            waiting = [self.num_unseen, *(max(0, gone - seen) for gone, seen in later)]
            offer = self._pacing.offer(statement, waiting, now_s)
            purse = self.account.grant(statement.worker, offer, now_s)
            self._pacing.note(purse)
            self._counts.granted(self._seen.counts[0], offer.position)
        return self._grant(purse)

    def _grant(self, purse: OpenPurse) -> Grant:
        """The answer that ``purse`` stands for."""
        first = purse.stage == 0 and self.plan.fixed_policy is None
        return Grant(
            policy=self.plan.fixed_policy or self.plan.frontier.mix(purse.position),
            position=purse.position,
            num_rows=purse.num_rows,
            allowance_macs=purse.granted_macs,
            retry_s=0.0 if purse.num_rows else self._pacing.retry_s,
            max_age_s=self._pacing.max_age_s,
            first_macs=self.plan.first_macs if first else 0,
            dense_macs=self.plan.exit_macs[0] if first else 0,
            most_macs=self.plan.stage_most_macs(purse.stage),
            session=self.plan.session,
        )

    def _plan_policy(self) -> MixedPolicy:
        """The point of the frontier for everything that is left, before the first grant."""
        if self.plan.fixed_policy is not None:
            return self.plan.fixed_policy
        frontier, images = self.plan.frontier, max(1, self.num_unseen)
        gflops = max(self.account.left_macs() / images / GIGA, frontier.minimum_gflops)
        return frontier.at(gflops)

    def _write_mark(self, first: bool = False, last: bool = False) -> None:
        """Authorise the next chunk, or only what is charged; the mark is safe before anything in it is granted."""
        content = None if first else self._mark.read()
        if content is not None and MarkState.owner_of(content) != self._owner:
            raise RuntimeError("another ledger has taken over this run's mark; this one stops granting")  # TAKEN_OVER
        account = self.account
        part = self.plan.chunk_fraction
        chunk = int(max(part * self.plan.budget_macs, _CHUNK_OF_OPEN * account.open_macs))
        self._headroom_rows = max(part * self.plan.num_images, _CHUNK_OF_OPEN * account.promised_rows.total())
        if self.plan.fixed_policy is None:  # near the minimum a lost chunk would cost labels, so it is kept small there
            chunk = max(0, min(chunk, (account.left_macs() - account.reserve_macs(self.num_unseen)) // 10))
        chunk = 0 if last else chunk
        state = MarkState(
            authorised_macs=account.charged_macs + chunk,
            owner=self._owner,
            epoch=self._epoch,
            session=self.plan.session,
            settled_macs=self._counts.settled_macs,
            gone_on=list(self._counts.gone_on),
            exits_realised=list(self._counts.exits_realised),
            longest_silence_s=self._pacing.longest_silence_s,
            purses=pack_purses(account.for_mark(self._now_s)),
            seen=list(self._seen.counts),
        )
        self._mark.write(state.to_bytes())
        self._counts.mark_writes += 1
        account.headroom_macs = chunk
