"""One batch of travelling rows through one stage of a cascade: Arrow in, Arrow out, no Ray.

An actor pool holds a cascade and calls :func:`label_stage`; the same function labels in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from anchornet.cascade import rows as records
from anchornet.cascade.run import Cascade, Stage, run_stage
from anchornet.cascade.standing import NO_EXIT, Standing, merge


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
    stage: Stage,
    table: pa.Table,
    rows: np.ndarray,
    thresholds_nK: np.ndarray,
    allowance_macs: int | None,
) -> StageBatch:
    """Run ``stage`` on ``rows`` of ``table`` (those that carry a state); all other rows pass unchanged.

    thresholds_nK (n, K) belongs to ``rows``. Rows that leave lose their state; those that go on carry the new one.
    """
    standing = records.read_standing(table, cascade.num_boxes)
    part = Standing(*(getattr(standing, name)[rows] for name in Standing.__dataclass_fields__))
    state = _open_state(cascade, stage, table, rows)
    result = run_stage(cascade, stage, state, part, thresholds_nK, allowance_macs)
    table = records.with_standing(table, merge(standing, rows, result.standing))
    table = records.with_carried(table, rows[result.continuing], cascade.pack(result.state))
    left = np.delete(result.standing.exit, result.continuing)
    counts = np.bincount(left[left != NO_EXIT], minlength=len(cascade.exits))
    return StageBatch(table, result.spent_macs, tuple(int(count) for count in counts), int((left == NO_EXIT).sum()))


def _open_state(cascade: Cascade[Any], stage: Stage, table: pa.Table, rows: np.ndarray) -> Any:
    """State of ``rows``: fresh from decoded pixels before the first stage, unpacked after it."""
    if stage.first > 0:
        return cascade.unpack(records.read_carried(table, rows, cascade.carried))
    shape = (cascade.image_size, cascade.image_size, 3)
    pixels = records.read_carried(table, rows, {"image": (np.dtype(np.uint8), shape)})["image"]
    return cascade.start(pixels)


def finish_rows(
    cascade: Cascade[Any], table: pa.Table, calibrate: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
) -> pa.Table:
    """Output rows; ``calibrate(score, exit)`` turns raw confidence into the probability of being right."""
    confidence = None
    if calibrate is not None:
        exits, score = table["exit"].to_numpy(), table["score"].to_numpy()
        confidence = np.full(len(table), np.nan)
        known = exits != NO_EXIT
        confidence[known] = calibrate(score[known], exits[known])
    return records.finish(table, cascade.classes, [exit.name for exit in cascade.exits], confidence)
