"""Steering: follows what is seen when the order is random, keeps to the plan when the input is sorted."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.ledger.allowance import Purse, Wish
from anchornet.ledger.steering import StageResult, Steering
from benchmarks.tables import EXIT_MACS, synthetic_table


@cache
def frontier() -> Frontier:
    return fit_frontier(synthetic_table(3000, 0))


def steering(stage_starts: tuple[int, ...] = (0,)) -> Steering:
    return Steering(frontier(), stage_starts, num_images=10_000)


def point_of(gflops: float) -> float:
    return float(np.interp(gflops * 1e9, frontier().costs_macs, np.arange(len(frontier().points))))


@pytest.mark.parametrize("stage_starts", [(0,), (0, 1), (0, 2, 4)])
@pytest.mark.parametrize("gflops", [0.8, 1.1, 1.5])
def test_before_any_evidence_the_money_buys_what_was_calibrated(gflops: float, stage_starts: tuple[int, ...]) -> None:
    nothing = [0] * len(stage_starts)
    position = steering(stage_starts).position(gflops * 1e9 * 10_000, [10_000, *nothing[1:]], nothing, 0.0)
    assert position == pytest.approx(point_of(gflops), abs=0.02)


def test_rows_on_their_way_to_the_next_stage_are_paid_for() -> None:
    made = steering((0, 1))
    money = 1.1e9 * 5000
    alone = made.position(money, [5000, 0], [0, 0], 0.5)
    assert made.position(money, [5000, 500], [0, 0], 0.5) < alone
    assert made.position(money, [5000, 0], [2000, 0], 0.5) < alone


def run(made: Steering, position: float, shares: np.ndarray, rows: int = 64) -> None:
    """Batches of which ``shares`` go on past the first exit, to the second only."""
    for share in shares:
        passed = round(rows * float(share))
        spent = rows * EXIT_MACS[0] + passed * EXIT_MACS[1]
        made.observe(0, position, StageResult(rows, spent, passed, 0, cut_short=False))


def test_a_calibration_that_was_too_cheap_is_corrected() -> None:
    made, position = steering(), point_of(1.1)
    run(made, position, 0.6 + 0.05 * np.random.default_rng(0).standard_normal(100))
    assert made.cost_drift[0].excess_variance() == pytest.approx(0.0, abs=0.01)
    made.position(0.0, [3600], [0], 0.64)
    assert made.outlook(0, position).cost_macs == pytest.approx(EXIT_MACS[0] + 0.6 * EXIT_MACS[1], rel=0.05)


def test_sorted_input_is_noticed_and_the_plan_is_kept() -> None:
    """Hard images first: nothing but passing rows. Believing them would starve them and leave money over."""
    made, position = steering(), point_of(1.1)
    run(made, position, np.full(20, 1.0))
    spent = 20 * 64 * (EXIT_MACS[0] + EXIT_MACS[1])
    found = made.position(1.1e9 * 10_000 - spent, [10_000 - 1280], [0], 0.128)
    assert found > point_of(1.0)


def purse(**changes: int) -> Purse:
    return Purse(left_macs=10_000, contingency_macs=100, num_open=3, waiting=500, computing=40)._replace(**changes)


def wish(**changes: float) -> Wish:
    return Wish(num_rows=10, owed=50, most=400, expected=80.0, spread=20.0)._replace(**changes)


def test_an_allowance_has_room_for_chance() -> None:
    assert 80 < purse().grant(wish(), 1.0) <= 80 + 4 * 20


def test_an_eager_stage_gets_more_and_never_more_than_it_can_spend() -> None:
    assert purse().grant(wish(), 8.0) > purse().grant(wish(), 1.0)
    assert purse(num_open=0).grant(wish(), 64.0) == 400


def test_without_money_only_what_is_owed_is_granted() -> None:
    assert purse(left_macs=60, contingency_macs=60).grant(wish(), 1.0) == 50
    assert purse(left_macs=30).grant(wish(), 1.0) == 30
    assert purse(left_macs=-5).grant(wish(), 1.0) == 0


def test_the_last_batch_may_take_everything() -> None:
    assert purse(left_macs=300, contingency_macs=0, waiting=0, num_open=9).grant(wish(spread=200.0), 1.0) == 300


def test_with_many_open_leases_a_batch_gets_no_more_than_its_even_share() -> None:
    few, many = (purse(num_open=count, left_macs=5_000).grant(wish(spread=100.0), 1.0) for count in (0, 10_000))
    even = 50 + (5_000 - 100 - 50) * 10 / 510
    assert many == pytest.approx(even, abs=1) and few > 2 * many
