"""The adaptive classifier: ordered exits, and the one loop that runs survivors densely under a policy.

Shapes: N images, n survivors among them, K exits, C classes.

A cascade computes its exits in order. After each exit every image that is certain enough leaves, the rest is compacted
and goes on as a dense batch. What a concrete cascade has to say is in :class:`Cascade`; everything about leaving,
allowances and bookkeeping is here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from anchornet.budget.frontier import rows_to_advance
from anchornet.cascade.standing import Standing, merge


@dataclass(frozen=True)
class Exit:
    """A point where a label can be given."""

    name: str
    macs: int
    """Multiply-adds that one more image costs at this exit; for costs that differ per image, the most it can cost."""


@dataclass(frozen=True)
class Stage:
    """A run of consecutive exits that one actor pool computes."""

    name: str
    first: int
    """Index of its first exit."""
    stop: int
    """Index after its last exit."""

    @property
    def exits(self) -> range:
        """Indices of the exits of this stage."""
        return range(self.first, self.stop)


class State(Protocol):
    """What survivors carry from exit to exit; a batch of n rows."""

    def __len__(self) -> int:
        """Number of rows n."""
        ...


S = TypeVar("S", bound=State)


class Step(NamedTuple):
    """What one exit gave for a dense batch of n survivors."""

    logits_nC: Tensor
    """(n, C) float32: the final logits of the exit; nobody outside the cascade sums or averages them."""
    macs_n: np.ndarray
    """(n,) int64: multiply-adds that were computed for each row, from the shapes that were run."""
    boxes_nP3: np.ndarray | None = None
    """(n, P, 3) int16: top, left, size of the patches when this exit chose them, else None."""


class Cascade(Protocol[S]):
    """An adaptive classifier. ``state`` holds survivors only; ``advance`` runs all its rows."""

    exits: Sequence[Exit]
    stages: Sequence[Stage]
    classes: Sequence[str]
    image_size: int
    """H = W of the images that ``start`` takes, in pixels."""
    num_boxes: int
    """P: patches that the cascade chooses per image; 0 when it chooses none."""
    carried: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
    """What ``pack`` gives: (dtype, shape of one row) per name. The first name is always ``image``."""

    def start(self, images_NHW3: np.ndarray) -> S:
        """State of N fresh images, (N, H, W, 3) uint8."""
        ...

    def advance(self, state: S, exit_index: int) -> tuple[Step, S]:
        """Compute exit ``exit_index`` for every row of ``state``; returns the step and the state after it."""
        ...

    def select(self, state: S, rows: Tensor) -> S:
        """The state of ``rows`` (int64 indices), dense."""
        ...

    def pack(self, state: S) -> dict[str, np.ndarray]:
        """The state as plain arrays of n rows each, to travel between stages; the names are the columns."""
        ...

    def unpack(self, columns: Mapping[str, np.ndarray]) -> S:
        """The state that ``pack`` gave, on this process's device."""
        ...


class StageResult(NamedTuple):
    """What a stage did to a batch of N images."""

    standing: Standing
    continuing: np.ndarray
    """(n,) int64: rows that did not leave and want the next stage; empty after the last stage."""
    state: State
    """State of the continuing rows."""
    spent_macs: int
    """Multiply-adds computed in this stage for the whole batch."""


def confidence(logits_nC: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Score (n,) float32 = max softmax, and label_id (n,) int32 = argmax (the lowest index among equals).

    Softmax is taken in float32 whatever the precision of the network, so that near-ties do not become ties.
    """
    probability = torch.softmax(logits_nC.float(), dim=1)
    score, _ = probability.max(dim=1)
    # argmax over the logits in numpy: torch does not promise the first index among equal values.
    return score.cpu().numpy(), logits_nC.float().cpu().numpy().argmax(axis=1).astype(np.int32)


def run_stage(
    cascade: Cascade[S],
    stage: Stage,
    state: S,
    standing: Standing,
    thresholds_NK: np.ndarray,
    allowance_macs: int | None = None,
) -> StageResult:
    """Run the exits of ``stage`` on N images, dropping whoever leaves after each exit.

    thresholds_NK (N, K) float32: an image leaves at exit k when its score >= its threshold; the last exit of the cascade
    takes everything. allowance_macs: multiply-adds this call may compute, None for no limit. When the allowance does not
    cover everyone who wants to go on, the least certain go on and the others leave with the label they have (an image
    without any label keeps exit NO_EXIT).
    """
    last_exit = len(cascade.exits) - 1
    rows = np.arange(len(state), dtype=np.int64)
    spent_macs = 0
    for k in stage.exits:
        left = None if allowance_macs is None else allowance_macs - spent_macs
        go = _affordable(standing.score[rows], cascade.exits[k].macs, left)
        state, rows = _keep(cascade, state, rows, go)
        if not len(rows):
            break
        step, state = cascade.advance(state, k)
        standing = _record(standing, rows, k, step)
        spent_macs += int(step.macs_n.sum())
        stays = (standing.score[rows] < thresholds_NK[rows, k]) & (k != last_exit)
        state, rows = _keep(cascade, state, rows, stays)
    return StageResult(standing, rows, state, spent_macs)


def run_cascade(
    cascade: Cascade[S], images_NHW3: np.ndarray, thresholds_NK: np.ndarray, allowance_macs: int | None = None
) -> Standing:
    """All stages in one process: the standing of N images at the end."""
    state, standing = cascade.start(images_NHW3), Standing.fresh(len(images_NHW3), cascade.num_boxes)
    rows = np.arange(len(images_NHW3), dtype=np.int64)
    for stage in cascade.stages:
        part = Standing(*(getattr(standing, name)[rows] for name in Standing.__dataclass_fields__))
        result = run_stage(cascade, stage, state, part, thresholds_NK[rows], allowance_macs)
        standing = merge(standing, rows, result.standing)
        if allowance_macs is not None:
            allowance_macs -= result.spent_macs
        rows, state = rows[result.continuing], result.state  # type: ignore[assignment]
    return standing


class AllExits(NamedTuple):
    """Every exit of every image, as calibration needs it."""

    confidence_NK: np.ndarray
    prediction_NK: np.ndarray
    cost_NK: np.ndarray
    """(N, K) int64: cumulative multiply-adds."""


def run_all_exits(cascade: Cascade[S], images_NHW3: np.ndarray) -> AllExits:
    """Run all exits on N images without letting any leave."""
    state = cascade.start(images_NHW3)
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for k in range(len(cascade.exits)):
        step, state = cascade.advance(state, k)
        columns.append((*confidence(step.logits_nC), step.macs_n))
    scores, labels, macs = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
    return AllExits(scores, labels, np.cumsum(macs, axis=1))


def stage_starts(cascade: Cascade[S]) -> tuple[int, ...]:
    """Index of the first exit of each stage."""
    return tuple(stage.first for stage in cascade.stages)


def _affordable(score_n: np.ndarray, macs: int, left_macs: int | None) -> np.ndarray:
    """Mask (n,) of the rows that can be computed with ``left_macs``; least certain first."""
    everyone = np.ones(len(score_n), bool)
    if left_macs is None or macs * len(score_n) <= left_macs:
        return everyone
    return rows_to_advance(score_n, everyone, np.full(len(score_n), macs, np.int64), left_macs)


def _keep(cascade: Cascade[S], state: S, rows: np.ndarray, mask: np.ndarray) -> tuple[S, np.ndarray]:
    """State and rows where ``mask`` holds; untouched (no copy) when it holds everywhere."""
    if mask.all():
        return state, rows
    return cascade.select(state, torch.from_numpy(np.flatnonzero(mask))), rows[mask]


def _record(standing: Standing, rows: np.ndarray, exit_index: int, step: Step) -> Standing:
    score, label_id = confidence(step.logits_nC)
    part = Standing(
        label_id=label_id,
        score=score,
        exit=np.full(len(rows), exit_index, np.int16),
        macs=standing.macs[rows] + step.macs_n,
        boxes=standing.boxes[rows] if step.boxes_nP3 is None else step.boxes_nP3,
    )
    return merge(standing, rows, part)
