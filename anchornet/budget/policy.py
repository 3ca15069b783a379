"""Policies: one threshold per exit, which image leaves where, and who goes on when money is short.

Shapes: N images, K exits. An image leaves at the first exit whose float32 confidence is >= its float32 threshold; the last
exit takes everything. ``anchornet.budget.frontier`` offers all of this together with the frontier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anchornet.units import GIGA

NUM_FOLDS = 5


def hash_fraction(image_id_N: np.ndarray) -> np.ndarray:
    """(N,) float64 in [0, 1): a fixed number per image_id, the same on every machine and every retry.

    Source: the output function of splitmix64 (Steele, Lea, Flood 2014).
    """
    z = np.asarray(image_id_N, np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53)


def fold_of(image_id_N: np.ndarray) -> np.ndarray:
    """(N,) int64 in 0..NUM_FOLDS - 1: the fold of each image, by the rank of its hash; folds differ by one image at most.

    Whatever is fitted in calibration is judged fold by fold, on images that it was not fitted on, and with the same folds.
    """
    rank_N = np.argsort(np.argsort(hash_fraction(image_id_N), kind="stable"), kind="stable")
    return np.asarray(rank_N % NUM_FOLDS)


@dataclass(frozen=True)
class Policy:
    """One threshold per exit.

    Raises ValueError for NaN, or when the last threshold is not -inf.
    """

    thresholds: tuple[float, ...]
    """K float32 values; inf = nobody leaves here, -inf = everybody does; the last is -inf."""

    def __post_init__(self) -> None:
        """Refuse thresholds that are no policy."""
        if not self.thresholds or self.thresholds[-1] != -math.inf or any(math.isnan(t) for t in self.thresholds):
            raise ValueError(
                f"policy thresholds must be numbers that end in -inf, got {self.thresholds}; add the last exit"
            )

    @cached_property
    def array(self) -> np.ndarray:
        """(K,) float32."""
        return np.array(self.thresholds, np.float32)


@dataclass(frozen=True)
class MixedPolicy:
    """Two neighbouring policies; a hash of image_id says which of them an image follows."""

    low: Policy
    high: Policy
    high_fraction: float
    """Fraction of images that follow ``high``."""
    expected_macs: float
    """Mean multiply-adds per image on the calibration images."""
    accuracy: float | None = None
    """Expected accuracy, cross-fitted; None without labels."""
    accuracy_se: float | None = None
    """Standard error of ``accuracy`` from the number of calibration images."""
    spend_error: float | None = None
    """Relative standard error of ``expected_macs`` from the number of calibration images."""
    exit_fractions: tuple[float, ...] = ()
    """Expected fraction of images that leaves at each of the K exits."""

    def thresholds_for(self, image_id_N: np.ndarray) -> np.ndarray:
        """(N, K) float32 thresholds of these images; the same image always gets the same row."""
        if self.high_fraction <= 0.0 or self.low is self.high:
            return np.tile(self.low.array, (len(image_id_N), 1))
        follows_high = hash_fraction(image_id_N) < self.high_fraction
        return np.where(follows_high[:, None], self.high.array, self.low.array)

    @property
    def expected_gflops(self) -> float:
        """Mean GFLOPs per image on the calibration images."""
        return self.expected_macs / GIGA


def first_exit(confidence_NK: np.ndarray, thresholds_NK: np.ndarray) -> np.ndarray:
    """(N,) int64: the exit at which each image leaves; the last exit takes everything.

    thresholds_NK may be (K,) as well. Both are compared as float32.
    """
    leaves = np.asarray(confidence_NK, np.float32) >= np.asarray(thresholds_NK, np.float32)
    leaves[:, -1] = True
    return np.argmax(leaves, axis=1)


def rows_to_advance(score_N: np.ndarray, wants_N: np.ndarray, cost_N: np.ndarray, allowance_macs: int) -> np.ndarray:
    """(N,) bool: the rows that go on; all that want to when the allowance covers them, else the least certain first.

    score_N (N,) float32 as low as uncertain; wants_N (N,) bool; cost_N (N,) int64 multiply-adds of going on. Equal scores
    are taken by index. The cost of the rows returned never exceeds ``allowance_macs``.
    """
    rows = np.flatnonzero(wants_N)
    advance_N = np.zeros(len(wants_N), bool)
    rows = rows[np.argsort(score_N[rows], kind="stable")]
    covered = np.cumsum(cost_N[rows], dtype=np.int64) <= allowance_macs
    advance_N[rows[covered]] = True
    return advance_N
