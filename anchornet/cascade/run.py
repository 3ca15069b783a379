"""The one loop that runs survivors densely: after each exit the certain ones leave, the rest goes on as a dense batch.

Shapes: N images of a batch, n survivors among them, K exits, V views, C classes.

A **part** is some survivors and their state. There is one part unless money is short and costs differ from image to image:
then as many rows are run as the dearest case allows, and what they left over pays for the next ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anchornet.budget.combination import Combination
from anchornet.cascade.protocol import Cascade, S, Stage, Step
from anchornet.cascade.standing import Standing, merge


class Part(NamedTuple):
    """Some survivors of a batch."""

    rows: np.ndarray
    """(n,) int64: their positions among the N images, ascending."""
    state: Any
    """Their state, n rows."""
    views: Mapping[int, Tensor] = {}
    """(n, C) float32 each: what was said of them and is still needed, by the position of the view."""


class StageResult(NamedTuple):
    """What a stage did to a batch of N images."""

    standing: Standing
    parts: list[Part]
    """Rows that did not leave and want the next stage; empty after the last stage."""
    spent_macs: int
    """Multiply-adds computed in this stage for the whole batch."""

    @property
    def continuing(self) -> np.ndarray:
        """(n,) int64: positions of the rows that want the next stage, ascending."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *(part.rows for part in self.parts)]))


def confidence(logits_nC: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Score (n,) float32 = max softmax, and label_id (n,) int32 = argmax (the lowest index among equals).

    Softmax is taken in float32 whatever the precision of the network, so that near-ties do not become ties.
    """
    probability = torch.softmax(logits_nC.float(), dim=1)
    score, _ = probability.max(dim=1)
    # argmax over the logits in numpy: torch does not promise the first index among equal values.
    return score.cpu().numpy(), logits_nC.float().cpu().numpy().argmax(axis=1).astype(np.int32)


def most_likely(logits_nC: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` most likely classes (n, count) int32, the likeliest first, and their softmax float32.

    Of equal ones the lowest index comes first, as in ``confidence``.
    """
    if not count:
        return np.zeros((len(logits_nC), 0), np.int32), np.zeros((len(logits_nC), 0), np.float32)
    probability = torch.softmax(logits_nC.float(), dim=1).cpu().numpy()
    order = np.argsort(-logits_nC.float().cpu().numpy(), axis=1, kind="stable")[:, :count].astype(np.int32)
    return order, np.take_along_axis(probability, order, axis=1)


def _embedding(step: Step, num_rows: int, width: int) -> np.ndarray:
    """(n, width) float16: the embedding of a step, zeros behind a shorter one."""
    embedding = np.zeros((num_rows, width), np.float16)
    if width and step.embedding_nD is not None:
        found = step.embedding_nD.float().cpu().numpy()
        largest = np.finfo(np.float16).max
        embedding[:, : found.shape[1]] = np.clip(found, -largest, largest)
    return embedding


def run_stage(
    cascade: Cascade[Any],
    stage: Stage,
    parts: Sequence[Part],
    standing: Standing,
    thresholds_NK: np.ndarray,
    allowance_macs: int | None = None,
) -> StageResult:
    """Run the exits of ``stage`` on the rows of ``parts``, dropping whoever leaves after each exit.

    What an exit says is the cascade's combination of all views so far.

    standing: of all N images of the batch. thresholds_NK (N, K) float32: an image leaves at exit k when its score >= its
    threshold; the last exit of the cascade takes everything. allowance_macs: multiply-adds this call may compute, None for
    no limit. When the allowance does not cover everyone who wants to go on, the least certain go on and the others leave
    with the label they have (an image without any label keeps exit NO_EXIT).
    """
    parts, spent_macs = [part for part in parts if len(part.rows)], 0
    for k in stage.exits:
        left = None if allowance_macs is None else allowance_macs - spent_macs
        steps = _advance(cascade, k, parts, standing, left)
        parts = []
        for part, step in steps:
            standing = _record(standing, part.rows, k, cascade.combination.logits(part.views, k), step)
            spent_macs += int(step.macs_n.sum())
            stays = (standing.score[part.rows] < thresholds_NK[part.rows, k]) & (k != len(cascade.exits) - 1)
            if stays.any():
                needed = {view: part.views[view] for view in cascade.combination.kept(k + 1)}
                parts.append(_keep(cascade, part._replace(views=needed), stays))
    return StageResult(standing, parts, spent_macs)


def run_cascade(
    cascade: Cascade[S], images_NHW3: np.ndarray, thresholds_NK: np.ndarray, allowance_macs: int | None = None
) -> Standing:
    """All stages in one process: the standing of N images at the end."""
    standing = Standing.fresh(len(images_NHW3), cascade.num_boxes)
    parts = [Part(np.arange(len(images_NHW3), dtype=np.int64), cascade.start(images_NHW3))]
    for stage in cascade.stages:
        result = run_stage(cascade, stage, parts, standing, thresholds_NK, allowance_macs)
        standing, parts = result.standing, result.parts
        if allowance_macs is not None:
            allowance_macs -= result.spent_macs
    return standing


@dataclass(frozen=True)
class AllExits:
    """Every exit of every image, as calibration needs it."""

    combination: Combination
    """The cascade's; answers are made of it when they are asked for."""
    views_NVC: Tensor
    """(N, V, C) float32: all views of these exits."""
    cost_NK: np.ndarray
    """(N, K) int64: cumulative multiply-adds."""

    @property
    def confidence(self) -> np.ndarray:
        """(N, K) float32."""
        return self._answers[0]

    @property
    def prediction(self) -> np.ndarray:
        """(N, K) int32."""
        return self._answers[1]

    @cached_property
    def _answers(self) -> tuple[np.ndarray, np.ndarray]:
        return answers(self.combination, self.views_NVC, self.cost_NK.shape[1])


def run_all_exits(cascade: Cascade[S], images_NHW3: np.ndarray, num_exits: int | None = None) -> AllExits:
    """Run the first ``num_exits`` exits (None: all) on N images without letting any leave."""
    state = cascade.start(images_NHW3)
    views: list[Tensor] = []
    macs = []
    for k in range(num_exits or len(cascade.exits)):
        step, state = cascade.advance(state, k)
        views += step.views
        macs.append(step.macs_n)
    return AllExits(cascade.combination, torch.stack(views, dim=1), np.cumsum(np.stack(macs, axis=1), axis=1))


def answers(combination: Combination, views_NVC: Tensor, num_exits: int) -> tuple[np.ndarray, np.ndarray]:
    """What the first ``num_exits`` exits say: scores (N, K) float32 and label_ids (N, K) int32. views_NVC: all that they need."""
    views = dict(enumerate(views_NVC.unbind(1)))
    said = [confidence(combination.logits(views, k)) for k in range(num_exits)]
    scores, labels = (np.stack(column, axis=1) for column in zip(*said, strict=True))
    return scores, labels


def _advance(
    cascade: Cascade[Any], exit_index: int, parts: Sequence[Part], standing: Standing, left_macs: int | None
) -> list[tuple[Part, Step]]:
    """Exit ``exit_index`` for as many rows as ``left_macs`` covers, least certain first: the parts after it, and the step."""
    dearest = cascade.exits[exit_index].macs
    steps = []
    while parts:
        wanting = sum(len(part.rows) for part in parts)
        if left_macs is None or dearest * wanting <= left_macs:
            now, parts = list(parts), []
        else:
            now, parts = _least_certain(cascade, parts, standing, left_macs // dearest)
        if not now:
            break
        for part in now:
            step, state = cascade.advance(part.state, exit_index)
            assert int(step.macs_n.max(initial=0)) <= dearest, f"exit {exit_index} cost more than its most, {dearest}"
            steps.append((Part(part.rows, state, _with_views(cascade, part.views, exit_index, step)), step))
            left_macs = None if left_macs is None else left_macs - int(step.macs_n.sum())
    return steps


def _with_views(cascade: Cascade[Any], before: Mapping[int, Tensor], exit_index: int, step: Step) -> dict[int, Tensor]:
    """The views so far and those of this step, on one device."""
    added = cascade.combination.added(exit_index)
    assert len(added) == len(step.views), f"exit {exit_index} adds {len(added)} views, the step has {len(step.views)}"
    device = step.views[0].device
    return {**{view: logits.to(device) for view, logits in before.items()}, **dict(zip(added, step.views, strict=True))}


def _least_certain(
    cascade: Cascade[Any], parts: Sequence[Part], standing: Standing, count: int
) -> tuple[list[Part], list[Part]]:
    """The ``count`` rows of ``parts`` with the lowest scores (equal ones by position), and the others."""
    rows = np.sort(np.concatenate([part.rows for part in parts]))
    chosen = rows[np.argsort(standing.score[rows], kind="stable")[:count]]
    masks = [np.isin(part.rows, chosen) for part in parts]
    now = [_keep(cascade, part, mask) for part, mask in zip(parts, masks, strict=True) if mask.any()]
    later = [_keep(cascade, part, ~mask) for part, mask in zip(parts, masks, strict=True) if not mask.all()]
    return now, later


def _keep(cascade: Cascade[Any], part: Part, mask: np.ndarray) -> Part:
    """The rows where ``mask`` holds; untouched (no copy) when it holds everywhere."""
    if mask.all():
        return part
    rows = torch.from_numpy(np.flatnonzero(mask))
    views = {view: logits[rows.to(logits.device)] for view, logits in part.views.items()}
    return Part(part.rows[mask], cascade.select(part.state, rows), views)


def _record(standing: Standing, rows: np.ndarray, exit_index: int, logits_nC: Tensor, step: Step) -> Standing:
    score, label_id = confidence(logits_nC)
    top_id, top_probability = most_likely(logits_nC, standing.extras.top_k)
    part = Standing(
        label_id=label_id,
        score=score,
        exit=np.full(len(rows), exit_index, np.int16),
        macs=standing.macs[rows] + step.macs_n,
        boxes=standing.boxes[rows] if step.boxes_nP3 is None else step.boxes_nP3,
        top_id=top_id,
        top_probability=top_probability,
        embedding=_embedding(step, len(rows), standing.extras.embedding),
    )
    return merge(standing, rows, part)
