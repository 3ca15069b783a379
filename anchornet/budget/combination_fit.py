"""Weights of the views, learned on calibration images: cross-entropy, convex, in float64, a block of images at a time.

Shapes: M images of those there are, V views, v of them computed at an exit, C classes, K exits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np

from anchornet.budget.combination import Combination

RIDGE = 10.0
"""Strength of the pull towards the weights of the base rule: ``RIDGE * |w - base|^2`` beside the summed cross-entropy in nats.
It keeps weights finite where all images are of one class, and near the rule where images are few
(``benchmarks/results/photographs_202611.md``)."""
_STEPS = 50
_CONVERGED = 1e-9
"""Decrease of the loss, as a part of it, below which it is at its minimum."""
_HALVINGS = 30
_BLOCK_VALUES = 1 << 22
"""Logits in memory at a time, 8 bytes each."""

ReadViews: TypeAlias = Callable[[np.ndarray, int], np.ndarray]
"""(rows (n,) int64, v) -> the first v views of these images, (n, v, C) float32."""


class Examples(NamedTuple):
    """Images to learn from, read when they are needed."""

    read: ReadViews
    rows_M: np.ndarray
    """(M,) int64: which images."""
    label_M: np.ndarray
    """(M,) int: their true classes."""
    num_classes: int


class _Loss(NamedTuple):
    """Loss of some weights, its slope and its curvature."""

    value: float
    gradient_v: np.ndarray
    hessian_vv: np.ndarray


def fit_weights(examples: Examples, base_v: np.ndarray, start_v: np.ndarray | None = None) -> np.ndarray:
    """(v,) float64: weights of the first v views that minimise the cross-entropy of their weighted sum, plus the ridge.

    base_v: what the ridge pulls towards. start_v: where to begin, ``base_v`` unless said. Newton's method with halved steps; the
    loss is convex in the weights, so it has one minimum.
    """
    weights_v = np.array(base_v if start_v is None else start_v, np.float64)
    at = _loss(examples, weights_v, base_v)
    for _ in range(_STEPS):
        step_v = np.linalg.solve(at.hessian_vv, at.gradient_v)
        for halving in range(_HALVINGS):
            tried_v = weights_v - step_v * 0.5**halving
            then = _loss(examples, tried_v, base_v)
            if then.value <= at.value:
                break
        else:
            return weights_v
        gained, at, weights_v = at.value - then.value, then, tried_v
        if gained <= _CONVERGED * max(1.0, at.value):
            break
    return weights_v


def fit_combination(examples: Examples, base: Combination, start: Combination | None = None) -> Combination:
    """One weight per view and exit, exit by exit. base: the rule they are pulled towards; start: weights close to them."""
    rows = []
    for k, row in enumerate(base.weights):
        begin = np.array(start.weights[k]) if start else None
        rows.append(tuple(fit_weights(examples, np.array(row), begin).tolist()))
    return Combination(base.rule, base.views, tuple(rows), fitted=True)


def _loss(examples: Examples, weights_v: np.ndarray, base_v: np.ndarray) -> _Loss:
    away_v, num = weights_v - base_v, len(weights_v)
    value, gradient_v = RIDGE * float(away_v @ away_v), 2 * RIDGE * away_v
    hessian_vv = 2 * RIDGE * np.eye(num)
    for block_nvC, label_n in _blocks(examples, num):
        rows = np.arange(len(label_n))
        logits_nC = np.einsum("v,nvc->nc", weights_v, block_nvC)
        logits_nC -= logits_nC.max(axis=1, keepdims=True)
        share_nC = np.exp(logits_nC)
        total_n = share_nC.sum(axis=1)
        share_nC /= total_n[:, None]
        mean_nv = np.matmul(block_nvC, share_nC[:, :, None])[:, :, 0]
        value += float((np.log(total_n) - logits_nC[rows, label_n]).sum())
        gradient_v = gradient_v + (mean_nv - block_nvC[rows, :, label_n]).sum(axis=0)
        spread_nvC = block_nvC * share_nC[:, None, :]
        hessian_vv = hessian_vv + np.einsum("nvc,nuc->vu", spread_nvC, block_nvC, optimize=True) - mean_nv.T @ mean_nv
    return _Loss(value, gradient_v, hessian_vv)


def _blocks(examples: Examples, num_views: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of (n, v, C) float64 and their labels. Each image's view is shifted to a maximum of 0, which changes no softmax."""
    size = max(1, _BLOCK_VALUES // (num_views * examples.num_classes))
    for first in range(0, len(examples.rows_M), size):
        piece = slice(first, first + size)
        block_nvC = examples.read(examples.rows_M[piece], num_views).astype(np.float64)
        yield block_nvC - block_nvC.max(axis=2, keepdims=True), examples.label_M[piece]
