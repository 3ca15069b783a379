"""Frontiers and policies: exact spends, honest accuracies, refusals, and the same answer on every retry."""

from __future__ import annotations

import itertools
import json
import logging
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from anchornet.budget import frontier as frontier_module
from anchornet.budget import search
from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import (
    Frontier,
    MixedPolicy,
    Policy,
    first_exit,
    fit_frontier,
    hash_fraction,
    rows_to_advance,
)
from benchmarks.tables import make_table, read_table, synthetic_table

HASHES = {"weights": "w1", "preprocessing": "p1", "exit_table": "t1"}


@cache
def table(num_images: int, seed: int = 0) -> ExitTable:
    return synthetic_table(num_images, seed)


def unlabelled(labelled: ExitTable) -> ExitTable:
    return ExitTable(labelled.exits, labelled.image_id, labelled.confidence, labelled.prediction, labelled.cost_macs)


@cache
def frontier(num_images: int = 4000, labels: bool = True) -> Frontier:
    return fit_frontier(table(num_images) if labels else unlabelled(table(num_images)), HASHES)


def spend_and_accuracy(judged: ExitTable, policy: MixedPolicy) -> tuple[float, float]:
    chosen = np.arange(len(judged)), first_exit(judged.confidence, policy.thresholds_for(judged.image_id))
    return judged.cost_macs[chosen].mean() / 1e9, judged.correct[chosen].mean()


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.37, 0.8, 1.0])
def test_the_expected_spend_is_the_asked_one(labels: bool, part: float) -> None:
    made = frontier(labels=labels)
    asked = made.minimum_gflops + part * (made.maximum_gflops - made.minimum_gflops)
    policy = made.at(asked)
    assert policy.expected_gflops == pytest.approx(asked, rel=1e-9)
    assert 0.0 <= policy.high_fraction <= 1.0
    assert sum(policy.exit_fractions) == pytest.approx(1.0)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("asked", [0.9, 1.1, 1.3, 1.5])
def test_the_spend_holds_on_other_images(labels: bool, asked: float) -> None:
    policy = frontier(labels=labels).at(asked)
    spent, _ = spend_and_accuracy(table(20_000, 1), policy)
    assert policy.spend_error is not None
    assert spent == pytest.approx(asked, rel=5 * policy.spend_error)


@pytest.mark.parametrize("asked", [0.9, 1.1, 1.3, 1.5])
def test_the_accuracy_shown_holds_on_other_images(asked: float) -> None:
    policy = frontier().at(asked)
    _, accuracy = spend_and_accuracy(table(20_000, 1), policy)
    assert policy.accuracy is not None and policy.accuracy_se is not None
    assert abs(policy.accuracy - accuracy) < 4 * policy.accuracy_se


def test_accuracy_without_any_signal_is_not_flattered() -> None:
    random = np.random.default_rng(0)
    noise = replace(
        table(300),
        confidence=random.random((300, 5), np.float32),
        prediction=(random.random((300, 5)) < 0.5).astype(np.int32),
    )
    best = max(point.accuracy or 0.0 for point in fit_frontier(noise).points)
    assert best < 0.5 + 3 * math.sqrt(0.25 / 300)


def test_points_are_concave_and_rise() -> None:
    points = frontier().points
    cost = np.array([point.expected_macs for point in points])
    accuracy = np.array([point.accuracy for point in points])
    slopes = np.diff(accuracy) / np.diff(cost)
    assert (np.diff(cost) > 0).all() and (slopes >= -1e-18).all()
    assert (np.diff(slopes) <= 1e-6 * slopes.max()).all()


def test_points_add_up() -> None:
    for point in frontier().points:
        assert sum(point.exit_spend_macs) == pytest.approx(point.expected_macs)
        assert sum(point.exit_fractions) == pytest.approx(1.0)


def test_the_labelled_frontier_beats_one_shared_threshold() -> None:
    judged = table(20_000, 1)
    for threshold in (0.5, 0.7, 0.85):
        shared = Policy((threshold,) * 4 + (-math.inf,))
        spent, accuracy = spend_and_accuracy(judged, MixedPolicy(shared, shared, 0.0, 0.0))
        assert spend_and_accuracy(judged, frontier().at(spent))[1] > accuracy - 0.004


def test_costs_may_differ_from_image_to_image() -> None:
    base = table(2000)
    factor = np.random.default_rng(0).integers(1, 4, (2000, 1))
    dynamic = replace(base, cost_macs=base.cost_macs * factor)
    made = fit_frontier(dynamic)
    asked = 1.2 * made.minimum_gflops
    policy = made.at(asked)
    spent, _ = spend_and_accuracy(dynamic, policy)
    assert spent == pytest.approx(asked, rel=0.03)


def test_a_frontier_of_one_exit_has_one_policy() -> None:
    base = table(200)
    one = ExitTable(
        ("only",), base.image_id, base.confidence[:, :1], base.prediction[:, :1], base.cost_macs[:, :1], base.label
    )
    made = fit_frontier(one)
    assert made.minimum_gflops == made.maximum_gflops
    assert first_exit(one.confidence, made.at(made.minimum_gflops).thresholds_for(one.image_id)).tolist() == [0] * 200


def test_a_budget_below_the_first_exit_is_refused_with_the_minimum() -> None:
    with pytest.raises(ValueError, match=r"below the first exit \(0.7898\); raise the budget to at least 0.7898"):
        frontier().at(0.7)


def test_a_budget_beyond_the_useful_maximum_warns_and_spends_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        policy = frontier().at(3.9)
    assert "beyond the useful maximum" in caplog.text
    assert policy.expected_gflops == frontier().maximum_gflops


def test_few_images_warn_with_the_error_of_the_spend(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = fit_frontier(table(341))
    assert "only 341 calibration images" in caplog.text
    assert f"{100 * made.spend_error:.1f} %" in caplog.text
    assert 0.01 < made.spend_error < 0.06


def test_a_frontier_on_few_images_is_still_sensible() -> None:
    """On average over tables; a single one may be off by its own sampling error."""
    judged = table(20_000, 99)
    found = [spend_and_accuracy(judged, fit_frontier(table(341, seed)).at(1.1)) for seed in range(8)]
    spent, accuracy = np.mean(found, axis=0)
    assert spent == pytest.approx(1.1, rel=0.03)
    assert accuracy > spend_and_accuracy(judged, frontier().at(1.1))[1] - 0.01


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 images, got 9"):
        fit_frontier(table(9))


def test_json_round_trip_is_exact_and_standard() -> None:
    text = frontier().to_json()
    assert Frontier.from_json(text) == frontier()
    assert "Infinity" not in text and json.loads(text)["hashes"] == HASHES


@pytest.mark.parametrize("text", ["[]", '{"version": 2, "points": []}', "{}"])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a frontier of version 1"):
        Frontier.from_json(text)


def test_the_frontier_of_another_bundle_is_refused() -> None:
    frontier().check(HASHES)
    with pytest.raises(ValueError, match="does not belong to this bundle: hash of weights is w2"):
        frontier().check({**HASHES, "weights": "w2"})


def test_a_part_that_only_one_of_them_knows_is_a_difference() -> None:
    frontier().check(HASHES)
    for others in ({**HASHES, "combination": "c1"}, {"weights": "w1"}):
        with pytest.raises(ValueError, match="frontier does not belong to this bundle: hash of"):
            frontier().check(others)


def test_errors_shrink_with_the_number_of_images_and_are_the_larger_of_two_points() -> None:
    made = frontier()
    a, b = made.points[3:5]
    assert a.accuracy is not None and b.accuracy is not None
    middle = made.describe(3.5)
    accuracy = (a.accuracy + b.accuracy) / 2
    assert middle.accuracy == pytest.approx(accuracy)
    assert middle.accuracy_se == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / made.num_images))
    relative = [point.spend_sd_macs / point.expected_macs / math.sqrt(made.num_images) for point in (a, b)]
    assert relative[0] < relative[1]  # else this test would not see which of them is taken
    assert middle.spend_error == pytest.approx(relative[1])
    assert made.spend_error >= relative[1]


def test_a_dearer_policy_that_cannot_be_told_from_the_best_is_kept_and_promises_no_more() -> None:
    cost, accuracy = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.8, 0.801, 0.8005])
    path = np.zeros((4, 2), np.float32)
    for num_images, kept in ((100, 4), (10_000_000, 3)):
        thresholds, promised = frontier_module._useful(num_images, path, cost, accuracy)
        assert len(thresholds) == len(promised) == kept
        assert promised.max() == pytest.approx(promised[-1])
        np.testing.assert_allclose(promised[:2], accuracy[:2], atol=1e-6)


def alike_table(right_NK: NDArray[np.bool_], seed: int) -> ExitTable:
    """Confidences that say nothing, and answers that are right where ``right_NK`` says so."""
    confidence = np.random.default_rng(seed).uniform(0.3, 1, right_NK.shape).astype(np.float32)
    return make_table(confidence, right_NK, [10**8] * right_NK.shape[1], "abcdef"[: right_NK.shape[1]])


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("num_images", [50, 300, 3000])
def test_where_every_exit_is_equally_good_the_useful_maximum_is_the_minimum(share: float, num_images: int) -> None:
    right = np.random.default_rng(1).random(num_images) < share
    made = fit_frontier(alike_table(np.repeat(right[:, None], 4, axis=1), 2))
    assert made.maximum_gflops == made.minimum_gflops == 0.1
    assert made.at(0.35).expected_gflops == 0.1
    assert made.points[0].accuracy == pytest.approx(right.mean())


def test_where_later_exits_are_worse_the_useful_maximum_is_the_minimum() -> None:
    right = np.random.default_rng(1).random(2000)[:, None] < np.array([0.8, 0.6, 0.4])
    assert fit_frontier(alike_table(right, 2)).maximum_gflops == 0.1


def test_where_the_last_exits_change_no_answer_the_useful_maximum_is_before_them() -> None:
    draw = np.random.default_rng(1).random(3000)[:, None]
    made = fit_frontier(alike_table(draw < np.array([0.5, 0.8, 0.8, 0.8]), 2))
    assert made.maximum_gflops == pytest.approx(0.2, rel=0.05)
    assert made.points[-1].accuracy == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("switch", [-np.inf, np.inf, 1.6e9])
def test_each_family_is_used_where_it_is_followed(switch: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "switch_spend", lambda cheap, dear, margin: switch)
    judged = table(600)
    prices = search.price_grid(judged.cost_macs)
    by_price = search.induction_path(judged.confidence, judged.correct, judged.cost_macs, prices)
    by_ratio = search.GeometricFamily(judged.confidence, judged.cost_macs).path()
    families = [{tuple(thresholds) for thresholds in path.tolist()} for path in (by_price, by_ratio)]
    cheapest, *points = fit_frontier(judged).points
    assert set(cheapest.policy.thresholds) == {-math.inf}
    assert len(points) > 3
    for point in points:
        assert point.policy.thresholds in families[point.expected_macs > switch]


def test_points_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="increasing cost"):
        replace(frontier(), points=frontier().points[::-1])


@pytest.mark.parametrize("thresholds", [(), (0.5,), (math.nan, -math.inf)])
def test_thresholds_that_are_no_policy_are_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="policy thresholds must be numbers that end in -inf"):
        Policy(thresholds)


def test_an_image_keeps_its_policy_whatever_batch_it_is_in() -> None:
    policy = frontier().at(1.17)
    ids = np.random.default_rng(0).permutation(5000)
    together = policy.thresholds_for(ids)
    alone = np.concatenate([policy.thresholds_for(ids[i : i + 7]) for i in range(0, 5000, 7)])
    np.testing.assert_array_equal(together, alone)
    follows_high = (together == policy.high.array).all(axis=1)
    assert follows_high.mean() == pytest.approx(policy.high_fraction, abs=0.03)


def test_the_hash_is_what_it_was() -> None:
    """A resumed job relies on it: splitmix64's first outputs for the seeds 0 and 1, known from its reference."""
    assert (hash_fraction(np.array([0, 1])) * 2**53).astype(np.uint64).tolist() == [
        0xE220A8397B1DCDAF >> 11,
        0x910A2DEC89025CC1 >> 11,
    ]


def test_leaving_is_decided_in_float32_with_equality() -> None:
    confidence = np.array([[np.float32(0.9), 1.0]], np.float32)
    assert first_exit(confidence, np.array([0.9, -np.inf])).tolist() == [0]
    assert first_exit(confidence, np.array([np.nextafter(np.float32(0.9), np.float32(1)), np.inf])).tolist() == [1]


scores = hnp.arrays(np.float32, st.integers(0, 12), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75]))


@given(score=scores, data=st.data())
def test_rows_to_advance_keeps_the_allowance_and_takes_the_least_certain(
    score: np.ndarray, data: st.DataObject
) -> None:
    wants = data.draw(hnp.arrays(bool, len(score)))
    cost = data.draw(hnp.arrays(np.int64, len(score), elements=st.integers(1, 20)))
    allowance = data.draw(st.integers(-5, 120))
    goes = rows_to_advance(score, wants, cost, allowance)
    assert cost[goes].sum() <= max(allowance, 0) and not (goes & ~wants).any()
    if cost[wants].sum() <= allowance:
        np.testing.assert_array_equal(goes, wants)
    order = sorted(np.flatnonzero(wants), key=lambda row: (score[row], row))
    taken = [bool(goes[row]) for row in order]
    assert taken == sorted(taken, reverse=True)
    if False in taken:
        assert cost[order[: taken.index(False) + 1]].sum() > allowance


def test_backward_induction_finds_the_best_thresholds_of_a_small_table() -> None:
    random = np.random.default_rng(4)
    confidence = random.choice(np.array([0.2, 0.4, 0.6, 0.8], np.float32), (60, 3))
    correct = random.random((60, 3)) < confidence + np.array([0.0, 0.1, 0.15])
    cost = np.tile(np.array([10, 20, 30]), (60, 1))
    price = 0.01
    cuts = [0.2, 0.4, 0.6, 0.8, np.inf]
    every = np.array([[a, b, -np.inf] for a, b in itertools.product(cuts, cuts)], np.float32)

    def profit(path: np.ndarray) -> np.ndarray:
        exits = search.leave_at(confidence, path)
        return search.mean_at_exit(correct, exits) - price * search.mean_at_exit(cost, exits)

    found = search.induction_path(confidence, correct, cost, np.full(5, price))
    assert profit(found[-1:])[0] >= profit(every).max() - 0.02


@pytest.mark.parametrize("target", [0.85, 1.1, 1.6, 2.5, 3.7])
def test_the_geometric_family_meets_a_target_by_bisection(target: float) -> None:
    judged = table(4000)
    family = search.GeometricFamily(judged.confidence, judged.cost_macs)
    assert family.mean_cost(family.solve(target * 1e9)) == pytest.approx(target * 1e9, rel=0.005)


def test_concave_fit_keeps_a_concave_curve() -> None:
    cost = np.linspace(1.0, 3.0, 20)
    np.testing.assert_allclose(search.concave_fit(cost, np.sqrt(cost)), np.sqrt(cost), atol=1e-9)


def test_half_of_the_published_table_beats_the_published_points(shared_data: Path) -> None:
    """One split of the ten that ``benchmarks.budget_table --halves 10`` reports."""
    whole = read_table(str(shared_data / "anchornet_imagenet_table_half.npz"))
    rows = np.random.default_rng(0).permutation(len(whole))
    made, judged = fit_frontier(whole.select(rows[:12_500])), whole.select(rows[12_500:])
    for asked, at_least in ((1.0, 0.720), (1.1, 0.728), (1.2, 0.733)):
        spent, accuracy = spend_and_accuracy(judged, made.at(asked))
        assert spent == pytest.approx(asked, rel=0.02)
        assert accuracy > at_least
