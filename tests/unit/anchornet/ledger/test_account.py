"""The account: charged covers everything computed and everything permitted, whatever is said, lost or said twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.ledger.account import Account, Offer
from anchornet.ledger.purse import Statement


def statement(worker: bytes = b"a", number: int = 1, **changes: object) -> Statement:
    made = Statement(
        worker=worker,
        number=number,
        session="",
        stage=0,
        purse_macs=0,
        spent_macs=0,
        kept_macs=0,
        kept_rows=0,
        batch_rows=4,
        wanted_rows=4,
        image_ids=np.zeros(0, np.int64),
        exit_counts=(0,),
        num_failed=0,
        position=0.0,
        compute_s=0.0,
    )
    return made._replace(**changes)


def offer(macs: int) -> Offer:
    return Offer(num_rows=4, macs=macs, room_macs=macs // 3, position=0.0)


def test_what_comes_back_is_free_again() -> None:
    account = Account(100)
    assert account.settle(statement(), 0.0)
    account.grant(b"a", offer(60), 0.0)
    assert (account.charged_macs, account.left_macs(), account.open_macs) == (60, 40, 60)
    account.settle(statement(number=2, purse_macs=60, spent_macs=20, kept_macs=10, kept_rows=2), 1.0)
    assert (account.charged_macs, account.open_macs, account.promised_rows[0]) == (30, 10, 2)


def test_a_statement_that_comes_twice_counts_once() -> None:
    account = Account(100)
    account.settle(statement(), 0.0)
    account.grant(b"a", offer(60), 0.0)
    said = statement(number=2, purse_macs=60, spent_macs=20)
    assert [account.settle(said, 1.0), account.settle(said, 1.0)] == [True, False]
    assert account.charged_macs == 20


def test_more_than_the_purse_held_is_charged_and_refused() -> None:
    account = Account(100)
    account.settle(statement(), 0.0)
    account.grant(b"a", offer(60), 0.0)
    with pytest.raises(RuntimeError, match="computed 67 multiply-adds, its purse held 60; they are charged"):
        account.settle(statement(number=2, purse_macs=60, spent_macs=67), 1.0)
    assert account.charged_macs == 67


def test_the_silent_are_taken_for_dead_and_may_come_back() -> None:
    account = Account(100)
    for worker, heard_s in ((b"a", 0.0), (b"b", 5.0)):
        account.settle(statement(worker), heard_s)
        account.grant(worker, offer(30), heard_s)
    assert (account.num_open(), account.num_open(0), account.num_open(1)) == (2, 2, 0)
    assert account.silence_s(b"a", 6.0) == 6.0
    account.give_up(5.0)
    assert (account.open_macs, account.lost_macs, account.promised_rows[0]) == (30, 30, 4)
    assert account.charged_macs == 60
    account.settle(statement(b"a", 2, purse_macs=30, spent_macs=5), 9.0)
    assert (account.charged_macs, account.lost_macs) == (35, 0)


def test_without_a_budget_everything_is_counted_and_nothing_refused() -> None:
    account = Account(None)
    account.settle(statement(), 0.0)
    account.grant(b"a", offer(10**15), 0.0)
    assert account.charged_macs == 10**15 and account.left_macs() > 10**18


@given(data=st.data())
def test_charged_is_all_that_was_computed_and_all_that_is_permitted(data: st.DataObject) -> None:
    """Workers that do as their purses say, die, and repeat themselves."""
    budget = data.draw(st.integers(0, 1_000))
    account, computed = Account(budget), 0
    purses = {bytes([i]): (0, 0) for i in range(3)}  # worker -> (statements made, multiply-adds in its purse)
    for _ in range(data.draw(st.integers(0, 30))):
        worker = data.draw(st.sampled_from(sorted(purses)))
        number, held = purses[worker]
        if data.draw(st.integers(0, 5)) == 0:  # dies, having computed anything up to its purse
            computed += data.draw(st.integers(0, held))
            del purses[worker]
            purses[bytes([len(account.purses) + 100])] = (0, 0)
            continue
        spent = data.draw(st.integers(0, held))
        kept = data.draw(st.integers(0, held - spent))
        computed += spent
        said = statement(worker, number + 1, purse_macs=held, spent_macs=spent, kept_macs=kept)
        assert account.settle(said, 0.0)
        more = data.draw(st.integers(0, account.left_macs()))
        account.grant(worker, offer(more), 0.0)
        if data.draw(st.booleans()):
            assert not account.settle(said, 0.0)
        if data.draw(st.booleans()):
            account.give_up(1.0)
        purses[worker] = (number + 1, kept + more)
        assert computed + sum(held for _, held in purses.values()) <= account.charged_macs <= budget
        assert account.open_macs + account.lost_macs == sum(purse.open_macs for purse in account.purses.values())
