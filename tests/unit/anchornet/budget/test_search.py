"""The search for thresholds: laws that hold for any table, and each rule on arrays small enough to check by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchornet.budget import search
from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.budget.policy import MixedPolicy, Policy, first_exit, hash_fraction
from anchornet.budget.search import CrossFitted, GeometricFamily
from anchornet.units import GIGA
from benchmarks.tables import make_table, synthetic_table

INF = np.inf


def any_table(seed: int) -> ExitTable:
    """Any small table: ties among the confidences, exits that cost nothing more, costs that differ from image to image."""
    random = np.random.default_rng(seed)
    num_images, num_exits = int(random.integers(10, 61)), int(random.integers(1, 5))
    tied, alike, free, labelled = random.random(4) < 0.5
    steps = random.integers(0 if free else 1, 5, (num_images, num_exits)) * GIGA
    steps[:, 0] += GIGA
    confidence = random.random((num_images, num_exits))
    return ExitTable(
        exits=tuple(f"exit{k}" for k in range(num_exits)),
        image_id=random.permutation(num_images),
        confidence=(np.round(confidence, 1) if tied else confidence).astype(np.float32),
        prediction=random.integers(0, 3, (num_images, num_exits)).astype(np.int32),
        cost_macs=np.cumsum(np.tile(steps[0], (num_images, 1)) if alike else steps, axis=1),
        label=random.integers(0, 3, num_images).astype(np.int32) if labelled else None,
    )


@cache
def fitted(seed: int) -> tuple[ExitTable, Frontier]:
    """A table and its frontier; cached, since fitting is what takes the time."""
    return any_table(seed), fit_frontier(any_table(seed), {"weights": "w"})


TABLES = st.integers(0, 10**6).map(any_table)
FITTED = st.integers(0, 11).map(fitted)


def spend(table: ExitTable, policy: Policy) -> np.ndarray:
    """Multiply-adds of each image of the table under one policy."""
    return table.cost_macs[np.arange(len(table)), first_exit(table.confidence, policy.array)]


class TestFrontier:
    """What any consumer of a frontier relies on, whatever it was fitted on."""

    @settings(max_examples=20)
    @given(FITTED)
    def test_points_rise_from_the_first_exit_and_say_what_they_cost(self, made: tuple[ExitTable, Frontier]) -> None:
        table, frontier = made
        assert (np.diff(frontier.costs_macs) > 0).all()
        assert frontier.points[0].exit_fractions[0] == 1.0
        for point in frontier.points:
            macs = spend(table, point.policy)
            assert point.expected_macs == pytest.approx(macs.mean(), rel=1e-12)
            assert point.spend_sd_macs == pytest.approx(macs.std(), abs=1e-3)
            assert sum(point.exit_fractions) == pytest.approx(1)
            assert sum(point.exit_spend_macs) == pytest.approx(point.expected_macs, rel=1e-9)

    @settings(max_examples=20)
    @given(FITTED)
    def test_more_money_never_buys_less_and_each_further_sum_buys_no_more(
        self, made: tuple[ExitTable, Frontier]
    ) -> None:
        table, frontier = made
        if table.label is None:
            assert all(point.accuracy is None for point in frontier.points)
            return
        accuracy = np.array([point.accuracy for point in frontier.points])
        assert (np.diff(accuracy) >= -1e-9).all()
        slopes = np.diff(accuracy) / np.diff(frontier.costs_macs / GIGA)
        assert (np.diff(slopes) <= 1e-6).all()

    @settings(max_examples=20)
    @given(FITTED, st.floats(0, 1))
    def test_a_budget_is_met_exactly_in_expectation(self, made: tuple[ExitTable, Frontier], part: float) -> None:
        table, frontier = made
        asked = frontier.minimum_gflops + part * (frontier.maximum_gflops - frontier.minimum_gflops)
        policy = frontier.at(asked)
        assert policy.expected_gflops == pytest.approx(asked, rel=1e-9)
        low, high = (spend(table, each).mean() for each in (policy.low, policy.high))
        mixed = low + policy.high_fraction * (high - low)
        assert mixed == pytest.approx(asked * GIGA, rel=1e-9)
        assert sum(policy.exit_fractions) == pytest.approx(1)

    @settings(max_examples=20)
    @given(FITTED)
    def test_json_gives_the_same_frontier(self, made: tuple[ExitTable, Frontier]) -> None:
        _, frontier = made
        assert Frontier.from_json(frontier.to_json()) == frontier


class TestLeaving:
    @given(TABLES, st.integers(0, 10**6))
    def test_many_policies_at_once_are_each_alone(self, table: ExitTable, seed: int) -> None:
        random = np.random.default_rng(seed)
        path = np.round(random.random((4, table.num_exits)), 1).astype(np.float32)
        path[random.random(path.shape) < 0.2] = INF
        together = search.leave_at(table.confidence, path)
        for exit_N, thresholds in zip(together, path, strict=True):
            assert exit_N.tolist() == first_exit(table.confidence, thresholds).tolist()

    def test_a_mean_takes_each_image_where_it_leaves(self) -> None:
        value = np.array([[1, 10], [2, 20]])
        assert search.mean_at_exit(value, np.array([[0, 0], [0, 1], [1, 1]])).tolist() == [1.5, 10.5, 15.0]


class TestPrices:
    def test_they_span_nobody_to_everybody_whatever_the_unit_of_cost(self) -> None:
        cost = np.tile(np.array([10, 20, 40]), (5, 1))
        prices = search.price_grid(cost, 48)
        mean_exit = (40 - 10) / 2
        assert (len(prices), prices[0] * mean_exit, prices[-1] * mean_exit) == (
            48,
            pytest.approx(10**-3.5),
            pytest.approx(1),
        )
        assert (np.diff(prices) > 0).all()
        np.testing.assert_allclose(search.price_grid(cost * GIGA, 48) * GIGA, prices)

    def test_one_exit_and_exits_for_nothing_have_prices_too(self) -> None:
        for cost in (np.array([[7], [7]]), np.array([[7, 7, 7]])):
            assert np.isfinite(search.price_grid(cost)).all()

    @settings(max_examples=20)
    @given(TABLES)
    def test_a_higher_price_never_costs_more_on_the_whole(self, table: ExitTable) -> None:
        correct = table.prediction == 0
        prices = search.price_grid(table.cost_macs)
        path = search.induction_path(table.confidence, correct, table.cost_macs, prices)
        assert path.shape == (len(prices), table.num_exits)
        assert (path[:, -1] == -INF).all()
        cost = search.mean_at_exit(table.cost_macs, search.leave_at(table.confidence, path))
        assert cost[-1] <= cost[0]

    def test_thresholds_are_confidences_of_real_images(self) -> None:
        table = synthetic_table(300, 0)
        path = search.induction_path(
            table.confidence, table.correct, table.cost_macs, search.price_grid(table.cost_macs)
        )
        for k in range(table.num_exits - 1):
            finite = path[:, k][np.isfinite(path[:, k])]
            assert set(finite.tolist()) <= set(table.confidence[:, k].tolist())

    def test_a_free_exit_that_is_better_is_worth_it_at_any_price(self) -> None:
        confidence = np.linspace(0.1, 0.9, 40, dtype=np.float32)[:, None].repeat(2, axis=1)
        correct = np.array([[False, True]] * 40)
        free = np.array([[5, 5]] * 40)
        path = search.induction_path(confidence, correct, free, np.logspace(-3, 0, 8))
        assert (search.leave_at(confidence, path) == 1).all()

    def test_neighbouring_prices_share_their_noise(self) -> None:
        """The second exit is right where the first is unsure: worth a low price for those, a high one for nobody."""
        confidence = np.linspace(0.1, 0.9, 200, dtype=np.float32)[:, None].repeat(2, axis=1)
        correct = np.column_stack([confidence[:, 0] > 0.5, np.ones(200, bool)])
        cost = np.tile(np.array([1, 2]), (200, 1))
        path = search.induction_path(confidence, correct, cost, np.array([0.1] * 6 + [2.0] * 6))
        cut = path[:, 0]
        np.testing.assert_allclose(cut[[0, 3]], 0.5, atol=0.01)
        assert cut[8] == cut[11] == np.float32(0.1)
        assert cut[11] < cut[7] < cut[6] < cut[5] < cut[4] < cut[0]

    def test_an_exit_is_judged_by_those_who_arrive_there(self) -> None:
        """At the second exit both kinds look alike; the first kind, which would gain by going on, has left before."""
        kinds = np.array([0] * 100 + [1] * 50)
        confidence = np.array([[0.9, 0.3, 0.5], [0.1, 0.3, 0.5]], np.float32)[kinds]
        correct = np.array([[True, False, True], [False, True, True]])[kinds]
        cost = np.tile(np.array([1, 2, 3]), (150, 1))
        path = search.induction_path(confidence, correct, cost, np.array([0.1]))
        assert search.leave_at(confidence, path)[0].tolist() == kinds.tolist()

    def test_an_exit_that_brings_nothing_is_not_paid_for(self) -> None:
        confidence = np.linspace(0.1, 0.9, 40, dtype=np.float32)[:, None].repeat(2, axis=1)
        path = search.induction_path(confidence, np.ones((40, 2), bool), np.array([[5, 9]] * 40), np.logspace(-3, 0, 8))
        assert (search.leave_at(confidence, path) == 0).all()


class TestGeometric:
    @pytest.mark.parametrize("log_ratio", [-1.0, 0.0, 0.7])
    def test_shares_of_the_exits_follow_the_ratio(self, log_ratio: float) -> None:
        random = np.random.default_rng(0)
        confidence = random.random((4000, 3)).astype(np.float32)
        family = GeometricFamily(confidence, np.tile(np.array([1, 2, 3]), (4000, 1)))
        left = search.leave_at(confidence, family.thresholds(log_ratio)[None])[0]
        shares = np.bincount(left, minlength=3) / 4000
        weights = np.exp(log_ratio * np.arange(3))
        np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.001)

    def test_the_most_certain_leave_first(self) -> None:
        confidence = np.array([[0.1], [0.9], [0.5], [0.7]], np.float32).repeat(2, axis=1)
        family = GeometricFamily(confidence, np.array([[1, 2]] * 4))
        left = search.leave_at(confidence, family.thresholds(0.0)[None])[0]
        assert left.tolist() == [1, 0, 1, 0]

    @settings(max_examples=40)
    @given(TABLES, st.floats(0, 1))
    def test_a_target_is_never_exceeded(self, table: ExitTable, part: float) -> None:
        family = GeometricFamily(table.confidence, table.cost_macs)
        low, high = table.cost_macs[:, 0].mean(), table.cost_macs[:, -1].mean()
        target = low + part * (high - low)
        assert family.mean_cost(family.solve(target)) <= target + 1e-3

    def test_its_path_goes_from_cheap_to_dear(self) -> None:
        table = synthetic_table(500, 0)
        family = GeometricFamily(table.confidence, table.cost_macs)
        cost = [family.mean_cost(thresholds) for thresholds in family.path()]
        assert cost[0] < 1.1 * table.cost_macs[:, 0].mean()
        assert cost[-1] > 0.8 * table.cost_macs[:, -1].mean()
        assert (np.diff(cost) >= 0).all()


class TestCrossFit:
    def test_every_fold_is_judged_by_its_own_policies(self) -> None:
        path = np.array([[-INF, -INF], [INF, -INF]], np.float32)
        always = np.full((2, 2), -INF, np.float32)
        fold = np.array([0, 1, 0, 2, 1])
        confidence = np.full((5, 2), 0.5, np.float32)
        correct = np.array([[True, True], [False, True], [False, True], [False, True], [False, False]])
        cost = np.array([[1, 3]] * 4 + [[1, 8]])
        judged = search.cross_fit([path, path, path], fold, confidence, correct, cost)
        np.testing.assert_allclose(judged.cost_macs, [1.0, 4.0])
        np.testing.assert_allclose(judged.accuracy, [0.2, 0.8])
        judged = search.cross_fit([path, always, path], fold, confidence, correct, cost)
        np.testing.assert_allclose(judged.cost_macs, [1.0, (3 * 3 + 2 * 1) / 5])
        np.testing.assert_allclose(judged.accuracy, [0.2, 3 / 5])

    def test_policies_are_ordered_by_what_they_cost(self) -> None:
        path = np.array([[INF, -INF], [-INF, -INF]], np.float32)  # the dear one first
        data = np.full((4, 2), 0.5, np.float32), np.array([[False, True]] * 4), np.array([[1, 2]] * 4)
        judged = search.cross_fit([path, path], np.array([0, 0, 1, 1]), *data)
        assert judged.cost_macs.tolist() == [1.0, 2.0]
        assert judged.accuracy.tolist() == [0.0, 1.0]


class TestSwitch:
    """Where one family of policies hands over to the other."""

    @staticmethod
    def curve(*accuracy: float) -> CrossFitted:
        return CrossFitted(np.linspace(1.0, 3.0, len(accuracy)), np.array(accuracy))

    def test_one_that_always_leads_is_always_followed(self) -> None:
        assert search.switch_spend(self.curve(0.6, 0.8), self.curve(0.5, 0.7), 0.01) == INF
        assert search.switch_spend(self.curve(0.5, 0.7), self.curve(0.6, 0.8), 0.01) == -INF

    def test_a_lead_within_the_margin_is_none(self) -> None:
        assert search.switch_spend(self.curve(0.6, 0.8), self.curve(0.595, 0.795), 0.01) == -INF

    def test_between_them_it_is_where_the_lead_is_lost(self) -> None:
        cheap, dear = self.curve(0.6, 0.7, 0.7), self.curve(0.5, 0.7, 0.9)
        assert search.switch_spend(cheap, dear, 0.0) == pytest.approx(2.0, abs=0.1)

    def test_only_spends_that_both_have_are_compared(self) -> None:
        cheap = CrossFitted(np.array([0.0, 1.0]), np.array([0.9, 0.9]))
        dear = CrossFitted(np.array([0.5, 9.0]), np.array([0.1, 0.1]))
        assert search.switch_spend(cheap, dear, 0.0) == INF


class TestConcaveFit:
    @given(st.lists(st.floats(0, 1), min_size=3, max_size=15), st.integers(0, 99))
    def test_it_is_concave_whatever_it_is_given(self, accuracy: list[float], seed: int) -> None:
        cost = np.cumsum(np.random.default_rng(seed).uniform(0.1, 1.0, len(accuracy)))
        fitted = search.concave_fit(cost, np.array(accuracy))
        slopes = np.diff(fitted) / np.diff(cost)
        assert (np.diff(slopes) <= 1e-6).all()

    def test_it_goes_through_the_middle_and_not_through_the_luckiest(self) -> None:
        cost = np.linspace(0, 1, 21)
        truth = np.sqrt(cost + 0.1)
        noisy = truth + 0.05 * np.array([0, *[1, -1] * 10])
        assert np.abs(search.concave_fit(cost, noisy) - truth).mean() < 0.02

    def test_the_first_point_is_exact_and_weighs_more(self) -> None:
        cost, dip = np.linspace(0, 1, 11), np.array([0.9, *[0.5] * 10])
        light = search.concave_fit(cost, dip)
        assert light[0] > 0.88

    def test_two_points_are_what_they_are(self) -> None:
        assert search.concave_fit(np.array([1.0, 2.0]), np.array([0.9, 0.1])).tolist() == [0.9, 0.1]


class TestMixing:
    LOW, HIGH = Policy((0.2, -INF)), Policy((0.8, -INF))

    @given(st.integers(-(2**62), 2**62), st.floats(0, 1))
    def test_an_image_follows_the_same_policy_at_every_try(self, image_id: int, fraction: float) -> None:
        mixed = MixedPolicy(self.LOW, self.HIGH, fraction, 0.0)
        [alone] = mixed.thresholds_for(np.array([image_id]))
        among = mixed.thresholds_for(np.array([5, image_id, 7]))
        assert among[1].tolist() == alone.tolist()
        expected = self.HIGH if hash_fraction(np.array([image_id]))[0] < fraction else self.LOW
        assert alone.tolist() == expected.array.tolist()

    @given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 1))
    def test_who_follows_the_dearer_one_still_does_when_there_is_more_money(
        self, image_ids: list[int], less: float, more: float
    ) -> None:
        less, more = sorted((less, more))
        ids = np.array(image_ids)
        before, after = (MixedPolicy(self.LOW, self.HIGH, each, 0.0).thresholds_for(ids)[:, 0] for each in (less, more))
        assert (before <= after).all()

    def test_fractions_are_even_and_below_one(self) -> None:
        fractions = hash_fraction(np.arange(20_000))
        assert fractions.min() >= 0
        assert fractions.max() < 1
        np.testing.assert_allclose(np.histogram(fractions, 10, (0, 1))[0], 2000, rtol=0.1)


def test_a_table_without_noise_is_labelled_as_well_as_its_best_exit_for_less() -> None:
    """Images that the first exit knows say so: nobody has to pay for the second but those who gain by it."""
    confidence = np.array([[0.9, 0.9], [0.3, 0.9]] * 200, np.float32)
    correct = np.array([[True, True], [False, True]] * 200)
    frontier = fit_frontier(make_table(confidence, correct, (GIGA, 3 * GIGA), ("a", "b")))
    best = frontier.at(frontier.maximum_gflops)
    assert best.accuracy == pytest.approx(1.0, abs=0.01)
    assert best.expected_gflops == pytest.approx((1 + 4) / 2, rel=0.05)
