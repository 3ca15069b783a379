"""The loop that runs survivors: equal to a naive one-image reference, whatever the batch, and never above its allowance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchornet.cascade.run import Part, StageResult, confidence, run_all_exits, run_cascade, run_stage
from anchornet.cascade.standing import NO_EXIT, Standing
from tests.fake_cascade import MACS, FakeCascade, fake_images

FIELDS = ("label_id", "score", "exit", "macs", "boxes")


def thresholds(num_images: int, *values: float) -> np.ndarray:
    return np.tile(np.array([*values, -np.inf], np.float32), (num_images, 1))


def naive(cascade: FakeCascade, image: np.ndarray, thresholds_K: np.ndarray) -> tuple[int, float, int, int]:
    """One image, exit by exit, as one would write it down from the rule."""
    state, spent, total = cascade.start(image[None]), 0, torch.zeros(3)
    for k in range(len(MACS)):
        step, state = cascade.advance(state, k)
        spent += int(step.macs_n[0])
        total = total + step.views[0][0]  # the fake's rule is the sum
        probability = torch.softmax(total, dim=0)
        if float(probability.max()) >= thresholds_K[k] or k == len(MACS) - 1:
            return int(total.argmax()), float(probability.max()), k, spent
    raise AssertionError


@pytest.mark.parametrize("dynamic", [False, True])
@given(st.lists(st.floats(0.3, 1.01), min_size=3, max_size=3), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_equals_the_naive_loop(dynamic: bool, values: list[float], seed: int) -> None:
    images = fake_images(16, seed)
    limits = thresholds(16, *values)
    result = run_cascade(FakeCascade(dynamic=dynamic), images, limits)
    for i, image in enumerate(images):
        label, score, exit_index, macs = naive(FakeCascade(dynamic=dynamic), image, limits[i])
        assert (result.label_id[i], result.exit[i], result.macs[i]) == (label, exit_index, macs)
        assert result.score[i] == pytest.approx(score, abs=1e-6)


def test_batching_and_order_change_nothing() -> None:
    images, limits = fake_images(64), thresholds(64, 0.8, 0.7, 0.9)
    whole = run_cascade(FakeCascade(), images, limits)
    order = np.random.default_rng(1).permutation(64)
    parts = [run_cascade(FakeCascade(), images[rows], limits[rows]) for rows in np.array_split(order, 9)]
    for name in FIELDS:
        shuffled = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(shuffled, getattr(whole, name)[order])


def test_survivors_are_really_dropped() -> None:
    cascade, images = FakeCascade(), fake_images(200)
    result = run_cascade(cascade, images, thresholds(200, 0.6, 0.8, 0.9))
    left = np.bincount(result.exit, minlength=4)
    assert cascade.rows_run == [200, 200 - left[0], 200 - left[:2].sum(), left[3]]
    assert result.macs.sum() == np.dot(cascade.rows_run, MACS)
    assert (left > 0).all()


def test_thresholds_are_met_with_equality() -> None:
    images = fake_images(1)
    table = run_all_exits(FakeCascade(), images)
    exact = float(table.confidence[0, 1])
    above = float(np.nextafter(np.float32(exact), np.float32(2)))
    assert run_cascade(FakeCascade(), images, thresholds(1, 2, exact, 2)).exit[0] == 1
    assert run_cascade(FakeCascade(), images, thresholds(1, 2, above, 2)).exit[0] == 3


def test_the_last_exit_takes_everything_whatever_its_threshold() -> None:
    cascade, images = FakeCascade(), fake_images(5)
    never = np.full((5, len(MACS)), np.inf, np.float32)
    assert (run_cascade(cascade, images, never).exit == len(MACS) - 1).all()
    standing, parts = Standing.fresh(5, 1), [Part(np.arange(5), cascade.start(images))]
    for stage, left in zip(cascade.stages, (5, 0), strict=True):
        result = run_stage(cascade, stage, parts, standing, never)
        standing, parts = result.standing, result.parts
        assert len(result.continuing) == left


def test_a_stage_says_who_goes_on_and_leaves_its_input_alone() -> None:
    cascade, images = FakeCascade(), fake_images(30)
    before, rows = Standing.fresh(30, 1), np.arange(3, 30, 3)
    scores = run_all_exits(FakeCascade(), images).confidence[:, 0]
    limits = thresholds(30, np.median(scores[rows]), 2, 2)
    parts = [Part(rows, cascade.start(images[rows])), Part(np.zeros(0, np.int64), None)]
    result = run_stage(cascade, cascade.stages[0], parts, before, limits)
    assert result.continuing.tolist() == [row for row in rows if scores[row] < limits[0, 0]]
    assert len(result.continuing) == len(rows) // 2
    assert result.spent_macs == len(rows) * MACS[0]
    untouched = np.setdiff1d(np.arange(30), rows)
    assert (result.standing.exit[untouched] == NO_EXIT).all()
    assert (result.standing.macs[untouched] == 0).all()
    assert (before.exit == NO_EXIT).all()


def test_those_who_go_on_are_named_in_the_order_of_the_batch() -> None:
    parts = [Part(np.array([5, 7]), None), Part(np.array([2, 6]), None)]
    assert StageResult(Standing.fresh(8, 0), parts, 0).continuing.tolist() == [2, 5, 6, 7]
    assert StageResult(Standing.fresh(8, 0), [], 0).continuing.tolist() == []


@pytest.mark.parametrize("dynamic", [False, True])
@given(st.integers(0, 5000), st.floats(0.3, 1.01))
@settings(max_examples=60, deadline=None)
def test_an_allowance_is_never_exceeded(dynamic: bool, allowance: int, threshold: float) -> None:
    cascade, images = FakeCascade(dynamic=dynamic), fake_images(50, allowance)
    result = run_cascade(cascade, images, thresholds(50, threshold, threshold, threshold), allowance)
    assert result.macs.sum() <= allowance
    unlimited = run_cascade(FakeCascade(dynamic=dynamic), images, thresholds(50, threshold, threshold, threshold))
    assert (result.exit <= unlimited.exit).all()
    assert ((result.exit == NO_EXIT) == (result.label_id == -1)).all()


def test_a_short_allowance_goes_to_the_least_certain() -> None:
    images = fake_images(40)
    first = run_all_exits(FakeCascade(), images).confidence[:, 0]
    allowance = 40 * MACS[0] + 10 * MACS[1]
    result = run_cascade(FakeCascade(), images, thresholds(40, 2, 0, 0), allowance)
    assert set(np.flatnonzero(result.exit == 1)) == set(np.argsort(first, kind="stable")[:10])


def test_what_cheap_rows_leave_over_pays_for_others() -> None:
    """Costs differ per image: a batch is run in pieces when the money does not cover its dearest case."""
    images = fake_images(64)
    images[:, 0, 0, 0] = 31  # an eighth of the dense cost each
    cascade, allowance = FakeCascade(dynamic=True), 64 * MACS[0] // 4
    result = run_cascade(cascade, images, thresholds(64, 0, 0, 0), allowance)
    assert (result.exit == 0).all()
    assert result.macs.sum() <= allowance < 64 * MACS[0]
    assert cascade.calls[0] > 1


@given(st.integers(0, 3000), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_pieces_go_on_in_the_order_of_the_batch(allowance: int, seed: int) -> None:
    """A row that was computed in a later piece has the answer it has alone."""
    images, limits = fake_images(30, seed), thresholds(30, 0.8, 0.7, 0.9)
    result = run_cascade(FakeCascade(dynamic=True), images, limits, allowance)
    exits = run_all_exits(FakeCascade(dynamic=True), images)
    known = np.flatnonzero(result.exit != NO_EXIT)
    np.testing.assert_array_equal(result.label_id[known], exits.prediction[known, result.exit[known]])
    np.testing.assert_array_equal(result.macs[known], exits.cost_NK[known, result.exit[known]])


def test_equal_logits_take_the_lowest_class() -> None:
    score, label = confidence(torch.tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]]))
    assert label.tolist() == [1, 0]
    assert score[1] == pytest.approx(1 / 3)


def test_no_images_at_all() -> None:
    result = run_cascade(FakeCascade(), fake_images(0), thresholds(0, 1, 1, 1))
    assert isinstance(result, Standing)
    assert len(result.exit) == 0
