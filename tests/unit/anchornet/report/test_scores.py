"""Accuracy and cost from exit tables small enough to be counted by hand, and the tables that people read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier, FrontierPoint, Policy, fit_frontier
from anchornet.budget.policy import hash_fraction
from anchornet.report import scores
from anchornet.units import GIGA
from benchmarks.tables import synthetic_table

INF = float("inf")


def by_hand() -> ExitTable:
    """Four images, two exits: the first is right on 0 and 1, the second on all but 3; image 2 costs twice as much."""
    return ExitTable(
        exits=("glance", "patch"),
        image_id=np.array([10, 11, 12, 13]),
        confidence=np.array([[0.9, 0.9], [0.6, 0.9], [0.3, 0.9], [0.8, 0.9]], np.float32),
        prediction=np.array([[0, 0], [1, 1], [0, 2], [1, 1]], np.int32),
        cost_macs=np.array([[1, 3], [1, 3], [2, 6], [1, 3]]) * GIGA,
        label=np.array([0, 1, 2, 0], np.int32),
    )


def a_point(threshold: float, gflops: float, share: float, accuracy: float | None = None) -> FrontierPoint:
    """Leave at the first exit from ``threshold`` on, as a share of the images does."""
    policy = Policy((threshold, -INF))
    return FrontierPoint(policy, gflops * GIGA, 0.1 * GIGA, (share, 1 - share), (1.0 * GIGA, 0.0), accuracy)


def a_frontier(*points: FrontierPoint) -> Frontier:
    return Frontier(("glance", "patch"), points, num_images=4, labelled=points[0].accuracy is not None)


TWO = a_frontier(a_point(-INF, 1.25, 1.0, 0.45), a_point(0.7, 2.5, 0.5, 0.8))


def test_each_exit_is_scored_as_if_every_image_left_there() -> None:
    assert scores.exit_rows(by_hand()) == [
        {"exit": "glance", "accuracy": 0.5, "accuracy_standard_error": 0.25, "gflops": 1.25},
        {"exit": "patch", "accuracy": 0.75, "accuracy_standard_error": pytest.approx(0.2165, abs=1e-4), "gflops": 3.75},
    ]


def test_a_budget_is_scored_by_its_policy_beside_what_was_promised() -> None:
    [cheap, dear] = scores.frontier_rows(TWO, by_hand(), [1.25, 2.5])
    assert (cheap["asked_gflops"], cheap["accuracy"], cheap["gflops"]) == (1.25, 0.5, 1.25)
    assert cheap["exits"] == {"glance": 4, "patch": 0}
    # from 0.7 on: images 0 (right) and 3 (wrong) leave at once, 1 and 2 (right, both) go on
    assert (dear["accuracy"], dear["gflops"]) == (0.75, (1 + 3 + 6 + 1) / 4)
    assert dear["exits"] == {"glance": 2, "patch": 2}
    assert (cheap["expected_accuracy"], dear["expected_accuracy"]) == (0.45, 0.8)


def test_between_two_policies_each_image_follows_its_own() -> None:
    table, middle = by_hand(), TWO.at(1.875)
    follows_dear = hash_fraction(table.image_id) < middle.high_fraction
    assert 0 < follows_dear[1:3].sum() < 2  # of those who would go on, one does
    [row] = scores.frontier_rows(TWO, table, [1.875])
    gone_on = follows_dear & (table.confidence[:, 0] < 0.7)
    assert row["exits"] == {"glance": 4 - gone_on.sum(), "patch": gone_on.sum()}
    assert row["gflops"] == np.where(gone_on, table.cost_macs[:, 1], table.cost_macs[:, 0]).mean() / GIGA


def test_a_promise_names_where_images_will_leave() -> None:
    [row] = scores.promise_rows(TWO, [(1.25 + 2.5) / 2])
    assert row["accuracy"] == pytest.approx((0.45 + 0.8) / 2)
    assert row["accuracy_standard_error"] == pytest.approx((0.625 * 0.375 / 4) ** 0.5)
    assert row["exits"] == {"glance": pytest.approx(0.75), "patch": pytest.approx(0.25)}
    assert row["leaving"] == "glance 75 %, patch 25 %"


def test_without_labels_nothing_is_promised_about_accuracy() -> None:
    [row] = scores.promise_rows(a_frontier(a_point(-INF, 1.0, 1.0), a_point(0.7, 2.0, 0.5)), [1.5])
    assert row["accuracy"] is row["accuracy_standard_error"] is None


@given(st.integers(2, 12))
def test_budgets_are_spread_evenly_from_the_least_to_the_most(num_budgets: int) -> None:
    budgets = scores.spread(TWO, num_budgets)
    assert len(budgets) == num_budgets
    assert (budgets[0], budgets[-1]) == (TWO.minimum_gflops, TWO.maximum_gflops)
    assert np.ptp(np.diff(budgets)) < 1e-12


def test_a_frontier_of_one_point_has_one_budget_and_a_sentence() -> None:
    one = a_frontier(a_point(-INF, 0.0600286, 1.0, 0.9))
    assert scores.spread(one, 7) == (one.minimum_gflops,)
    said = scores.single_point(one)
    assert said is not None
    assert "a single point, 0.06003 GFLOPs per image" in said
    assert "every image leaves at glance" in said
    later = a_frontier(replace(a_point(-INF, 1.0, 1.0), exit_fractions=(0.0, 1.0)))
    assert "leaves at patch" in str(scores.single_point(later))
    assert scores.single_point(TWO) is None


def test_what_is_printed_as_a_budget_is_accepted_as_one() -> None:
    frontier = fit_frontier(synthetic_table(500, 0))
    text = scores.markdown(scores.promise_rows(frontier, scores.spread(frontier, 5)), {"gflops": "GFLOPs"})
    for line in text.splitlines()[2:]:
        frontier.at(float(line.strip("| ")))


class TestCheapest:
    ROWS = ({"accuracy": 0.7, "gflops": 0.1}, {"accuracy": 0.9, "gflops": 0.3}, {"accuracy": 0.8, "gflops": 0.2})

    @pytest.mark.parametrize(("accuracy", "gflops"), [(0.5, 0.1), (0.8, 0.2), (0.81, 0.3), (0.9, 0.3)])
    def test_of_those_as_good(self, accuracy: float, gflops: float) -> None:
        found = scores.cheapest_as_good(self.ROWS, accuracy)
        assert found is not None
        assert found["gflops"] == gflops

    def test_there_may_be_none(self) -> None:
        assert scores.cheapest_as_good(self.ROWS, 0.91) is None
        assert scores.cheapest_as_good([], 0.0) is None


def test_a_table_shows_each_kind_of_number_as_people_read_it() -> None:
    row = {
        "name": "a",
        "accuracy": 0.12345,
        "asked_gflops": 0.0600286,
        "loss": 0.5,
        "images": 7,
        "expected_accuracy": None,
    }
    columns = {"name": "", "accuracy": "accuracy", "asked_gflops": "GFLOPs", "loss": "loss", "images": "n"}
    assert scores.markdown([row], {**columns, "expected_accuracy": "expected"}).splitlines() == [
        "|  | accuracy | GFLOPs | loss | n | expected |",
        "|---|---|---|---|---|---|",
        "| a | 12.3 % | 0.06003 | 0.5000 | 7 |  |",
    ]


def test_a_table_keeps_the_order_of_its_columns_and_leaves_out_what_is_not_asked_for() -> None:
    assert scores.markdown([{"a": 1, "b": 2}, {"b": 3}], {"b": "B", "a": "A"}).splitlines()[2:] == [
        "| 2 | 1 |", "| 3 |  |",
    ]  # fmt: skip


def test_classes_that_no_image_is_of_are_named() -> None:
    table = by_hand()
    assert scores.classes_without_images(table, ("a", "b", "c", "d", "e")) == ("d", "e")
    assert scores.classes_without_images(table, ("a", "b", "c")) == ()
    assert scores.classes_without_images(replace(table, label=None), ("a", "b")) == ()


def test_without_labels_an_exit_has_a_cost_and_no_accuracy() -> None:
    rows = scores.exit_rows(replace(by_hand(), label=None))
    assert rows == [{"exit": "glance", "gflops": 1.25}, {"exit": "patch", "gflops": 3.75}]
