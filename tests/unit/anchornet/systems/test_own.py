"""Cascades of every shape, stage by stage as actors run them, against the loop in one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anchornet.cascade import rows as records
from anchornet.cascade.label_stage import finish_rows, label_stage, stage_layout
from anchornet.cascade.protocol import image_shape, stage_starts
from anchornet.cascade.run import run_cascade
from anchornet.units import GIGA
from tests.own_systems import NUM_EXITS, SIZE, OwnCascade, tiny_net

CLASSES = ("ant", "bee", "cow")
SHAPES: dict[str, dict[str, Any]] = {
    "one stage": {"stages": 1},
    "two stages": {"stages": 2},
    "three stages": {"stages": 3},
    "three stages of features": {"stages": 3, "features": True},
    "costs per image": {"stages": 2, "dynamic": True},
    "all of it": {"stages": 3, "features": True, "dynamic": True},
}
COUNT = 24


def cascade_of(shape: str) -> OwnCascade:
    return OwnCascade(SHAPES[shape], tiny_net(len(CLASSES)).eval(), CLASSES)  # type: ignore[arg-type]


def images(count: int = COUNT, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 120, (count, 4, 4, 3)).repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)
    return (coarse + random.integers(0, 8, coarse.shape) + 60).astype(np.uint8)


def fresh(pixels: np.ndarray) -> pa.Table:
    count = len(pixels)
    names, nothing = [f"/{k}.jpg" for k in range(count)], [None] * count
    return records.work_table(np.arange(count), names, list(pixels), ["ok"] * count, nothing, (SIZE, SIZE, 3))


def stage_by_stage(
    cascade: OwnCascade, table: pa.Table, thresholds_NK: np.ndarray, batch: int, allowances: list[int] | None = None
) -> tuple[pa.Table, list[int]]:
    """Output rows, and what each stage spent; every stage in batches, as Ray Data cuts them."""
    spent = []
    for index in range(len(cascade.stages)):
        done = [
            label_stage(
                cascade,
                index,
                table.slice(start, batch),
                thresholds_NK[start : start + batch],
                None if allowances is None else allowances[index],
            )
            for start in range(0, len(table), batch)
        ]
        table = pa.concat_tables([each.table for each in done])
        spent.append(sum(each.spent_macs for each in done))
    return finish_rows(cascade, table, None), spent


def thresholds(values: list[float], count: int = COUNT) -> np.ndarray:
    return np.tile(np.array([*values, -np.inf], np.float32), (count, 1))


LIMITS = st.lists(st.floats(0.3, 1.01), min_size=NUM_EXITS - 1, max_size=NUM_EXITS - 1)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10)
@given(limits=LIMITS, batch=st.integers(1, COUNT))
def test_stages_and_batches_change_nothing(shape: str, limits: list[float], batch: int) -> None:
    cascade, pixels = cascade_of(shape), images()
    alone = run_cascade(cascade, pixels, thresholds(limits))
    rows, spent = stage_by_stage(cascade, fresh(pixels), thresholds(limits), batch)
    assert rows["label_id"].to_pylist() == alone.label_id.tolist()
    assert rows["exit"].to_pylist() == [cascade.exits[k].name for k in alone.exit]
    assert (rows["gflops"].to_numpy() * GIGA).round().tolist() == alone.macs.tolist()
    assert sum(spent) == alone.macs.sum()
    assert rows["status"].unique().to_pylist() == ["ok"]


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10)
@given(limits=LIMITS, part=st.floats(0, 1))
def test_no_stage_computes_more_than_it_may(shape: str, limits: list[float], part: float) -> None:
    cascade, pixels = cascade_of(shape), images()
    _, wanted = stage_by_stage(cascade, fresh(pixels), thresholds(limits), COUNT)
    allowances = [int(part * macs) for macs in wanted]
    rows, spent = stage_by_stage(cascade, fresh(pixels), thresholds(limits), COUNT, allowances)
    assert all(macs <= allowance for macs, allowance in zip(spent, allowances, strict=True))
    assert sum(spent) == (rows["gflops"].to_numpy() * GIGA).round().sum()
    labelled = rows["label"].is_valid().to_pylist()
    assert labelled == [status == "ok" for status in rows["status"].to_pylist()]


@settings(max_examples=25)
@given(part=st.floats(0.6, 1), seed=st.integers(0, 20))
def test_rows_that_were_computed_in_pieces_carry_their_own_state(part: float, seed: int) -> None:
    """A stage of several exits that is short of money goes on in pieces by certainty, which interleave in the batch."""
    cascade, pixels, never = cascade_of("all of it"), images(seed=seed), thresholds([1.01] * 3)
    table = label_stage(cascade, 0, fresh(pixels), never, None).table
    wanted = label_stage(cascade, 1, table, never, None).spent_macs
    table = label_stage(cascade, 1, table, never, int(part * wanted)).table
    wants = records.wanting_rows(table)
    carried = records.read_carried(table, stage_layout(cascade, 2))
    assume(len(wants))
    state, said = cascade.start(pixels[wants]), []
    for exit_index in range(3):
        step, state = cascade.advance(state, exit_index)
        said += step.views
    np.testing.assert_array_equal(carried["cells"], state.cells.numpy())
    np.testing.assert_allclose(carried["views"], torch.stack(said, 1).numpy(), atol=1e-5)


def test_features_travel_without_pixels() -> None:
    cascade = cascade_of("three stages of features")
    table = label_stage(cascade, 0, fresh(images()), thresholds([1.01] * 3), None).table
    assert sorted(name for name in table.column_names if name.startswith("carry_")) == [
        "carry_cells", "carry_costly", "carry_views",
    ]  # fmt: skip
    assert len(records.wanting_rows(table)) == COUNT


def test_images_that_are_cheap_are_charged_what_they_cost() -> None:
    cascade = cascade_of("costs per image")
    rows, _ = stage_by_stage(cascade, fresh(images()), thresholds([-np.inf] * 3), COUNT)
    dense = cascade.exits[0].macs
    assert set((rows["gflops"].to_numpy() * GIGA).round().astype(int).tolist()) <= {dense, dense // 8}
    assert rows["gflops"].to_numpy().min() * GIGA == pytest.approx(dense // 8)


@pytest.mark.parametrize(
    ("shape", "starts"), [("one stage", (0,)), ("two stages", (0, 2)), ("three stages", (0, 1, 3))]
)
def test_a_cascade_says_how_it_is_cut_and_what_it_takes(shape: str, starts: tuple[int, ...]) -> None:
    cascade = cascade_of(shape)
    assert stage_starts(cascade) == starts
    assert image_shape(cascade) == (SIZE, SIZE, 3)
    assert [k for stage in cascade.stages for k in stage.exits] == list(range(NUM_EXITS))
