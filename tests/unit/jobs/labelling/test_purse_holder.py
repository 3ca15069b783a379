"""An actor's hold on its purse, with a ledger that lies in the same process and a clock that a test turns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from anchornet.budget.policy import MixedPolicy, Policy
from anchornet.ledger.purse import Grant, Statement
from jobs.labelling import purse_holder
from jobs.labelling.purse_holder import PurseHolder

INF = float("inf")
POLICY = MixedPolicy(Policy((0.5, -INF)), Policy((0.9, -INF)), 0.5, expected_macs=150.0)
MAX_AGE_S = 8.0
IDLE_S = 0.25 * MAX_AGE_S


def a_grant(num_rows: int, allowance_macs: int = 0, retry_s: float = 0.0) -> Grant:
    """Permission for so many rows of which each costs 100, or 300 if it does not leave at the first exit."""
    return Grant(
        policy=POLICY,
        position=0.5,
        num_rows=num_rows,
        allowance_macs=allowance_macs or 300 * num_rows,
        retry_s=retry_s,
        max_age_s=MAX_AGE_S,
        first_macs=100,
        dense_macs=100,
        most_macs=300,
        session="s",
    )


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.now_s += duration_s


class Ledger:
    """Hears every statement and answers with the grants it was given, the last one again and again."""

    def __init__(self, *grants: Grant) -> None:
        self.heard: list[Statement] = []
        self._grants = list(grants)
        self.exchange = SimpleNamespace(remote=self._exchange)

    def _exchange(self, statement: Statement) -> Grant:
        self.heard.append(statement)
        if not statement.batch_rows:
            return a_grant(0)
        return self._grants.pop(0) if len(self._grants) > 1 else self._grants[0]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock for the holder; nobody watches idle purses but the test."""
    clock = Clock()
    monkeypatch.setattr(purse_holder, "time", clock)
    monkeypatch.setattr(purse_holder, "_watch", lambda holder_of: None)
    monkeypatch.setattr(purse_holder, "answer", lambda reference, timeout_s=None: reference)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    return clock


def compute(holder: PurseHolder, ids: Sequence[int], spent_macs: int = 0) -> None:
    """A batch from permission to account: everybody leaves at the first exit unless more is spent."""
    draw = holder.draw(len(ids))
    spent = spent_macs or 100 * len(ids)
    assert spent <= draw.allowance_macs
    holder.done(draw, np.array(ids), spent, (len(ids), 0), 0, 0.5)


def test_many_batches_are_drawn_from_one_grant(clock: Clock) -> None:
    ledger = Ledger(a_grant(8))
    holder = PurseHolder(ledger, 0, 2)
    for start in (0, 2, 4, 6):
        holder.prepare(2)
        compute(holder, [start, start + 1])
    assert [statement.batch_rows for statement in ledger.heard] == [2]


def test_an_empty_purse_states_what_was_done_and_is_filled_again(clock: Clock) -> None:
    ledger = Ledger(a_grant(2))
    holder = PurseHolder(ledger, 1, 2)
    compute(holder, [4, 7], spent_macs=500)
    holder.prepare(2)
    first, second = ledger.heard
    assert (first.number, first.stage, first.spent_macs) == (1, 1, 0)
    assert (second.number, second.spent_macs, second.purse_macs, second.kept_macs) == (2, 500, 600, 0)
    assert second.image_ids.tolist() == [4, 7]
    assert (second.exit_counts, second.num_failed, second.compute_s) == ((2, 0), 0, 0.5)
    compute(holder, [8, 9])
    assert len(ledger.heard) == 2  # what was prepared is there


def test_while_a_batch_computes_the_next_one_is_prepared_without_its_money(clock: Clock) -> None:
    ledger = Ledger(a_grant(2))
    holder = PurseHolder(ledger, 0, 2)
    holder.prepare(2)
    draw = holder.draw(2)
    holder.prepare(2)
    assert (ledger.heard[1].kept_rows, ledger.heard[1].kept_macs) == (2, draw.allowance_macs)
    holder.done(draw, np.arange(2), 200, (2, 0), 0, 0.5)
    compute(holder, [2, 3])
    assert len(ledger.heard) == 2


def test_an_old_purse_is_stated_although_there_is_money_left(clock: Clock) -> None:
    ledger = Ledger(a_grant(100))
    holder = PurseHolder(ledger, 0, 2)
    compute(holder, [0, 1])
    clock.now_s += MAX_AGE_S
    holder.prepare(2)
    assert len(ledger.heard) == 1
    clock.now_s += 0.1
    holder.prepare(2)
    assert len(ledger.heard) == 2


def test_money_that_others_hold_is_waited_for_when_it_is_needed_and_not_before(clock: Clock) -> None:
    nothing = a_grant(0, retry_s=0.75)
    ledger = Ledger(nothing, nothing, a_grant(2))
    holder = PurseHolder(ledger, 0, 2)
    holder.prepare(2)
    assert clock.slept == []  # what is computed meanwhile may be what frees the money
    assert holder.draw(2).allowance_macs > 0
    assert clock.slept == [0.75]
    assert [statement.batch_rows for statement in ledger.heard] == [2, 2, 2]


@pytest.mark.parametrize(("waited_s", "given_back"), [(IDLE_S - 0.1, False), (IDLE_S, True)])
def test_an_idle_purse_goes_back_when_nobody_used_it_for_long_enough(
    clock: Clock, waited_s: float, given_back: bool
) -> None:
    ledger = Ledger(a_grant(8))
    holder = PurseHolder(ledger, 0, 2)
    compute(holder, [0, 1])
    clock.now_s += IDLE_S - 0.1
    compute(holder, [2, 3])  # what counts is the last use, not the last grant
    clock.now_s += waited_s
    holder.give_back(now=False)
    assert (len(ledger.heard) == 2) is given_back
    if given_back:
        assert (ledger.heard[1].batch_rows, ledger.heard[1].kept_macs, ledger.heard[1].spent_macs) == (0, 0, 400)


def test_a_purse_that_computes_is_not_idle(clock: Clock) -> None:
    ledger = Ledger(a_grant(8))
    holder = PurseHolder(ledger, 0, 2)
    draw = holder.draw(2)
    clock.now_s += 100 * IDLE_S
    holder.give_back(now=False)
    holder.give_back(now=True)
    assert len(ledger.heard) == 1
    holder.done(draw, np.arange(2), 200, (2, 0), 0, 0.5)


def test_an_empty_purse_is_not_given_back_twice(clock: Clock) -> None:
    ledger = Ledger(a_grant(8))
    holder = PurseHolder(ledger, 0, 2)
    holder.give_back(now=True)
    assert not ledger.heard
    compute(holder, [0, 1])
    holder.give_back(now=True)
    holder.give_back(now=True)
    assert [statement.batch_rows for statement in ledger.heard] == [2, 0]


def test_an_actor_that_ends_gives_back_what_it_has(clock: Clock) -> None:
    ledger = Ledger(a_grant(8))
    holder = PurseHolder(ledger, 0, 2)
    compute(holder, [0, 1])
    holder.__del__()
    assert ledger.heard[-1].spent_macs == 200


def test_an_actor_that_ends_without_its_ledger_ends_all_the_same(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    holder = PurseHolder(Ledger(a_grant(8)), 0, 2)
    compute(holder, [0, 1])

    def dead(reference: object, timeout_s: float | None = None) -> Any:
        raise ray.exceptions.RayActorError

    monkeypatch.setattr(purse_holder, "answer", dead)
    holder.__del__()
    assert "purse not given back" in caplog.text


def test_a_holder_that_outlives_ray_asks_nobody(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(a_grant(8))
    holder = PurseHolder(ledger, 0, 2)
    compute(holder, [0, 1])
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    holder.__del__()
    assert [statement.batch_rows for statement in ledger.heard] == [2]


class TestWatch:
    """The thread that looks at an idle purse, turn by turn."""

    class Holder:
        def __init__(self, error: Exception | None = None) -> None:
            self.turns = 0
            self.error = error

        def give_back(self, *, now: bool) -> None:
            assert not now
            self.turns += 1
            if self.error:
                raise self.error

    @staticmethod
    def watch(monkeypatch: pytest.MonkeyPatch, holder: Holder, turns: int) -> None:
        """Let the thread's loop run for so many turns, after which the holder is gone."""
        seen = iter([holder] * turns)
        monkeypatch.setattr(purse_holder, "time", Clock())
        purse_holder._watch(lambda: next(seen, None))  # type: ignore[arg-type,return-value]

    def test_it_ends_with_its_holder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holder = self.Holder()
        self.watch(monkeypatch, holder, 3)
        assert holder.turns == 3

    def test_a_ledger_that_does_not_answer_is_asked_again(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        holder = self.Holder(ray.exceptions.RayActorError())
        self.watch(monkeypatch, holder, 2)
        assert holder.turns == 2
        assert caplog.messages == ["an idle purse was not given back (RayActorError)"] * 2
