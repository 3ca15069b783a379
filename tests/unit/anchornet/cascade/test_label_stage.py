"""Arrow in, Arrow out: two stages over travelling rows give what one call of the cascade gives."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchornet.cascade import rows as records
from anchornet.cascade.label_stage import finish_rows, label_stage, stage_layout
from anchornet.cascade.run import run_cascade
from tests.fake_cascade import CLASSES, FakeCascade, fake_images


def fresh(images: np.ndarray, bad: tuple[int, ...] = ()) -> pa.Table:
    count = len(images)
    return records.work_table(
        np.arange(count) + 100,
        [f"file{i}" for i in range(count)],
        [None if i in bad else image for i, image in enumerate(images)],
        ["unreadable" if i in bad else "ok" for i in range(count)],
        ["truncated" if i in bad else None for i in range(count)],
        shape=(2, 2, 3),
    )


def through_both_stages(table: pa.Table, limits_NK: np.ndarray, allowances: tuple[int | None, int | None]) -> pa.Table:
    cascade = FakeCascade()
    for stage_index, allowance in enumerate(allowances):
        table = label_stage(cascade, stage_index, table, limits_NK, allowance).table
    return finish_rows(cascade, table, None)


def limits(count: int) -> np.ndarray:
    return np.tile(np.array([0.5, 0.7, 0.9, -np.inf], np.float32), (count, 1))


def test_two_stages_equal_one_call() -> None:
    images = fake_images(30)
    expected = run_cascade(FakeCascade(), images, limits(30))
    rows = through_both_stages(fresh(images), limits(30), (None, None))
    assert rows.schema == records.LABEL_SCHEMA
    assert rows["label_id"].to_pylist() == expected.label_id.tolist()
    assert rows["label"].to_pylist() == [CLASSES[i] for i in expected.label_id]
    assert rows["exit"].to_pylist() == [f"exit{k}" for k in expected.exit]
    assert (np.array(rows["gflops"].to_pylist()) * 1e9).round().astype(int).tolist() == expected.macs.tolist()
    assert rows["boxes"].to_pylist() == [
        [dict(zip(("top", "left", "size"), map(int, b[0]), strict=True))] for b in expected.boxes
    ]


def test_a_row_that_left_carries_no_pixels() -> None:
    cascade, images = FakeCascade(), fake_images(30)
    table = fresh(images)
    batch = label_stage(cascade, 0, table, limits(30), None)
    still = records.wanting_rows(batch.table)
    assert batch.table["carry_image"].nbytes < table["carry_image"].nbytes
    assert 0 < len(still) < 30
    assert batch.exit_counts == (30 - len(still), 0, 0, 0)
    assert batch.spent_macs == 30 * cascade.exits[0].macs


def test_bad_rows_pass_with_their_reason() -> None:
    rows = through_both_stages(fresh(fake_images(5), bad=(1, 3)), limits(5), (None, None))
    assert rows["status"].to_pylist() == ["ok", "unreadable", "ok", "unreadable", "ok"]
    assert rows["error"].to_pylist() == [None, "truncated", None, "truncated", None]
    assert rows["label"].is_null().to_pylist() == [False, True, False, True, False]
    assert rows["gflops"].to_pylist()[1] == 0


def test_without_budget_a_row_says_so() -> None:
    cascade = FakeCascade()
    rows = through_both_stages(fresh(fake_images(4)), limits(4), (2 * cascade.exits[0].macs, 0))
    assert sorted(rows["status"].to_pylist()) == ["failed", "failed", "ok", "ok"]
    assert set(rows["error"].to_pylist()) == {None, records.BUDGET_EXHAUSTED}


def test_images_for_which_there_was_no_money_are_counted_apart() -> None:
    cascade = FakeCascade()
    never = np.full((4, len(cascade.exits)), 2, np.float32)
    batch = label_stage(cascade, 0, fresh(fake_images(4)), never, 3 * cascade.exits[0].macs)
    assert (batch.num_starved, batch.spent_macs) == (1, 3 * cascade.exits[0].macs)
    assert batch.exit_counts == (0, 0, 0, 0)  # three go on
    assert len(records.wanting_rows(batch.table)) == 3
    rest = label_stage(cascade, 1, batch.table, never, cascade.exits[1].macs)
    assert rest.num_starved == 0  # two leave with the label they have, which is not nothing
    assert rest.exit_counts == (2, 1, 0, 0)


@settings(max_examples=40)
@given(allowance=st.integers(FakeCascade().exits[0].macs, 600), seed=st.integers(0, 100))
def test_rows_that_were_computed_in_pieces_carry_their_own_state(allowance: int, seed: int) -> None:
    """With costs that differ per image and little money a batch is run in pieces, which interleave."""
    images, never = fake_images(30, seed), np.full((30, 4), 2, np.float32)
    cascade = FakeCascade(dynamic=True)
    table = label_stage(cascade, 0, fresh(images), never, allowance).table
    wants = records.wanting_rows(table)
    carried = records.read_carried(table, stage_layout(cascade, 1))
    alone = FakeCascade(dynamic=True)
    step, _ = alone.advance(alone.start(images[wants]), 0)
    np.testing.assert_array_equal(carried["image"], images[wants])
    np.testing.assert_array_equal(carried["views"], torch.stack(step.views, 1))


def test_what_a_network_makes_of_overflow_is_no_label() -> None:
    table = fresh(fake_images(3))
    cascade = FakeCascade()
    table = label_stage(cascade, 0, table, np.full((3, 4), -np.inf, np.float32), None).table
    score = pa.array(np.array([0.5, np.nan, 0.7], np.float32))
    rows = finish_rows(cascade, records.with_columns(table, {"score": score}), None)
    assert rows["status"].to_pylist() == ["ok", "failed", "ok"]
    assert rows["error"].to_pylist() == [None, records.NOT_FINITE, None]
    for column in ("label", "label_id", "score", "exit"):
        assert rows[column].is_null().to_pylist() == [False, True, False]
    assert rows["gflops"].to_pylist()[1] > 0


def test_only_bad_rows() -> None:
    rows = through_both_stages(fresh(fake_images(2), bad=(0, 1)), limits(2), (None, None))
    assert rows["status"].to_pylist() == ["unreadable", "unreadable"]


def test_calibrated_confidence_is_written_beside_the_score() -> None:
    cascade, images = FakeCascade(), fake_images(6)
    table = fresh(images, bad=(2,))
    for stage_index in range(len(cascade.stages)):
        table = label_stage(cascade, stage_index, table, limits(6), None).table
    done = finish_rows(cascade, table, lambda score, exits: score / (exits + 2))
    assert len(done["exit"].unique()) > 2
    for row in done.to_pylist():
        by_exit = None if row["exit"] is None else row["score"] / (int(row["exit"].removeprefix("exit")) + 2)
        assert row["confidence"] == (by_exit if by_exit is None else pytest.approx(by_exit))
