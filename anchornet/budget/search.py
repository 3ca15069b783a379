"""Search for thresholds: from arrays of calibration images to paths of policies, cheapest to dearest.

Shapes: N images, K exits, P policies of a path, B bins. A path is (P, K) float32 thresholds; an image leaves at the first
exit whose confidence is >= the threshold. ``budget.fit_frontier`` puts the pieces together.

Two families are searched.

* Prices (needs labels): for a price per multiply-add, backward induction over the exits finds the thresholds that
  maximise accuracy - price x cost. Sweeping the price gives the path.
* Geometric (needs confidences only): the fraction of images that leaves at exit k is proportional to ratio^k. Source:
  MSDNet's budgeted batch classification, arXiv:1703.09844.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_BINS = 256
_SMOOTHING = np.array([1.0, 2.0, 3.0, 2.0, 1.0]) / 9.0
_LOG_RATIOS = np.linspace(-4.5, 2.0, 80)
_BISECTIONS = 24


class CrossFitted(NamedTuple):
    """What a path earns on images it was not fitted on; both (P,) and ordered by cost."""

    cost_macs: np.ndarray
    accuracy: np.ndarray


def leave_at(confidence_NK: np.ndarray, thresholds_PK: np.ndarray) -> np.ndarray:
    """(P, N) int8: the exit at which each image leaves under each policy; the last exit takes everything."""
    num_images, num_exits = confidence_NK.shape
    exit_PN = np.full((len(thresholds_PK), num_images), num_exits - 1, np.int8)
    columns = np.ascontiguousarray(confidence_NK.T)
    for p, thresholds_K in enumerate(thresholds_PK):
        for k in range(num_exits - 2, -1, -1):
            exit_PN[p][columns[k] >= thresholds_K[k]] = k
    return exit_PN


def mean_at_exit(value_NK: np.ndarray, exit_PN: np.ndarray) -> np.ndarray:
    """(P,) float64: mean over images of ``value_NK`` at the exit each image leaves at."""
    rows = np.arange(len(value_NK))
    return np.array([value_NK[rows, exit_N].mean(dtype=np.float64) for exit_N in exit_PN])


def price_grid(cost_NK: np.ndarray, num_prices: int = 48) -> np.ndarray:
    """(P,) prices per multiply-add, low to high.

    From 0.0003 points of accuracy per mean exit (nobody leaves for the money) to a whole image per exit (all leave).
    """
    num_steps = max(cost_NK.shape[1] - 1, 1)
    mean_exit_macs = max(float((cost_NK[:, -1] - cost_NK[:, 0]).mean()) / num_steps, 1.0)
    return np.logspace(-3.5, 0.0, num_prices) / mean_exit_macs


class _Bins(NamedTuple):
    """Confidences cut into at most B equally filled bins per exit; bin edges are confidences of real images."""

    index_KN: np.ndarray
    edges: list[np.ndarray]

    @classmethod
    def of(cls, confidence_NK: np.ndarray, num_bins: int) -> _Bins:
        steps = np.linspace(0.0, 1.0, num_bins + 1)[:-1]
        edges = [np.unique(np.quantile(column, steps, method="lower")) for column in confidence_NK.T]
        index = [
            np.searchsorted(edge, column, side="right") - 1 for edge, column in zip(edges, confidence_NK.T, strict=True)
        ]
        return cls(np.stack(index), edges)

    def thresholds(self, cut_PK: np.ndarray) -> np.ndarray:
        """(P, K) float32: leave when in bin ``cut`` or above; a cut past the last bin means nobody leaves."""
        padded = [np.append(edge, np.inf).astype(np.float32) for edge in self.edges]
        thresholds = np.stack([edge[cut_P] for edge, cut_P in zip(padded, cut_PK.T, strict=True)], axis=1)
        thresholds[:, -1] = -np.inf
        return thresholds


def induction_path(
    confidence_NK: np.ndarray, correct_NK: np.ndarray, cost_NK: np.ndarray, prices_P: np.ndarray
) -> np.ndarray:
    """(P, K) thresholds, one policy per price (low to high), so from dearest to cheapest.

    Backward induction needs to know who arrives at an exit, which the earlier thresholds decide: each price starts from
    the arrivals of the price before it and goes over the exits twice. Thresholds of neighbouring prices are then
    averaged in rank, which takes most of the noise of a small table away (0.1 to 0.2 points at 341 images).
    """
    bins = _Bins.of(confidence_NK, NUM_BINS)
    value_KN = np.ascontiguousarray(correct_NK.T, dtype=np.float64)
    step_KN = np.ascontiguousarray(np.diff(cost_NK, axis=1).T, dtype=np.float64)
    cut_K = np.array([len(edge) for edge in bins.edges])
    cuts = []
    for price in prices_P:
        for _ in range(2):
            cut_K = _induction_pass(bins, value_KN, price * step_KN, cut_K)
        cuts.append(cut_K)
    return bins.thresholds(_smooth(np.array(cuts)))


def _induction_pass(bins: _Bins, value_KN: np.ndarray, toll_KN: np.ndarray, cut_K: np.ndarray) -> np.ndarray:
    """Best cut per exit, last to first, for the images that arrive there under ``cut_K``.

    toll_KN (K-1, N): price of going on from exit k to k + 1, in accuracy.
    """
    num_exits = len(value_KN)
    arrives = np.ones(value_KN.shape, bool)
    for k in range(num_exits - 1):
        arrives[k + 1] = arrives[k] & (bins.index_KN[k] < cut_K[k])
    best_K = cut_K.copy()
    future_N = value_KN[-1]
    for k in range(num_exits - 2, -1, -1):
        index_N = bins.index_KN[k]
        going_on_N = future_N - toll_KN[k]
        gain = np.where(arrives[k], going_on_N - value_KN[k], 0.0)
        gain_B = np.bincount(index_N, weights=gain, minlength=len(bins.edges[k]))
        if arrives[k].any():  # else nothing is learnt here: keep the cut of the price before
            best_K[k] = np.argmax(np.concatenate([[0.0], np.cumsum(gain_B)]))
        future_N = np.where(index_N >= best_K[k], value_KN[k], going_on_N)
    return best_K


def _smooth(cut_PK: np.ndarray) -> np.ndarray:
    """Moving average over neighbouring prices, rounded to whole bins."""
    padded = np.pad(cut_PK, ((2, 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(_SMOOTHING), axis=0)
    return np.rint(windows @ _SMOOTHING).astype(np.int64)


class GeometricFamily:
    """Policies whose exit fractions are proportional to ratio^k, on the confidences of N images."""

    def __init__(self, confidence_NK: np.ndarray, cost_NK: np.ndarray) -> None:
        """cost_NK (N, K) int64, cumulative multiply-adds."""
        self.confidence_NK = confidence_NK
        self.cost_NK = cost_NK
        self._order_KN = np.argsort(-confidence_NK, axis=0, kind="stable").T

    def thresholds(self, log_ratio: float) -> np.ndarray:
        """(K,) float32 thresholds for one ratio; small ratios leave early."""
        num_images, num_exits = self.confidence_NK.shape
        weight_K = np.arange(num_exits) * log_ratio
        share_K = np.exp(weight_K - weight_K.max())
        share_K /= share_K.sum()
        left_N = np.zeros(num_images, bool)
        thresholds_K = np.full(num_exits, np.inf, np.float32)
        for k in range(num_exits - 1):
            order = self._order_KN[k]
            order = order[~left_N[order]]
            count = min(int(num_images * share_K[k]), len(order))
            if count:
                thresholds_K[k] = self.confidence_NK[order[count - 1], k]
                left_N |= self.confidence_NK[:, k] >= thresholds_K[k]
        thresholds_K[-1] = -np.inf
        return thresholds_K

    def path(self) -> np.ndarray:
        """(P, K) thresholds for a fixed grid of ratios, cheapest to dearest."""
        return np.stack([self.thresholds(log_ratio) for log_ratio in _LOG_RATIOS])

    def solve(self, target_macs: float) -> np.ndarray:
        """(K,) thresholds whose mean cost on these images is as close below ``target_macs`` as bisection gets.

        Where no ratio is cheap enough (a share just below 1 sends one image of a few on), everybody leaves at the first exit.
        """
        low, high = -30.0, 30.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.mean_cost(self.thresholds(middle)) <= target_macs else (low, middle)
        found = self.thresholds(low)
        return found if self.mean_cost(found) <= target_macs else np.full_like(found, -np.inf)

    def mean_cost(self, thresholds_K: np.ndarray) -> float:
        """Mean multiply-adds per image under ``thresholds_K`` (K,)."""
        return float(mean_at_exit(self.cost_NK, leave_at(self.confidence_NK, thresholds_K[None]))[0])


def cross_fit(
    paths: Sequence[np.ndarray],
    fold_N: np.ndarray,
    confidence_NK: np.ndarray,
    correct_NK: np.ndarray,
    cost_NK: np.ndarray,
) -> CrossFitted:
    """Cost and accuracy of a path where every image is judged by policies fitted without its fold.

    paths: for each fold f of 0, 1, .. the (P, K) path that was fitted without it; the p-th policies of all belong together.
    """
    total_cost, total_correct = np.zeros(len(paths[0])), np.zeros(len(paths[0]))
    for fold, path in enumerate(paths):
        held = fold_N == fold
        exit_PN = leave_at(confidence_NK[held], path)
        total_cost += mean_at_exit(cost_NK[held], exit_PN) * held.sum()
        total_correct += mean_at_exit(correct_NK[held], exit_PN) * held.sum()
    order = np.argsort(total_cost, kind="stable")
    return CrossFitted(total_cost[order] / len(fold_N), total_correct[order] / len(fold_N))


def switch_spend(cheap: CrossFitted, dear: CrossFitted, margin: float) -> float:
    """The spend up to which ``cheap`` is followed and above which ``dear`` is better; -inf or inf when one always is.

    One number chosen on cross-fitted accuracies: too little freedom to flatter what is shown later. margin: accuracy by
    which ``cheap``, the family with more freedom, must lead to be preferred.
    """
    low = max(cheap.cost_macs[0], dear.cost_macs[0])
    high = min(cheap.cost_macs[-1], dear.cost_macs[-1])
    grid = np.linspace(low, high, 33)
    lead = np.interp(grid, cheap.cost_macs, cheap.accuracy) - np.interp(grid, dear.cost_macs, dear.accuracy)
    won = np.concatenate([[0.0], np.cumsum(lead - margin)])
    best = int(np.argmax(won))
    if best == 0:
        return -np.inf
    return np.inf if best == len(grid) else float(grid[best - 1])


def concave_fit(cost_P: np.ndarray, accuracy_P: np.ndarray) -> np.ndarray:
    """(P,) the concave function of cost that is nearest to ``accuracy_P`` in least squares.

    A frontier is concave, since policies can be mixed. An upper hull would be concave too, but through the luckiest points;
    this goes through the middle of them. cost_P (P,) increasing; the first point is exact and weighs ten times.
    """
    from scipy.optimize import nnls  # here: those who only follow a frontier need no scipy

    if len(cost_P) < 3:
        return accuracy_P
    x = (cost_P - cost_P[0]) / (cost_P[-1] - cost_P[0])
    bends = -np.maximum(x[:, None] - x[None, 1:-1], 0.0)
    line = np.stack([np.ones_like(x), -np.ones_like(x), x, -x], axis=1)
    basis = np.concatenate([line, bends], axis=1)
    weight = np.where(np.arange(len(x)) == 0, 10.0, 1.0)
    solution, _ = nnls(basis * weight[:, None], accuracy_P * weight)
    return np.asarray(basis @ solution)
