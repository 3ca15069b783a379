"""Pacing: how much a purse gets, and under which policy, so that the budget is used up and no more than that is wanted.

Estimates here may be wrong without harm: the bound is kept by the account's integers, pacing only decides how well the
budget is used. Each rule names a line of ``benchmarks.ledger_simulation`` and what that line says without the rule.

Shapes: S stages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anchornet.ledger.account import Account, Offer
from anchornet.ledger.counts import going_on
from anchornet.ledger.forecast import Forecast
from anchornet.ledger.mark import OpenPurse
from anchornet.ledger.plan import LedgerPlan
from anchornet.ledger.purse import Statement

_INTERVAL_S = 2.0
"""Between two statements of a worker: what a dead one can lose, and how old the progress line is."""
_STATEMENTS_PER_S = 400.0
"""What one ledger actor is asked to answer; see benchmarks/results/ledger_rate. More workers state less often."""
_PURSES_LEFT = 16
"""A purse holds at most this part of a worker's share of the rows that remain: a dead worker loses little, and purses
shrink towards the end, down to a batch, or to half of what the statements per second allow. (Anchor first, 1 % of batches
die, 0.6: 86 % used in place of 97 %.)"""
_AT_RISK = 0.25
"""All purses together hold at most this part of what is not needed for first exits: near the minimum a purse is a batch.
(1 stage, 1 % of batches die, 0.8: 472 images without a label in place of 160.)"""
_RETRY_FRACTION = 0.125
"""Of an interval; when everything that is left is in other purses, which come back within one."""
_SILENCE_S = 20.0
_PATIENCE = 3.0
"""A worker is taken for dead when it is silent for three times the longest silence that any broke so far (than 20 s before
the first), or than an interval. A wrong guess costs nothing but money set aside a second time until it speaks."""
_ROOM = 0.5
"""A purse holds so much more than its rows are expected to cost, as a part of that: for chance, for calibrations that are
wrong, and for inputs whose hard images come in blocks. (Anchor first, 100 workers: 95 % used in place of 100 %.)"""
_CONTINGENCY = 0.003
"""Part of the budget that only first exits may use, for rows that dead workers leave behind. (Sparse, 100 workers, 1 %
die: 381 images without a label in place of none.)"""


class Pacing:
    """Decides what a worker is offered. ``account`` is only read, but for giving up workers that are silent."""

    def __init__(self, plan: LedgerPlan, account: Account, longest_silence_s: float = 0.0) -> None:
        """longest_silence_s: what an earlier ledger of this session had seen a worker break."""
        self._plan = plan
        self._account = account
        self._forecast = Forecast(plan.frontier, plan.stage_starts)
        self.longest_silence_s = longest_silence_s

    @property
    def max_age_s(self) -> float:
        """How far the statements of a worker may be apart."""
        return max(_INTERVAL_S, self._account.num_open() / _STATEMENTS_PER_S)

    @property
    def retry_s(self) -> float:
        """When a worker that got nothing should come again."""
        return _RETRY_FRACTION * self.max_age_s

    def heard(self, statement: Statement, now_s: float) -> None:
        """A worker speaks; to be told before the account is."""
        self.longest_silence_s = max(self.longest_silence_s, self._account.silence_s(statement.worker, now_s))

    def observe(self, statement: Statement) -> None:
        """Learn from what rows cost."""
        if num_rows := len(statement.image_ids):
            going = going_on(statement)
            self._forecast.observe(statement.stage, statement.position, num_rows, statement.spent_macs, going)

    def note(self, purse: OpenPurse) -> None:
        """The rows of this purse are computed under its policy."""
        if purse.num_rows:
            share = purse.num_rows / self._account.promised_rows[purse.stage]
            self._forecast.granted(purse.stage, purse.position, share)

    def offer(self, statement: Statement, waiting: Sequence[int], now_s: float) -> Offer:
        """What a worker gets for the rows at its hand and the next ones; no rows: it should come again.

        waiting (S,): rows known to want each stage and not stated there.
        """
        silence_s = max(self.longest_silence_s or _SILENCE_S, self.max_age_s)
        self._account.give_up(now_s - _PATIENCE * silence_s)
        if (policy := self._plan.fixed_policy) is not None:
            costs = self._plan.frontier.costs_macs
            position = float(np.interp(policy.expected_macs, costs, np.arange(len(costs))))
            rows = self._rows(statement, position, waiting)
            return Offer(rows, rows * self._plan.stage_most_macs(statement.stage), 0, position)
        kept_macs = self._contingency_macs(statement.batch_rows, now_s - silence_s)
        promised = [self._account.promised_rows[stage] for stage in range(len(waiting))]
        money_macs = self._account.left_macs() + self._account.lent_macs - kept_macs
        return self._bounded(statement, self._forecast.position(money_macs, waiting, promised), waiting, kept_macs)

    def _rows(self, statement: Statement, position: float, waiting: Sequence[int]) -> int:
        """Rows of a purse: what the worker wants, less when the rows that remain in its stage are few; at least its batch."""
        account, workers = self._account, self._account.num_open()
        share = self._forecast.waiting_rows(statement.stage, position, waiting)
        share /= (1 + account.num_open(statement.stage)) * _PURSES_LEFT
        bearable_macs = account.left_macs() + account.open_macs - waiting[0] * self._plan.first_macs
        row_macs = max(1.0, self._forecast.row_macs(statement.stage, position))
        share = min(share, _AT_RISK * bearable_macs / ((1 + workers) * row_macs))
        shortest = statement.wanted_rows * workers / (2 * _STATEMENTS_PER_S) / self.max_age_s
        return max(statement.batch_rows, min(statement.wanted_rows, int(max(share, shortest))))

    def _bounded(self, statement: Statement, position: float, waiting: Sequence[int], kept_macs: int) -> Offer:
        """An offer in mode ``hard``: what the rows are expected to cost, and room while others can spare it."""
        stage, batch, account, plan = statement.stage, statement.batch_rows, self._account, self._plan
        first, dense = (plan.first_macs, plan.exit_macs[0]) if stage == 0 else (0, 0)
        rows, left = self._rows(statement, position, waiting), account.left_macs()
        owed = batch * dense + (rows - batch) * first
        free = left - account.reserve_macs(waiting[0] - (rows if stage == 0 else 0)) - kept_macs
        expected = rows * self._forecast.row_macs(stage, position)
        others_hold_it = left < owed and account.open_macs > statement.kept_macs
        lent = free < expected and account.lent_macs > 0  # anchor first, 100 workers: 79 % used in place of 100 %
        computes = free < owed and statement.kept_rows > 0  # a second batch at risk; 2 stages, minimum: 896 for 480
        if others_hold_it or lent or computes:
            return Offer(0, 0, 0, position)
        even = owed + (free - owed) * rows / max(rows, sum(waiting))  # 1 stage, blocks, 2.5: 96 % used
        macs = max(min((1.0 + _ROOM) * expected, free), even, min(owed, left))
        macs = max(0, min(round(macs), left, rows * plan.stage_most_macs(stage)))
        return Offer(rows, macs, max(0, macs - round(expected)), position)

    def _contingency_macs(self, batch_rows: int, overdue_s: float) -> int:
        """Kept back for first exits: of rows that the dead leave behind, noticed or not, and of a batch above the mean.

        Without the second: 1 stage, 100 workers, 1 % die: 681 images without a label in place of 307. Without the third:
        sparse, blocks: 35.
        """
        plan, account = self._plan, self._account
        at_risk = min((account.promised_rows[0] + batch_rows) * plan.first_macs, int(_CONTINGENCY * plan.budget_macs))
        overdue = account.overdue_rows(overdue_s) * plan.first_macs
        return at_risk + overdue + batch_rows * (plan.exit_macs[0] - plan.first_macs)
