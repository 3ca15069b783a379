"""The views of calibration images: what answers of any combination are made from, and what its weights are learned on.

Shapes: N images in R rows, V views of W, K exits, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from anchornet.budget.combination import Combination
from anchornet.budget.combination_fit import Examples, fit_combination
from anchornet.budget.exit_table import ExitTable, HeldOut
from anchornet.budget.policy import NUM_FOLDS, fold_of
from anchornet.cascade.run import answers

_BLOCK_VALUES = 1 << 24
"""Logits in memory at a time, 4 bytes each."""


@dataclass(frozen=True)
class ViewTable:
    """All views of N images."""

    exits: tuple[str, ...]
    """Names of the K exits."""
    views: tuple[str, ...]
    """Names of the V views, in the order in which they are computed."""
    image_id: np.ndarray
    """(N,) int64."""
    logits_RWC: np.ndarray
    """(R, W, C) float32, R >= N, W >= V; may be a memory map, of which a block of rows is read at a time."""
    row: np.ndarray
    """(N,) int64: which of the R rows is each image's."""
    cost_macs: np.ndarray
    """(N, K) int64, cumulative."""
    label: np.ndarray | None
    """(N,) int32 true class index; None when unknown."""
    columns: tuple[int, ...]
    """Which of the W are the V views."""

    def read(self, rows_n: np.ndarray, num_views: int) -> np.ndarray:
        """(n, v, C) float32: the first ``num_views`` views of some images."""
        return np.asarray(self.logits_RWC[self.row[rows_n]])[:, self.columns[:num_views]]

    def exit_table(self, combination: Combination) -> ExitTable:
        """What every exit says under a combination. Raises ValueError, as ExitTable does, for logits that are not finite."""
        said = [answers(combination, torch.from_numpy(views), len(self.exits)) for views in self._blocks()]
        scores, labels = (np.concatenate(parts) for parts in zip(*said, strict=True))
        return ExitTable(self.exits, self.image_id, scores, labels, self.cost_macs, self.label)

    def through(self, exits: Sequence[str], views: Sequence[str], macs: Sequence[int]) -> ViewTable:
        """The same images through a cascade with some of the views and ``exits`` of a fixed cost: ``macs`` multiply-adds each."""
        columns = tuple(self.columns[self.views.index(name)] for name in views)
        cost = np.tile(np.cumsum(np.asarray(macs, np.int64)), (len(self.image_id), 1))
        return replace(self, exits=tuple(exits), views=tuple(views), cost_macs=cost, columns=columns)

    def _blocks(self) -> Iterator[np.ndarray]:
        size = max(1, _BLOCK_VALUES // (len(self.columns) * self.logits_RWC.shape[2]))
        for first in range(0, len(self.image_id), size):
            yield self.read(np.arange(first, min(first + size, len(self.image_id))), len(self.columns))


class Combined(NamedTuple):
    """A combination, and what exits say under it."""

    combination: Combination
    held: HeldOut


def by_rule(table: ViewTable, combination: Combination) -> Combined:
    """Under weights that were not learned on these images."""
    return Combined(combination, HeldOut.plain(table.exit_table(combination)))


def by_fit(table: ViewTable, base: Combination) -> Combined:
    """Under weights learned on all images; each image is judged by weights learned without its fold.

    base: the rule that weights are pulled towards. Raises ValueError without labels.
    """
    table.exit_table(base)  # refuses what is not finite
    label = table.label
    if label is None:
        raise ValueError("weights of views cannot be fitted without labels; calibrate on labelled images")
    fold_N, num_classes = fold_of(table.image_id), table.logits_RWC.shape[2]

    def fit(rows_M: np.ndarray, start: Combination | None) -> Combination:
        return fit_combination(Examples(table.read, rows_M, label[rows_M], num_classes), base, start)

    everything = fit(np.arange(len(label)), None)
    folds = tuple(table.exit_table(fit(np.flatnonzero(fold_N != fold), everything)) for fold in range(NUM_FOLDS))
    return Combined(everything, HeldOut(_each_without_its_fold(folds, fold_N), folds))


def _each_without_its_fold(folds: Sequence[ExitTable], fold_N: np.ndarray) -> ExitTable:
    rows = np.arange(len(fold_N))
    confidence = np.stack([table.confidence for table in folds])[fold_N, rows]
    prediction = np.stack([table.prediction for table in folds])[fold_N, rows]
    return replace(folds[0], confidence=confidence, prediction=prediction)
