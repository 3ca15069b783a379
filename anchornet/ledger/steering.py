"""Steering: which point of the frontier fits the money that is left, given what images really cost so far.

Shapes: P points of a frontier, S stages. A position is a float in [0, P - 1]; fractions mix two neighbouring points.
Estimates here may be wrong without harm: the bound is kept by the ledger's integers, steering only decides how well the
budget is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anchornet.budget.frontier import Frontier
from anchornet.ledger.drift import Drift, Sums


def _rising(value_P: np.ndarray, most: float) -> np.ndarray:
    """(P,) never falling and at most ``most``: dearer points cost more, whatever noise says."""
    return np.minimum(np.maximum.accumulate(value_P), most)


class _StageModel:
    """Per point: what a row that enters a stage costs there, how much that varies, and how likely it goes on."""

    def __init__(self, fractions_PK: np.ndarray, spend_PK: np.ndarray, first: int, stop: int) -> None:
        arriving_P = fractions_PK[:, first:].sum(axis=1)
        known = arriving_P > 1e-9
        safe_P = np.where(known, arriving_P, 1.0)
        # where nobody arrives, the first exit is all we know of the cost of a row
        arrivals_PK = np.cumsum(fractions_PK[:, ::-1], axis=1)[:, ::-1]
        marginal_K = np.max(
            np.divide(spend_PK, arrivals_PK, out=np.zeros_like(spend_PK), where=arrivals_PK > 1e-9), axis=0
        )
        self.base = float(marginal_K[first])
        self.most = float(marginal_K[first:stop].sum())
        cost_P = np.where(known, spend_PK[:, first:stop].sum(axis=1) / safe_P, self.base)
        self.extra_P = np.maximum(cost_P - self.base, 0.0)
        going_P = fractions_PK[:, stop:].sum(axis=1)
        self.going_P = np.where(known, going_P / safe_P, 0.0)
        self.passing_P = np.where(known, fractions_PK[:, first + 1 :].sum(axis=1) / safe_P, 0.0)
        """Rows that go on past the first exit of the stage."""
        self.sd_P = self._spread(fractions_PK, marginal_K, first, stop, safe_P)

    def _spread(
        self, fractions_PK: np.ndarray, marginal_K: np.ndarray, first: int, stop: int, safe_P: np.ndarray
    ) -> np.ndarray:
        """(P,) standard deviation of the cost of a row inside this stage."""
        cost_k = np.cumsum(marginal_K[first:stop])
        share_Pk = fractions_PK[:, first:stop].copy()
        share_Pk[:, -1] += fractions_PK[:, stop:].sum(axis=1)
        share_Pk /= safe_P[:, None]
        mean_P = share_Pk @ cost_k
        return np.sqrt(np.maximum(share_Pk @ (cost_k**2) - mean_P**2, 0.0))


class Outlook(NamedTuple):
    """What is expected of one row of a stage at some position."""

    cost_macs: float
    """Corrected by what was seen so far."""
    sd_macs: float
    """Standard deviation over rows, as calibrated."""


class StageResult(NamedTuple):
    """What a batch did in one stage."""

    rows: int
    spent_macs: int
    passed: int
    """Rows that went on past the first exit of the stage."""
    going_on: int
    """Rows that go on to the next stage."""
    cut_short: bool
    """The allowance was used up."""


class Steering:
    """Keeps score of expected against realised and finds the position for what remains."""

    def __init__(self, frontier: Frontier, stage_starts: Sequence[int], num_images: int) -> None:
        fractions_PK = np.array([point.exit_fractions for point in frontier.points])
        spend_PK = np.array([point.exit_spend_macs for point in frontier.points])
        stops = [*stage_starts[1:], len(frontier.exits)]
        self.stages = [_StageModel(fractions_PK, spend_PK, a, b) for a, b in zip(stage_starts, stops, strict=True)]
        memory = max(1000.0, 0.02 * num_images)
        self.cost_drift = [Drift(stage.extra_P, stage.most - stage.base, memory) for stage in self.stages]
        self.going_drift = [Drift(stage.going_P, 1.0, memory) for stage in self.stages]
        self._positions = np.arange(len(frontier.points), dtype=np.float64)
        self._next_P = [model.base + model.extra_P for model in self.stages]
        self._rest_P = list(self._next_P)
        self._going_P = [model.going_P for model in self.stages]
        self._refresh_rows = 0.0005 * num_images
        self._rows_since = 0.0

    def observe(self, stage: int, position: float, result: StageResult) -> None:
        """Learn from a settled batch that was leased at ``position``."""
        model, rows = self.stages[stage], result.rows
        counted = 0 if result.cut_short else rows
        passing = (counted, counted * self._at(model.passing_P, position), 0 if result.cut_short else result.passed)
        extra = max(result.spent_macs - rows * model.base, 0.0)
        cost = Sums(rows, rows * self._at(model.extra_P, position), extra, *passing)
        self.cost_drift[stage].observe(position, cost)
        going = Sums(rows, rows * self._at(model.going_P, position), result.going_on, *passing)
        self.going_drift[stage].observe(position, going)
        self._rows_since += rows

    def outlook(self, stage: int, position: float) -> Outlook:
        """What a row of ``stage`` is expected to do at ``position``."""
        model = self.stages[stage]
        return Outlook(self._at(self._next_P[stage], position), self._at(model.sd_P, position))

    def position(
        self, money_macs: float, waiting: Sequence[int], computing: Sequence[int], seen_fraction: float
    ) -> float:
        """The position at which all that remains is expected to cost ``money_macs``.

        waiting (S,): rows not yet leased at each stage (for the first stage: images not yet seen); computing (S,): rows in
        open leases of each stage, whose own cost is not part of ``money_macs``; seen_fraction of all images were seen.
        """
        if self._rows_since > self._refresh_rows:
            self._refresh(seen_fraction)
        total_P = np.zeros(len(self._positions))
        rows_P: np.ndarray | float = 0.0
        for stage, rest_P in enumerate(self._rest_P):
            rows_P = rows_P + waiting[stage]
            total_P += rows_P * rest_P
            rows_P = (rows_P + computing[stage]) * self._going_P[stage]
        return float(np.interp(money_macs, np.maximum.accumulate(total_P), self._positions))

    def _refresh(self, seen_fraction: float) -> None:
        """Bring the corrected costs up to date; two thousand times per job is often enough."""
        self._rows_since = 0.0
        for stage, model in enumerate(self.stages):
            rest_P, next_P = self.cost_drift[stage].factors(seen_fraction)
            self._next_P[stage] = _rising(model.base + next_P * model.extra_P, model.most)
            self._rest_P[stage] = _rising(model.base + rest_P * model.extra_P, model.most)
            self._going_P[stage] = _rising(self.going_drift[stage].factors(seen_fraction)[0] * model.going_P, 1.0)

    def position_costing(self, stage: int, cost_macs: float) -> float:
        """The position at which a row of ``stage`` is expected to cost ``cost_macs`` there."""
        return float(np.interp(cost_macs, self._next_P[stage], self._positions))

    def _at(self, value_P: np.ndarray, position: float) -> float:
        low = int(position)
        share = position - low
        value = float(value_P[low])
        return value + share * (float(value_P[low + 1]) - value) if share else value
