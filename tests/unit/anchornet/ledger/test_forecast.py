"""The forecast: follows what rows cost, and knows that rows which were sent on are the hard ones."""

from __future__ import annotations

from functools import cache

import pytest

from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.ledger.forecast import Forecast
from benchmarks.tables import EXIT_MACS, synthetic_table


@cache
def frontier() -> Frontier:
    return fit_frontier(synthetic_table(3000, 0))


def forecast(stage_starts: tuple[int, ...] = (0,)) -> Forecast:
    return Forecast(frontier(), stage_starts)


def point_of(gflops: float) -> float:
    costs = frontier().costs_macs
    high = int((costs < gflops * 1e9).sum())
    return high - (costs[high] - gflops * 1e9) / (costs[high] - costs[high - 1])


@pytest.mark.parametrize("stage_starts", [(0,), (0, 1), (0, 2, 4)])
@pytest.mark.parametrize("gflops", [0.8, 1.1, 1.5])
def test_before_any_evidence_the_money_buys_what_was_calibrated(gflops: float, stage_starts: tuple[int, ...]) -> None:
    nothing = [0] * len(stage_starts)
    made = forecast(stage_starts)
    position = made.position(gflops * 1e9 * 10_000, [10_000, *nothing[1:]], nothing)
    assert position == pytest.approx(point_of(gflops), abs=0.02)


def test_rows_on_their_way_to_the_next_stage_are_paid_for() -> None:
    made = forecast((0, 1))
    made.granted(0, point_of(1.1), 1.0)
    money = 1.1e9 * 5000
    alone = made.position(money, [5000, 0], [0, 0])
    assert made.position(money, [5000, 500], [0, 0]) < alone
    assert made.position(money, [7000, 0], [2000, 0]) < alone
    assert made.position(money, [5000, 500], [0, 500]) == pytest.approx(alone, abs=0.02)  # those are paid from purses
    assert made.position(money, [5000, 0], [0, 500]) > alone  # so are 500 of those to come


def test_a_calibration_that_was_too_cheap_is_corrected() -> None:
    made, position = forecast(), point_of(1.1)
    before = made.row_macs(0, position)
    made.observe(0, position, 40_000, round(40_000 * 1.5 * before), 0)
    assert made.row_macs(0, position) == pytest.approx(1.5 * before, rel=0.01)
    assert made.position(1.1e9 * 1000, [1000], [0]) < position


def test_few_rows_change_little() -> None:
    made, position = forecast(), point_of(1.1)
    before = made.row_macs(0, position)
    made.observe(0, position, 40, round(40 * 2 * before), 0)
    assert made.row_macs(0, position) == pytest.approx(before * (400 + 80) / 440, rel=0.001)


def test_the_hardest_are_sent_on_and_a_dearer_policy_costs_more_for_them() -> None:
    """Of all images a part arrives; what a policy spends beyond the first exit, it spends on them."""
    made, few, many = forecast((0, 1)), point_of(0.9), point_of(1.4)
    made.granted(0, few, 1.0)
    hard = made.row_macs(1, many)
    made.granted(0, many, 1.0)
    mixed = made.row_macs(1, many)
    assert EXIT_MACS[1] < mixed < hard < sum(EXIT_MACS[1:])


def test_rows_to_come_are_those_that_are_sent_on() -> None:
    made = forecast((0, 1))
    share = frontier().describe(point_of(1.1)).exit_fractions
    assert made.waiting_rows(0, point_of(1.1), [1000, 7]) == 1000
    assert made.waiting_rows(1, point_of(1.1), [1000, 7]) == pytest.approx(1000 * (1 - share[0]) + 7, rel=0.01)
