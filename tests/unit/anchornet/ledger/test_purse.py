"""A purse: gives each batch what is left without touching the others' first exits, and states what became of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.budget.policy import MixedPolicy, Policy
from anchornet.ledger.purse import Grant, Purse

POLICY = Policy((0.5, float("-inf")))


def grant(num_rows: int = 40, allowance_macs: int = 4_000, **changes: object) -> Grant:
    """First exits cost 10 of at most 20 in the mean, a row at most 100."""
    made = Grant(
        policy=MixedPolicy(POLICY, POLICY, 0.0, 1.0),
        position=3.0,
        num_rows=num_rows,
        allowance_macs=allowance_macs,
        retry_s=0.0,
        max_age_s=2.0,
        first_macs=10,
        dense_macs=20,
        most_macs=100,
        session="s",
    )
    return made._replace(**changes)


def filled(given: Grant) -> Purse:
    purse = Purse(0, 2)
    purse.statement(8, 0.0)
    purse.fill(given)
    return purse


@pytest.mark.parametrize(
    ("given", "allowance"),
    [
        (grant(40, 1_000), 8 * 1_000 // 40),
        (grant(40, 440), 440 - 32 * 10),  # its first exits may cost 160, but 320 are set aside for the others'
        (grant(40, 600), 8 * 20),  # an even share is 120, its first exits may cost 160
        (grant(8, 1_000), 8 * 100),  # more than that no batch can cost
        (grant(8, 0), 0),
    ],
)
def test_a_batch_may_take_its_even_share_but_not_the_first_exits_of_the_others(given: Grant, allowance: int) -> None:
    assert filled(given).draw(8).allowance_macs == allowance


def test_what_a_batch_did_not_need_is_in_the_purse_again() -> None:
    purse = filled(grant(40, 1_000))
    purse.done(purse.draw(8), np.arange(8), 150, (8, 0))
    assert (purse.left_macs, purse.left_rows) == (850, 32)


def test_a_statement_says_what_was_done_and_hands_back_all_but_what_is_computing() -> None:
    purse = filled(grant(40, 1_000))
    purse.done(purse.draw(8), np.arange(8), 150, (5, 1), num_failed=1, compute_s=0.5)
    held = purse.draw(8).allowance_macs
    stated = purse.statement(8, 1.0)
    assert (stated.number, stated.session, stated.stage) == (2, "s", 0)
    assert (stated.purse_macs, stated.spent_macs, stated.kept_macs, stated.kept_rows) == (1_000, 150, held, 8)
    assert stated.image_ids.tolist() == list(range(8))
    assert (stated.exit_counts, stated.num_failed, stated.position, stated.compute_s) == ((5, 1), 1, 3.0, 0.5)
    assert stated.wanted_rows == 16  # 8 rows in a second, statements every two seconds
    assert (purse.left_macs, purse.left_rows) == (0, 0)
    again = purse.statement(0, 2.0)
    assert (again.purse_macs, again.spent_macs, len(again.image_ids)) == (held, 0, 0)


@pytest.mark.parametrize(
    ("given", "num_rows", "now_s", "needs"),
    [
        (grant(40, 4_000), 8, 1.0, False),
        (grant(40, 4_000), 41, 1.0, True),
        (grant(40, 4_000), 8, 3.0, True),
        (grant(40, 479), 8, 1.0, True),  # its first exits may cost 80 more than is set aside for them
        (grant(40, 480), 8, 1.0, False),
    ],
)
def test_more_is_needed_when_rows_time_or_money_run_out(given: Grant, num_rows: int, now_s: float, needs: bool) -> None:
    assert filled(given).needs_grant(num_rows, now_s) is needs


def test_only_a_purse_that_computes_nothing_is_idle() -> None:
    assert not Purse(0, 2).is_idle
    purse = filled(grant())
    assert purse.is_idle
    draw = purse.draw(8)
    assert not purse.is_idle
    purse.done(draw, np.arange(8), 1, (8, 0))
    assert purse.is_idle
    purse.statement(0, 1.0)
    assert not purse.is_idle


@given(data=st.data())
def test_nothing_is_lost_and_no_more_is_drawn_than_was_granted(data: st.DataObject) -> None:
    """Whatever the order of draws, ends and statements: granted = stated as spent + handed back + still there."""
    purse, granted, spent, back, draw = Purse(0, 2), 0, 0, 0, None
    for _ in range(data.draw(st.integers(1, 30))):
        rows = data.draw(st.integers(1, 12))
        if draw is None and purse.grant is not None and data.draw(st.booleans()):
            draw = (purse.draw(rows), rows)
            assert 0 <= draw[0].allowance_macs <= 100 * rows
        elif draw is not None and data.draw(st.booleans()):
            cost = data.draw(st.integers(0, draw[0].allowance_macs))
            purse.done(draw[0], np.arange(draw[1]), cost, (draw[1], 0))
            draw = None
        else:
            stated = purse.statement(rows, 0.0)
            assert stated.purse_macs == granted - spent - back
            spent += stated.spent_macs
            back += stated.purse_macs - stated.spent_macs - stated.kept_macs
            more = data.draw(st.integers(0, 2_000))
            granted += more
            purse.fill(grant(data.draw(st.integers(1, 40)), more))
        assert purse.left_macs >= 0
