"""One batch of travelling rows through one stage of a cascade: Arrow in, Arrow out, no Ray.

An actor pool holds a cascade and calls :func:`label_stage`; the same function labels in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from anchornet.cascade import rows as records
from anchornet.cascade.protocol import Cascade
from anchornet.cascade.run import Part, run_stage
from anchornet.cascade.standing import NO_EXIT, Extras

VIEWS = "views"
"""Column of the logits that later exits still combine, (v, C) float32 a row."""


class StageBatch(NamedTuple):
    """What a stage did to a batch of rows."""

    table: pa.Table
    spent_macs: int
    """Multiply-adds computed for the batch."""
    exit_counts: tuple[int, ...]
    """Images that left at each of the K exits in this stage."""
    num_starved: int
    """Images for which the allowance did not cover even a first exit; they get no label."""


def label_stage(
    cascade: Cascade[Any],
    stage_index: int,
    table: pa.Table,
    thresholds_NK: np.ndarray,
    allowance_macs: int | None,
    top_k: int = 0,
) -> StageBatch:
    """Run a stage on the rows of ``table`` that want it, be it none; all other rows pass unchanged.

    thresholds_NK (N, K): one row per row of ``table``. Rows that leave lose their state; those that go on carry the new one.
    top_k: most likely classes to keep of each row; embeddings are kept where the cascade's exits have one.
    """
    stage, rows = cascade.stages[stage_index], records.wanting_rows(table)
    columns = records.read_carried(table, stage_layout(cascade, stage_index))
    views = _unpack_views(cascade, columns.pop(VIEWS, None), stage.first)
    state = cascade.unpack(columns, stage_index) if stage_index else cascade.start(columns[records.IMAGE])
    standing = records.read_standing(table, cascade.num_boxes, extras_of(cascade, top_k))
    result = run_stage(cascade, stage, [Part(rows, state, views)], standing, thresholds_NK, allowance_macs)
    table = records.with_standing(table, result.standing)
    left = result.standing.exit[np.setdiff1d(rows, result.continuing, assume_unique=True)]
    counts = np.bincount(left[left != NO_EXIT], minlength=len(cascade.exits))
    return StageBatch(
        table=_carry(cascade, stage_index + 1, table, result.continuing, result.parts),
        spent_macs=result.spent_macs,
        exit_counts=tuple(int(count) for count in counts),
        num_starved=int((left == NO_EXIT).sum()),
    )


def extras_of(cascade: Cascade[Any], top_k: int) -> Extras:
    """What the rows of a label job hold beside the label."""
    return Extras(top_k, max(exit.embedding for exit in cascade.exits))


def stage_layout(cascade: Cascade[Any], stage_index: int) -> records.Layout:
    """Everything that a row which wants this stage carries: what the cascade says, and the views that are still needed."""
    stage = cascade.stages[stage_index]
    kept = cascade.combination.kept(stage.first)
    assert VIEWS not in stage.takes, f"stage {stage.name} has a column {VIEWS}, which is the loop's; call it otherwise"
    return {**stage.takes, VIEWS: (np.dtype(np.float32), (len(kept), len(cascade.classes)))} if kept else stage.takes


def _pack_views(part: Part) -> dict[str, np.ndarray]:
    """(n, v, C) float32: the views of a part, which are those that the next stage needs; nothing where it needs none."""
    views = [part.views[view] for view in sorted(part.views)]
    return {VIEWS: torch.stack(views, dim=1).cpu().numpy()} if views else {}


def _unpack_views(cascade: Cascade[Any], column: np.ndarray | None, first: int) -> dict[int, torch.Tensor]:
    if column is None:
        return {}
    return dict(zip(cascade.combination.kept(first), torch.from_numpy(column).unbind(1), strict=True))


def fail_rows(cascade: Cascade[Any], stage_index: int, table: pa.Table, reason: str, top_k: int = 0) -> pa.Table:
    """``table`` after a stage that raised on the rows that wanted it: those are ``failed`` and have no label."""
    rows = records.wanting_rows(table)
    standing = records.read_standing(table, cascade.num_boxes, extras_of(cascade, top_k))
    exits = standing.exit.copy()
    exits[rows] = NO_EXIT
    table = records.with_failed(records.with_standing(table, replace(standing, exit=exits)), rows, reason)
    return _carry(cascade, stage_index + 1, table, np.zeros(0, np.int64), [])


def _carry(
    cascade: Cascade[Any], next_stage: int, table: pa.Table, continuing: np.ndarray, parts: Sequence[Part]
) -> pa.Table:
    """``table`` with what the survivors carry to the next stage; after the last one nobody carries anything."""
    if next_stage == len(cascade.stages):
        return records.without_carried(table)
    layout = stage_layout(cascade, next_stage)
    packed = [{**cascade.pack(part.state, next_stage), **_pack_views(part)} for part in parts]
    if len(packed) > 1:  # parts interleave: back into the order of the table
        order = np.argsort(np.concatenate([part.rows for part in parts]))
        packed = [{name: np.concatenate([columns[name] for columns in packed])[order] for name in layout}]
    nobody = {name: np.zeros((0, *shape), dtype) for name, (dtype, shape) in layout.items()}
    return records.with_carried(table, continuing, packed[0] if packed else nobody, layout)


def finish_rows(
    cascade: Cascade[Any], table: pa.Table, calibrator: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
) -> pa.Table:
    """Output rows; ``calibrator(score, exit)`` turns raw confidence into the probability of being right."""
    confidence = None
    if calibrator is not None:
        exits, score = table["exit"].to_numpy(), table["score"].to_numpy()
        confidence = np.full(len(table), np.nan)
        known = exits != NO_EXIT
        confidence[known] = calibrator(score[known], exits[known])
    names, sizes = [exit.name for exit in cascade.exits], [exit.embedding for exit in cascade.exits]
    return records.finish(table, cascade.classes, names, confidence, sizes)
