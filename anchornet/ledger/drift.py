"""How far what happens is from what was calibrated, and whether that says anything about the rest of the job.

Shapes: P points of a frontier. ``position`` is a float in [0, P - 1]; fractions mix two neighbouring points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_PRIOR_VARIANCE = 0.01
"""Variance between batches, relative and beyond chance, at which past and calibration are believed equally."""
_PRIOR_ROWS = 400.0
"""Rows that the calibration counts for."""
_PRIOR_COUNTED = 10.0
"""The same when only the share that goes on is judged: a few hundred rows that all do the same must outweigh it."""
_DEGENERATE = 0.03
"""Share x (1 - share) below which all rows do the same, as they do at either end of sorted input."""
_ODDS = math.log(5.0)
"""A calibration may miss the odds of going on by so much; more than that is taken for sorted input."""
_SLOPE_ROWS = 100.0
"""How strongly realised cost is presumed proportional to expected cost, in rows one e-fold away from the mean."""
_RECENT = 0.8
"""What a batch still counts for when the next one is settled, in the memory of recent batches."""
_LEAN = 1.5
"""How fast money is let go when the hard images came first; by the simulation, hard first used 97 % without and 99 % with."""
_NEAR = 0.12
"""Part of a sorted job, at its end, that is taken to go on like its last batches."""
_MOST_COMPENSATION = 8.0
_MOST_LEVEL = math.log(100.0)
"""Bounds of corrections: for sorted input, and for calibrations that are wrong."""


class Drift:
    """Realised over expected of one quantity, as an estimate for the rows still to come.

    When batches differ among each other by no more than chance, the past tells the future: the rest will be like it. When
    they differ by more, the input is sorted, and the calibration is believed for the job as a whole: after more than
    expected the rest will be less.
    """

    def __init__(self, value_P: np.ndarray, most: float, memory_rows: float) -> None:
        """value_P (P,): expectation per row at each point; most: the largest value one row can have.

        memory_rows: rows after which a batch counts for a third.
        """
        self.most = most
        self.memory_rows = memory_rows
        self.total = Sums()
        self._recent = Sums()
        self._value_P = value_P
        self._lately_3P = np.zeros((3, len(value_P)))
        self._squares = self._inverse = self._oddity = 0.0
        self._by_place: dict[int, tuple[float, float]] = {}

    def observe(self, position: float, batch: Sums) -> None:
        """Count a batch that was leased at ``position`` of the frontier."""
        if batch.expected <= 0.0:
            return
        self.total.add(batch)
        self._recent.add(batch, _RECENT)
        self._squares += batch.realised**2 / batch.expected
        self._inverse += batch.rows / batch.expected
        place = int(position)
        expected, realised = self._by_place.get(place, (0.0, 0.0))
        self._by_place[place] = (expected + batch.expected, realised + batch.realised)
        self._lately_3P *= math.exp(-batch.rows / self.memory_rows)
        rows = batch.rows
        if self._value_P[place] <= 0.0:  # only those who follow the dearer policy of the mix say something
            rows, place = rows * (position - place), place + 1
        self._lately_3P[:, place] += (rows, batch.expected, batch.realised)
        if self.total.counted_rows:
            self._notice_sorting()

    def excess_variance(self) -> float:
        """Relative variance between batches of the same policy beyond chance; 0 when the order is random.

        Chance: values in [0, most] of mean m have a variance of at most m (most - m), whatever the calibration says.
        """
        if self.total.realised <= 0.0:
            return 0.0
        explained = sum(realised * realised / expected for expected, realised in self._by_place.values())
        between = (self._squares - explained) / self.total.expected
        mean = self.total.realised / self.total.rows
        chance = mean * max(self.most - mean, 0.0) * self._inverse / self.total.expected
        return max(0.0, between - 1.5 * chance) / (self.total.realised / self.total.expected) ** 2

    def _notice_sorting(self) -> None:
        """Remember when almost all rows, or almost none, go on although the calibration expects otherwise.

        Sorted input starts like this, long before batches can be seen to differ.
        """
        counted = self.total.counted_rows + _PRIOR_COUNTED
        expected = self.total.expected_going / max(self.total.counted_rows, 1.0)
        share = (self.total.going + _PRIOR_COUNTED * expected) / counted
        if abs(_log_odds(share) - _log_odds(expected)) >= _ODDS:
            self._oddity = max(self._oddity, 1.0 - share * (1.0 - share) / _DEGENERATE)

    def past(self) -> np.ndarray:
        """(P,) realised over expected at each point of the frontier, if the rest is like the last batches.

        A calibration that is wrong is wrong differently for every policy: realised = a x expected ^ b, fitted over the
        points that were used, with b drawn towards 1.
        """
        rows_P, expected_P, realised_P = self._lately_3P
        used = (rows_P > 0.0) & (realised_P > 0.0)
        weight = rows_P[used]
        if not len(weight):
            return np.ones_like(self._value_P)
        x, y = np.log(expected_P[used] / weight), np.log(realised_P[used] / weight)
        weight = weight / weight.sum()
        mean_x, mean_y = float(weight @ x), float(weight @ y)
        known = float(rows_P.sum())
        slope = (known * float(weight @ ((x - mean_x) * (y - mean_y))) + _SLOPE_ROWS) / (
            known * float(weight @ (x - mean_x) ** 2) + _SLOPE_ROWS
        )
        slope = min(max(slope, 0.0), 1.5)
        value_P = np.log(np.maximum(self._value_P, 1e-9 * self.most))
        prior = _PRIOR_ROWS * min(1.0, _PRIOR_ROWS / self.total.rows)
        level = (mean_y - mean_x) + (slope - 1.0) * (value_P - mean_x)
        return np.asarray(np.exp(np.clip(level * (known / (known + prior)), -_MOST_LEVEL, _MOST_LEVEL)))

    def factors(self, seen_fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Multiply expectations at each point (P,) by these: for all that is still to come, and for the next batch.

        seen_fraction of all rows were seen.
        """
        if self.total.rows == 0.0:
            return np.ones_like(self._value_P), np.ones_like(self._value_P)
        trust = _PRIOR_VARIANCE / (_PRIOR_VARIANCE + self.excess_variance() + self._oddity)
        unseen_fraction = max(1.0 - seen_fraction, 0.01)
        recent = _bounded(self._recent.ratio())
        left = _bounded((1.0 - self.total.ratio(_PRIOR_ROWS / self.total.rows) * seen_fraction) / unseen_fraction)
        if recent > left:  # hard images came first: money kept from them cannot be used by the easy rest
            left *= max(1.0 - _LEAN * seen_fraction, 0.2)
        # the last part of sorted input is like the batches before it
        near = min(max(_NEAR / unseen_fraction - 0.5, 0.0), 1.0)
        rest = near * recent + (1.0 - near) * left
        past_P = self.past() ** trust
        return past_P * rest ** (1.0 - trust), past_P * recent ** (1.0 - trust)


@dataclass(slots=True)
class Sums:
    """Sums over rows of what was expected and what happened."""

    rows: float = 0.0
    expected: float = 0.0
    realised: float = 0.0
    counted_rows: float = 0.0
    """Rows of batches that were free to go on; those cut short by their allowance say nothing about it."""
    expected_going: float = 0.0
    """Rows expected to go on past the first exit of the stage."""
    going: float = 0.0

    def add(self, batch: Sums, keep: float = 1.0) -> None:
        """Let what is here fade to ``keep`` and add a batch."""
        self.rows = keep * self.rows + batch.rows
        self.expected = keep * self.expected + batch.expected
        self.realised = keep * self.realised + batch.realised
        self.counted_rows = keep * self.counted_rows + batch.counted_rows
        self.expected_going = keep * self.expected_going + batch.expected_going
        self.going = keep * self.going + batch.going

    def ratio(self, prior: float = 0.0) -> float:
        """Realised over expected, drawn towards 1 by rows that agree: ``prior`` times as many as were counted."""
        return (self.realised + prior * self.expected) / (self.expected + prior * self.expected)


def _log_odds(share: float) -> float:
    share = min(max(share, 0.005), 0.995)
    return math.log(share / (1.0 - share))


def _bounded(factor: float) -> float:
    return min(max(factor, 1.0 / _MOST_COMPENSATION), _MOST_COMPENSATION)
