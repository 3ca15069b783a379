"""From raw confidence to the probability of being right, exit by exit.

Shapes: N images, K exits, B bins. Summed logits are over-confident and the more so the later the exit; an isotonic fit per
exit (pool adjacent violators, as SciPy has it) keeps the ranking and mends the level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anchornet.budget.exit_table import ExitTable, HeldOut
from anchornet.budget.policy import fold_of

Floats = NDArray[np.float64]
NUM_BINS = 15
_PRIOR_RIGHT, _PRIOR_IMAGES = 1.0, 2.0
"""Added to every level (Laplace's rule), so that few images do not make a level of exactly 0 or 1."""


@dataclass(frozen=True)
class ExitCurve:
    """A non-decreasing step-wise linear map from score to probability at one exit."""

    score: Floats
    """(L,) increasing: the mean score of each level."""
    probability: Floats
    """(L,) non-decreasing."""

    def __call__(self, score_N: NDArray[np.float32]) -> Floats:
        """(N,) probabilities; constant beyond the first and the last level."""
        return np.interp(score_N, self.score, self.probability)


@dataclass(frozen=True)
class Calibrator:
    """One curve per exit."""

    curves: tuple[ExitCurve, ...]

    def __call__(self, score_N: NDArray[np.float32], exit_N: NDArray[np.integer]) -> Floats:
        """(N,) probability of being right for images that left at exit_N with score_N."""
        probability = np.empty(len(score_N))
        for k, curve in enumerate(self.curves):
            here = exit_N == k
            probability[here] = curve(score_N[here])
        return probability


def fit_calibrator(table: ExitTable) -> Calibrator:
    """Curves fitted on all images of a table with labels. Raises ValueError without labels."""
    return _fit(table.confidence, table.correct)


def calibration_errors(held: HeldOut) -> list[dict[str, float | str]]:
    """Per exit the expected calibration error of the raw score and of the calibrated confidence, as fractions.

    The calibrated one is cross-fitted: every image is judged by curves that were fitted without it.
    """
    table, fold_N = held.table, fold_of(held.table.image_id)
    calibrated_NK = np.empty(table.confidence.shape)
    for fold, seen in enumerate(held.folds):
        held_out = fold_N == fold
        fitted = _fit(seen.confidence[~held_out], seen.correct[~held_out])
        for k, curve in enumerate(fitted.curves):
            calibrated_NK[held_out, k] = curve(table.confidence[held_out, k])
    return [
        {
            "exit": name,
            "before": expected_calibration_error(table.confidence[:, k], table.correct[:, k]),
            "after": expected_calibration_error(calibrated_NK[:, k], table.correct[:, k]),
        }
        for k, name in enumerate(table.exits)
    ]


def expected_calibration_error(
    confidence_N: NDArray[np.floating], correct_N: NDArray[np.bool_], num_bins: int = NUM_BINS
) -> float:
    """Mean over images of |mean confidence - accuracy| of the image's bin; bins of equal width over [0, 1].

    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, section 2.
    """
    bin_N = np.clip((confidence_N * num_bins).astype(np.int64), 0, num_bins - 1)
    confidence_B = np.bincount(bin_N, weights=confidence_N, minlength=num_bins)
    correct_B = np.bincount(bin_N, weights=correct_N.astype(np.float64), minlength=num_bins)
    return float(np.abs(confidence_B - correct_B).sum() / len(confidence_N))


def _fit(confidence_NK: NDArray[np.float32], correct_NK: NDArray[np.bool_]) -> Calibrator:
    return Calibrator(tuple(_curve(confidence_NK[:, k], correct_NK[:, k]) for k in range(confidence_NK.shape[1])))


def _curve(confidence_N: NDArray[np.float32], correct_N: NDArray[np.bool_]) -> ExitCurve:
    """One point per level of the isotonic fit: its mean score, and its smoothed share of right answers."""
    from scipy.optimize import isotonic_regression  # here: those who only apply a calibration need no scipy

    order = np.argsort(confidence_N, kind="stable")
    score = confidence_N[order].astype(np.float64)
    # Equal scores must share a level, whatever the order of their labels.
    values, group_N = np.unique(score, return_inverse=True)
    images = np.bincount(group_N).astype(np.float64)
    right = np.bincount(group_N, weights=correct_N[order].astype(np.float64))
    blocks = isotonic_regression(right / images, weights=images).blocks[:-1]
    images_L, right_L = np.add.reduceat(images, blocks), np.add.reduceat(right, blocks)
    score_L = np.add.reduceat(values * images, blocks) / images_L
    smoothed = (right_L + _PRIOR_RIGHT) / (images_L + _PRIOR_IMAGES)
    return ExitCurve(score_L, np.asarray(isotonic_regression(smoothed, weights=images_L).x))
