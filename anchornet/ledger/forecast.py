"""The forecast: what the rows to come will cost under each policy, from the calibration and from what rows cost so far.

The manifest is in random order, so the past tells the future: what rows really cost, over what the calibration expected of
them, is what the rest will cost. Estimates, which may be wrong without harm.

Shapes: P points of a frontier, S stages. A position is a float in [0, P - 1]; fractions mix two neighbouring points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anchornet.budget.frontier import Frontier

_PRIOR_ROWS = 400.0
"""Rows that the calibration counts for: as many as tell a rate within a few percent."""

_RAREST = 0.01
"""Smallest fraction of images for which arriving at a stage is taken at its word."""


class Ratio:
    """Realised over expected of one quantity, drawn towards 1 while little is known."""

    def __init__(self) -> None:
        self._rows = self._expected = self._realised = 0.0

    def observe(self, num_rows: int, expected: float, realised: float) -> None:
        """Count rows."""
        self._rows += num_rows
        self._expected += expected
        self._realised += realised

    def value(self) -> float:
        """The estimate for the rows to come."""
        if self._expected <= 0.0:
            return 1.0
        return (self._rows * self._realised / self._expected + _PRIOR_ROWS) / (self._rows + _PRIOR_ROWS)


class _StageModel:
    """What the calibration says of one stage, per point of the frontier."""

    def __init__(self, frontier: Frontier, first: int, stop: int) -> None:
        fractions_PK = np.array([point.exit_fractions for point in frontier.points])
        spend_PK = np.array([point.exit_spend_macs for point in frontier.points])
        arrivals_PK = np.cumsum(fractions_PK[:, ::-1], axis=1)[:, ::-1]
        each_PK = np.divide(spend_PK, arrivals_PK, out=np.zeros_like(spend_PK), where=arrivals_PK > 1e-9)
        each_K = each_PK.max(axis=0)  # where nobody arrives, other points know what a row costs
        self.base = float(each_K[first])
        """A row at the first exit of the stage."""
        self.most = float(each_K[first:stop].sum())
        """What a row of it can cost in the mean, at every exit. (Unused: anchor first, blocks, 0.2: 99.1 % used for 99.8.)"""
        self.extra_P = np.maximum.accumulate(spend_PK[:, first + 1 : stop].sum(axis=1))
        """Per image of the job: spend beyond that exit."""
        self.arriving_P = arrivals_PK[:, first]
        """Fraction of the job's images."""
        self.going_P = fractions_PK[:, stop:].sum(axis=1)
        """Fraction of the job's images that goes on to the next stage."""
        self.cost_ratio, self.going_ratio = Ratio(), Ratio()
        self.given = 0.0
        """Mean position of the purses that are out."""


class Forecast:
    """Keeps score of expected against realised and finds the position for what remains.

    A row at a later stage stands for the images among which it was the least certain: rows that went on under a cheap
    policy are the hardest ones, and what a dearer policy would spend on all of those images it spends on these.
    """

    def __init__(self, frontier: Frontier, stage_starts: Sequence[int]) -> None:
        stops = [*stage_starts[1:], len(frontier.exits)]
        self._stages = [_StageModel(frontier, a, b) for a, b in zip(stage_starts, stops, strict=True)]
        self._positions = np.arange(len(frontier.points), dtype=np.float64)

    def observe(self, stage: int, position: float, num_rows: int, spent_macs: int, going_on: int) -> None:
        """Learn from rows that were computed under the policy at ``position``."""
        model, images = self._stages[stage], num_rows * self._images_per_row(stage)
        expected = num_rows * model.base + images * self._at(model.extra_P, position)
        model.cost_ratio.observe(num_rows, min(expected, num_rows * model.most), spent_macs)
        model.going_ratio.observe(num_rows, min(images * self._at(model.going_P, position), num_rows), going_on)

    def granted(self, stage: int, position: float, share: float) -> None:
        """A purse for this share of all rows in purses of ``stage`` follows the policy at ``position``."""
        model = self._stages[stage]
        model.given += min(share, 1.0) * (position - model.given)

    def position(self, money_macs: float, waiting: Sequence[int], promised: Sequence[int]) -> float:
        """The position at which all that remains is expected to cost ``money_macs``.

        waiting (S,): rows known to want each stage and not reported there (for the first stage: images not reported);
        promised (S,): rows that purses are for, of these or of those to come. What they cost in their own stage is not part
        of the money; how many go on follows from the positions that were granted.
        """
        total_P, rows_P, images_P = (np.zeros(len(self._positions)) for _ in range(3))
        for stage, model in enumerate(self._stages):
            rows_P = rows_P + waiting[stage]
            images_P = images_P + waiting[stage] * self._images_per_row(stage)
            free_P = 1.0 - np.minimum(promised[stage] / np.maximum(rows_P, 1.0), 1.0)  # part that is not in purses
            cost_P = np.minimum(rows_P * model.base + images_P * model.extra_P, rows_P * model.most)
            total_P += free_P * cost_P * model.cost_ratio.value()
            going_P = free_P * model.going_P + (1.0 - free_P) * self._at(model.going_P, model.given)
            rows_P = np.minimum(images_P * going_P * model.going_ratio.value(), rows_P)
        return float(np.interp(money_macs, np.maximum.accumulate(total_P), self._positions))

    def waiting_rows(self, stage: int, position: float, waiting: Sequence[int]) -> float:
        """Rows that are still to come at ``stage``, those from earlier stages as expected."""
        rows = float(waiting[0])
        for s in range(stage):
            going = self._images_per_row(s) * self._at(self._stages[s].going_P, position)
            rows = rows * min(1.0, going * self._stages[s].going_ratio.value()) + waiting[s + 1]
        return rows

    def row_macs(self, stage: int, position: float) -> float:
        """Expected cost in ``stage`` of a row that is there now, under the policy at ``position``."""
        model = self._stages[stage]
        cost = model.base + self._images_per_row(stage) * self._at(model.extra_P, position)
        return min(cost, model.most) * model.cost_ratio.value()

    def _images_per_row(self, stage: int) -> float:
        """Images of the job for which one row at ``stage`` stands, by the positions that were granted before it."""
        if stage == 0:
            return 1.0
        before = self._stages[stage - 1]
        arriving = self._at(self._stages[stage].arriving_P, before.given) * before.going_ratio.value()
        return 1.0 / min(max(arriving, _RAREST), 1.0)

    def _at(self, value_P: np.ndarray, position: float) -> float:
        low = int(position)
        share = position - low
        value = float(value_P[low])
        return value + share * (float(value_P[low + 1]) - value) if share else value
