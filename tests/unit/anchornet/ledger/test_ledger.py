"""The ledger's promise under random sequences of exchange, death and restart, and what it does at the edges."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.ledger.ledger import TAKEN_OVER, FileMark, Grant, Ledger, LedgerPlan, MemoryMark, Statement
from anchornet.ledger.mark import MarkState
from anchornet.ledger.purse import Draw, Purse
from benchmarks.replay import Fleet, Replay
from benchmarks.tables import EXIT_MACS, sparse, synthetic_table

NUM_EXITS = len(EXIT_MACS)


@cache
def table() -> ExitTable:
    return synthetic_table(3000, 0)


@cache
def frontier() -> Frontier:
    return fit_frontier(table())


@cache
def sparse_frontier() -> Frontier:
    return fit_frontier(sparse(table(), 0))


def plan(num_images: int = 1000, gflops: float = 1.1, **changes: object) -> LedgerPlan:
    values = {
        "budget_macs": round(gflops * 1e9 * num_images),
        "num_images": num_images,
        "exit_macs": EXIT_MACS,
        "stage_starts": (0,),
        "frontier": frontier(),
    }
    return LedgerPlan(**(values | changes))  # type: ignore[arg-type]


def copied(mark: MemoryMark) -> MemoryMark:
    """A mark of its own that begins where another one stands."""
    copy = MemoryMark()
    copy.content = mark.content
    return copy


def leaving(num_rows: int, exit_index: int = 0) -> list[int]:
    return [num_rows if k == exit_index else 0 for k in range(NUM_EXITS)]


def ask(ledger: Ledger, purse: Purse, num_rows: int, now_s: float = 0.0) -> Grant:
    """One exchange of a worker that wants ``num_rows`` rows."""
    grant = ledger.exchange(purse.statement(num_rows, now_s), now_s)
    purse.fill(grant)
    return grant


def compute(
    purse: Purse, image_ids: np.ndarray, spent_macs: int | None = None, counts: list[int] | None = None
) -> Draw:
    """A batch under the purse; by default every row leaves at the first exit."""
    draw = purse.draw(len(image_ids))
    spent = len(image_ids) * EXIT_MACS[0] if spent_macs is None else spent_macs
    purse.done(draw, image_ids, spent, counts or leaving(len(image_ids)))
    return draw


def worked(made: LedgerPlan, mark: MemoryMark, rows: int = 10) -> tuple[Ledger, Purse]:
    """A ledger, and a worker that computed the first ``rows`` images and stated it, wanting nothing."""
    ledger, purse = Ledger.open(made, mark), Purse(0, NUM_EXITS)
    ask(ledger, purse, rows)
    compute(purse, np.arange(rows))
    ask(ledger, purse, 0)
    return ledger, purse


class Job:
    """A job of random steps: what was really computed, against what the ledger believes."""

    def __init__(self, made: LedgerPlan, data: st.DataObject) -> None:
        self.plan, self.data, self.mark, self.now_s = made, data, MemoryMark(), 0.0
        self.ledger = Ledger.open(made, self.mark)
        self.spent = 0
        self.permitted: dict[Purse, int] = {}
        self.drawn: dict[Purse, tuple[Draw, np.ndarray]] = {}
        self.said: list[Statement] = []
        self.fresh = list(range(made.num_images))
        self.retries: list[tuple[int, np.ndarray]] = []

    def exchange(self) -> None:
        purse = self._purse()
        statement = purse.statement(self.data.draw(st.integers(0, 12)), self.now_s)
        if self.data.draw(st.integers(0, 4)) == 0:  # the answer is lost with the ledger, or with the first delivery
            self.ledger.exchange(statement, self.now_s)
            if self.data.draw(st.booleans()):
                self.restart()
        grant = self.ledger.exchange(statement, self.now_s)
        assert 0 <= grant.allowance_macs <= grant.num_rows * self.plan.stage_most_macs(purse.stage)
        purse.fill(grant)
        self.permitted[purse] = statement.kept_macs + grant.allowance_macs
        self.said.append(statement)

    def _purse(self) -> Purse:
        if not self.permitted or self.data.draw(st.integers(0, 3)) == 0:
            return Purse(self.data.draw(st.integers(0, len(self.plan.stage_starts) - 1)), NUM_EXITS)
        return self.data.draw(st.sampled_from(list(self.permitted)))

    def draw(self) -> None:
        free = [purse for purse in self.permitted if purse not in self.drawn]
        if not free:
            return
        purse, num_rows = self.data.draw(st.sampled_from(free)), self.data.draw(st.integers(1, 12))
        ids = self._rows(purse.stage, num_rows)
        if len(ids):
            self.drawn[purse] = (purse.draw(len(ids)), ids)

    def _rows(self, stage: int, num_rows: int) -> np.ndarray:
        for i, (where, _) in enumerate(self.retries):
            if where == stage:
                return self.retries.pop(i)[1]
        if stage:
            return np.zeros(0, np.int64)
        ids, self.fresh = np.array(self.fresh[:num_rows], np.int64), self.fresh[num_rows:]
        return ids

    def done(self) -> None:
        if not self.drawn:
            return
        purse = self.data.draw(st.sampled_from(list(self.drawn)))
        draw, ids = self.drawn.pop(purse)
        spent = self.data.draw(st.integers(0, draw.allowance_macs))
        self.spent += spent
        self.permitted[purse] -= spent
        going = self.data.draw(st.integers(0, len(ids))) if purse.stage + 1 < len(self.plan.stage_starts) else 0
        if going:
            self.retries.append((purse.stage + 1, ids[:going]))
        purse.done(draw, ids, spent, leaving(len(ids) - going, self.plan.stage_starts[purse.stage]))

    def die(self) -> None:
        """The worker computed anything up to what it held for its batch; nobody hears of it."""
        if self.permitted:
            purse = self.data.draw(st.sampled_from(list(self.permitted)))
            del self.permitted[purse]
            if purse in self.drawn:
                draw, ids = self.drawn.pop(purse)
                self.spent += self.data.draw(st.integers(0, draw.allowance_macs))
                self.retries.append((purse.stage, ids))

    def say_again(self) -> None:
        if self.said:
            self.ledger.exchange(self.data.draw(st.sampled_from(self.said)), self.now_s)

    def skip(self) -> None:
        ids, self.fresh = np.array(self.fresh[:2], np.int64), self.fresh[2:]
        self.ledger.skip(ids)

    def wait(self) -> None:
        self.now_s += self.data.draw(st.sampled_from([0.1, 5.0, 100.0]))

    def restart(self) -> None:
        self.ledger = Ledger.open(self.plan, self.mark, self.now_s)

    def step(self) -> None:
        steps = ["exchange", "exchange", "draw", "draw", "done", "done", "die", "say_again", "skip", "wait", "restart"]
        getattr(self, self.data.draw(st.sampled_from(steps)))()
        assert self.spent + sum(self.permitted.values()) <= self.ledger.charged_macs <= self.plan.budget_macs


@settings(max_examples=60)
@given(
    data=st.data(),
    num_images=st.integers(1, 80),
    above=st.floats(0.0, 1.5),
    stage_starts=st.sampled_from([(0,), (0, 1), (0, 2), (0, 1, 3)]),
    chunk=st.sampled_from([0.0, 0.001, 0.1]),
    costs_differ=st.booleans(),
)
def test_whatever_happens_no_more_than_the_budget_is_computed(
    data: st.DataObject,
    num_images: int,
    above: float,
    stage_starts: tuple[int, ...],
    chunk: float,
    costs_differ: bool,
) -> None:
    chosen = sparse_frontier() if costs_differ else frontier()
    made = plan(num_images, 5.0, stage_starts=stage_starts, chunk_fraction=chunk, frontier=chosen)
    job = Job(replace(made, budget_macs=int(made.minimum_macs * (1 + above))), data)
    for _ in range(data.draw(st.integers(0, 40))):
        job.step()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99),
    above=st.floats(0.0, 2.0),
    stage_starts=st.sampled_from([(0,), (0, 1)]),
    workers=st.integers(1, 8),
    rows=st.integers(1, 40),
    kill_every=st.sampled_from([0, 3, 11]),
)
def test_without_lost_work_every_image_gets_a_label(
    seed: int, above: float, stage_starts: tuple[int, ...], workers: int, rows: int, kill_every: int
) -> None:
    """Real confidences, real policies, any order of work; kills of the ledger included."""
    made = plan(200, 0.7898 * (1 + above), stage_starts=stage_starts)
    fleet = Fleet(num_workers=workers, batch_rows=rows, kill_every=kill_every, seed=seed)
    outcome = Replay(table(), np.random.default_rng(seed).integers(0, len(table()), 200), made, fleet).run()
    assert outcome.spent_macs <= made.budget_macs
    assert outcome.num_unlabelled == 0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), workers=st.integers(1, 6), rows=st.integers(4, 40))
def test_images_that_cost_less_than_the_dense_first_exit_are_labelled_below_its_cost(
    seed: int, workers: int, rows: int
) -> None:
    """The mean first exit costs 0.4 of the dense one; the budget buys 1.3 of the mean, about half of the dense."""
    made = plan(1000, 1.3 * 0.4 * EXIT_MACS[0] / 1e9, frontier=sparse_frontier())
    assert made.budget_macs < 1000 * EXIT_MACS[0]
    chosen = np.random.default_rng(seed).integers(0, len(table()), 1000)
    outcome = Replay(sparse(table(), 0), chosen, made, Fleet(num_workers=workers, batch_rows=rows, seed=seed)).run()
    assert outcome.spent_macs <= made.budget_macs
    assert outcome.num_unlabelled == 0


@pytest.mark.parametrize("stage_starts", [(0,), (0, 1)])
@pytest.mark.parametrize("gflops", [0.85, 1.1, 1.5])
def test_nearly_all_of_the_budget_is_used(gflops: float, stage_starts: tuple[int, ...]) -> None:
    made = plan(4000, gflops, stage_starts=stage_starts)
    rows = np.random.default_rng(0).integers(0, len(table()), 4000)
    outcome = Replay(table(), rows, made, Fleet(num_workers=4, batch_rows=16)).run()
    assert 0.98 * made.budget_macs <= outcome.spent_macs <= made.budget_macs


@pytest.mark.parametrize("stage_starts", [(0,), (0, 1)])
def test_a_job_that_loses_batches_still_labels_every_image(stage_starts: tuple[int, ...]) -> None:
    made = plan(6000, 1.1, stage_starts=stage_starts)
    rows = np.random.default_rng(0).integers(0, len(table()), 6000)
    fleet = Fleet(num_workers=8, batch_rows=16, death_probability=0.01, kill_every=180)
    outcome = Replay(table(), rows, made, fleet).run()
    assert outcome.spent_macs <= made.budget_macs
    assert (outcome.num_unlabelled, outcome.num_kills > 1) == (0, True)


def test_the_minimum_buys_exactly_the_first_exit_of_every_image() -> None:
    made = plan(100, 5.0, budget_macs=100 * EXIT_MACS[0])
    ledger, purse = Ledger.open(made, MemoryMark()), Purse(0, NUM_EXITS)
    for start in range(0, 100, 25):
        assert ask(ledger, purse, 25).num_rows >= 25
        assert compute(purse, np.arange(start, start + 25)).allowance_macs == 25 * EXIT_MACS[0]
    ask(ledger, purse, 0)
    assert ledger.charged_macs == made.budget_macs


def test_a_budget_below_the_first_exits_is_refused_with_the_minimum() -> None:
    with pytest.raises(ValueError, match=r"below the first exit of all 1000 images \(789.8\)"):
        plan(1000, 0.7)


def test_the_minimum_is_what_first_exits_are_expected_to_cost_and_a_margin() -> None:
    made = plan(1000, 0.5, frontier=sparse_frontier())
    mean = sparse_frontier().points[0].exit_spend_macs[0]
    assert mean < made.first_macs == pytest.approx(0.95 * mean + 0.05 * EXIT_MACS[0], rel=1e-6)
    assert plan().first_macs == EXIT_MACS[0]
    with pytest.raises(ValueError, match="below the first exit of all 1000 images"):
        plan(1000, mean / 1e9, frontier=sparse_frontier())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage_starts": (1, 2)}, "must begin with 0"),
        ({"stage_starts": (0, 5)}, "increase below 5"),
        ({"stage_starts": ()}, "must begin with 0"),
        ({"exit_macs": (1, 2)}, "frontier has 5 exits, the cascade has 2"),
        ({"exit_macs": ()}, "exit costs >= 0"),
        ({"num_images": -1}, "num_images >= 0"),
    ],
)
def test_plans_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**changes)  # type: ignore[arg-type]


def test_a_batch_that_comes_again_is_charged_twice_and_counted_once() -> None:
    ledger, _ = worked(plan(), MemoryMark())
    again = Purse(0, NUM_EXITS)
    ask(ledger, again, 10)
    compute(again, np.arange(10))
    ask(ledger, again, 0)
    assert ledger.charged_macs == 20 * EXIT_MACS[0]
    assert ledger.num_unseen == 990
    report = ledger.report()
    assert (report["repeated_rows"], report["repeated_macs"]) == (10, 10 * EXIT_MACS[0])
    assert report["exits_realised"] == leaving(10)


def test_a_statement_that_comes_twice_counts_once_and_is_answered_alike() -> None:
    ledger, purse = Ledger.open(plan(), MemoryMark()), Purse(0, NUM_EXITS)
    statement = purse.statement(10, 0.0)
    first = ledger.exchange(statement, 0.0)
    charged = ledger.charged_macs
    assert ledger.exchange(statement, 0.0) == first
    assert ledger.charged_macs == charged
    assert ledger.report()["num_repeated_statements"] == 1


def test_an_old_statement_is_answered_with_nothing() -> None:
    ledger, purse = Ledger.open(plan(), MemoryMark()), Purse(0, NUM_EXITS)
    old = purse.statement(10, 0.0)
    purse.fill(ledger.exchange(old, 0.0))
    ask(ledger, purse, 10)
    charged = ledger.charged_macs
    late = ledger.exchange(old, 0.0)
    assert (late.num_rows, late.allowance_macs, ledger.charged_macs) == (0, 0, charged)


def test_a_statement_is_answered_alike_by_the_ledger_that_comes_after() -> None:
    mark, purse = MemoryMark(), Purse(0, NUM_EXITS)
    statement = purse.statement(10, 0.0)
    first = Ledger.open(plan(chunk_fraction=0.0), mark).exchange(statement, 0.0)  # a mark for every grant
    restarted = Ledger.open(plan(chunk_fraction=0.0), mark)
    assert restarted.exchange(statement, 0.0) == first
    assert restarted.account.open_macs == first.allowance_macs


def test_more_than_allowed_is_charged_and_reported() -> None:
    ledger, purse = Ledger.open(plan(), MemoryMark()), Purse(0, NUM_EXITS)
    granted = ask(ledger, purse, 10).allowance_macs
    compute(purse, np.arange(10), granted + 7)
    with pytest.raises(RuntimeError, match="they are charged"):
        ask(ledger, purse, 10)
    assert ledger.charged_macs == granted + 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spent_macs": -1}, "spent and kept >= 0 and 5 counts"),
        ({"kept_macs": -1}, "spent and kept >= 0 and 5 counts"),
        ({"exit_counts": (1, 2)}, "spent and kept >= 0 and 5 counts"),
        ({"stage": 1}, r"stage must be in 0\.\.0, got 1"),
        ({"image_ids": np.array([-1])}, "image_id must be >= 0"),
    ],
)
def test_statements_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    statement = Purse(0, NUM_EXITS).statement(1, 0.0)._replace(**changes)
    with pytest.raises(ValueError, match=message):
        Ledger.open(plan(), MemoryMark()).exchange(statement, 0.0)


def test_a_worker_of_another_session_gets_nothing_back() -> None:
    mark, purse = MemoryMark(), Purse(0, NUM_EXITS)
    ask(Ledger.open(plan(session="a"), mark), purse, 10)
    resumed = Ledger.open(plan(session="b"), mark)
    charged = resumed.charged_macs
    with pytest.raises(RuntimeError, match="worker of session 'a' states to the ledger of session 'b'"):
        ask(resumed, purse, 10)
    assert resumed.charged_macs == charged


def test_who_comes_when_all_that_is_left_is_in_other_purses_waits_for_it() -> None:
    made = plan(10, 5.0, budget_macs=10 * EXIT_MACS[0])
    ledger, first, second = Ledger.open(made, MemoryMark()), Purse(0, NUM_EXITS), Purse(0, NUM_EXITS)
    ask(ledger, first, 10)
    answer = ask(ledger, second, 10)
    assert (answer.num_rows, answer.retry_s > 0) == (0, True)
    ask(ledger, first, 0)
    assert ask(ledger, second, 10).allowance_macs == made.budget_macs


@pytest.mark.parametrize(("above", "rows"), [(0.0, 10), (0.01, 10), (0.5, 62)])
def test_near_the_minimum_a_purse_is_a_batch(above: float, rows: int) -> None:
    """Else it is what the worker wants, at most a sixteenth of its share of all rows."""
    ledger = Ledger.open(plan(1000, EXIT_MACS[0] * (1 + above) / 1e9), MemoryMark())
    wanting = Purse(0, NUM_EXITS).statement(10, 0.0)._replace(wanted_rows=500)
    assert ledger.exchange(wanting, 0.0).num_rows == rows


@pytest.mark.parametrize(("above", "rows"), [(0.0, 0), (0.5, 10)])
def test_who_computes_gets_no_second_batch_when_nothing_is_free(above: float, rows: int) -> None:
    ledger, purse = Ledger.open(plan(1000, EXIT_MACS[0] * (1 + above) / 1e9), MemoryMark()), Purse(0, NUM_EXITS)
    ask(ledger, purse, 10)
    draw = purse.draw(10)
    assert ask(ledger, purse, 10).num_rows == rows
    purse.done(draw, np.arange(10), 10 * EXIT_MACS[0], leaving(10))
    assert ask(ledger, purse, 10).num_rows >= 10


def test_nobody_waits_for_the_dead() -> None:
    made = plan(10, 5.0, budget_macs=10 * EXIT_MACS[0])
    ledger, dead, alive = Ledger.open(made, MemoryMark()), Purse(0, NUM_EXITS), Purse(0, NUM_EXITS)
    ask(ledger, dead, 10)
    assert ask(ledger, alive, 10, now_s=1.0).num_rows == 0
    answer = ask(ledger, alive, 10, now_s=100.0)
    assert (answer.num_rows, answer.allowance_macs) == (10, 0)
    assert ledger.report()["lost_macs"] == ledger.charged_macs == made.budget_macs


def test_rows_of_the_dead_go_back_into_the_reserve() -> None:
    made = plan(1000, 1.1)
    ledger, dead, alive = Ledger.open(made, MemoryMark()), Purse(0, NUM_EXITS), Purse(0, NUM_EXITS)
    rows = ask(ledger, dead, 10).num_rows
    ask(ledger, alive, 10, now_s=100.0)
    ask(ledger, alive, 0, now_s=100.0)
    assert (ledger.account.promised_rows[0], ledger.num_unseen, rows >= 10) == (0, 1000, True)


def test_more_workers_state_less_often() -> None:
    ledger = Ledger.open(plan(1_000_000), MemoryMark())
    intervals = [ask(ledger, Purse(0, NUM_EXITS), 1).max_age_s for _ in range(2000)]
    assert intervals[0] == 2.0 < intervals[-1]


def test_purses_shrink_towards_the_end() -> None:
    def rows(num_images: int) -> int:
        purse = Purse(0, NUM_EXITS)
        statement = purse.statement(10, 0.0)._replace(wanted_rows=500)
        return Ledger.open(plan(num_images), MemoryMark()).exchange(statement, 0.0).num_rows

    assert [rows(100_000), rows(1_600), rows(20)] == [500, 100, 10]


def test_a_restarted_ledger_counts_all_it_may_have_granted() -> None:
    mark, purse = MemoryMark(), Purse(0, NUM_EXITS)
    ledger = Ledger.open(plan(), mark)
    ask(ledger, purse, 10)
    restarted = Ledger.open(plan(), mark)
    assert restarted.charged_macs >= ledger.charged_macs
    before, held = restarted.charged_macs, purse.left_macs
    compute(purse, np.arange(10))
    ask(restarted, purse, 0)
    assert restarted.num_unseen == 990
    assert restarted.charged_macs == before - (held - 10 * EXIT_MACS[0])


def test_a_new_session_remembers_the_spend_and_forgets_the_images() -> None:
    mark = MemoryMark()
    first, _ = worked(plan(session="a"), mark)
    first.close()
    resumed = Ledger.open(plan(num_images=995, budget_macs=plan().budget_macs, session="b"), mark)
    assert resumed.num_unseen == 995
    assert resumed.charged_macs == 10 * EXIT_MACS[0]
    assert resumed.account.num_open() == 0


def test_a_resume_that_cannot_label_everything_says_so(caplog: pytest.LogCaptureFixture) -> None:
    mark = MemoryMark()
    made = plan(10, 0.8, session="a")
    ask(Ledger.open(made, mark), Purse(0, NUM_EXITS), 10)
    with caplog.at_level(logging.WARNING):
        Ledger.open(replace(made, session="b"), mark)
    assert "does not cover the first exit of every image" in caplog.text


def test_a_ledger_that_was_replaced_stops_granting() -> None:
    mark = MemoryMark()
    ledger = Ledger.open(plan(chunk_fraction=0.0), mark)
    Ledger.open(plan(chunk_fraction=0.0), mark)
    statement = Purse(0, NUM_EXITS).statement(10, 0.0)
    for _ in range(2):  # nor when it is asked again
        with pytest.raises(RuntimeError, match=TAKEN_OVER):
            ledger.exchange(statement, 0.0)


def test_the_empty_mark_of_a_driver_is_a_fresh_start() -> None:
    mark = MemoryMark()
    mark.write(MarkState().to_bytes())
    ledger, _ = worked(plan(stage_starts=(0, 1)), mark)
    assert ledger.charged_macs == 10 * EXIT_MACS[0]
    assert ledger.report()["exits_realised"] == leaving(10)


def test_of_two_ledgers_that_were_opened_at_once_one_stops() -> None:
    class Stale(MemoryMark):
        def read(self) -> bytes | None:
            return None

    mark, stale = MemoryMark(), Stale()
    first = Ledger.open(plan(chunk_fraction=0.0), mark)
    Ledger.open(plan(chunk_fraction=0.0), stale)  # it read the mark before the first one wrote
    mark.content = stale.content
    with pytest.raises(RuntimeError, match="another ledger has taken over"):
        ask(first, Purse(0, NUM_EXITS), 10)


def test_a_closed_ledger_left_nothing_authorised_that_was_not_charged() -> None:
    mark = MemoryMark()
    ledger, _ = worked(plan(), mark)
    assert Ledger.open(plan(), copied(mark)).charged_macs > ledger.charged_macs
    ledger.close()
    assert Ledger.open(plan(), mark).charged_macs == ledger.charged_macs == 10 * EXIT_MACS[0]


def test_another_start_counts_its_own_exits() -> None:
    mark = MemoryMark()
    worked(plan(session="a"), mark)[0].close()
    assert Ledger.open(plan(session="a"), copied(mark)).report()["exits_realised"] == leaving(10)
    assert Ledger.open(plan(session="b"), mark).report()["exits_realised"] == leaving(0)


def test_a_damaged_mark_is_not_guessed_at() -> None:
    mark = MemoryMark()
    mark.write(b'{"authorised_macs": 12')
    with pytest.raises(RuntimeError, match="cannot be read"):
        Ledger.open(plan(), mark)
    mark.write(MarkState(authorised_macs=-1, epoch=2).to_bytes())
    with pytest.raises(RuntimeError, match=r"cannot be read \(authorised_macs -1, epoch 2\)"):
        Ledger.open(plan(), mark)


def test_the_mark_lies_in_a_file(tmp_path: Path) -> None:
    mark = FileMark(str(tmp_path / "run" / "ledger.json"))
    ledger, purse = Ledger.open(plan(), mark), Purse(0, NUM_EXITS)
    ask(ledger, purse, 10)
    compute(purse, np.arange(10))
    ask(ledger, purse, 0)
    ledger.close()
    assert Ledger.open(plan(), mark).num_unseen == 990


def test_the_mark_is_written_rarely() -> None:
    ledger, purse = Ledger.open(plan(20_000, chunk_fraction=0.01), MemoryMark()), Purse(0, NUM_EXITS)
    for start in range(0, 20_000, 10):
        ask(ledger, purse, 10, now_s=float(start))
        compute(purse, np.arange(start, start + 10), min(purse.left_macs, 11_000_000_000), leaving(10, 1))
    assert ledger.report()["num_mark_writes"] < 500


def test_unreadable_images_free_their_reserve() -> None:
    ledger = Ledger.open(plan(100, 0.8), MemoryMark())
    ledger.skip(np.arange(50))
    assert ledger.num_unseen == 50
    assert ask(ledger, Purse(0, NUM_EXITS), 25).policy.expected_gflops > 1.0


def test_the_fixed_mode_keeps_its_policy_and_has_no_bound() -> None:
    chosen = frontier().at(1.2)
    ledger, purse = Ledger.open(plan(100, 1.2, fixed_policy=chosen), MemoryMark()), Purse(0, NUM_EXITS)
    for start in range(0, 100, 20):
        assert ask(ledger, purse, 20).policy is chosen
        compute(purse, np.arange(start, start + 20), 20 * sum(EXIT_MACS), leaving(20, 4))
    ask(ledger, purse, 0)
    report = ledger.report()
    assert report["spent_macs"] == 100 * sum(EXIT_MACS) > report["asked_macs"]
    assert report["mode"] == "fixed"


def test_the_report_is_json_and_complete() -> None:
    ledger, purse = Ledger.open(plan(stage_starts=(0, 1)), MemoryMark()), Purse(0, NUM_EXITS)
    ask(ledger, purse, 10)
    draw = purse.draw(10)
    purse.done(draw, np.arange(10), 10 * EXIT_MACS[0], leaving(6), num_failed=1, compute_s=0.5)
    ask(ledger, purse, 0)
    report = json.loads(json.dumps(ledger.report()))
    assert report["spent_macs"] == 10 * EXIT_MACS[0]
    assert (report["open_macs"], report["lost_macs"], report["restart_macs"], report["num_open"]) == (0, 0, 0, 0)
    assert report["planned_macs"] == pytest.approx(report["asked_macs"], rel=1e-6)
    assert sum(report["exits_planned"]) == pytest.approx(1.0)
    assert report["exits_realised"] == leaving(6)
    assert (report["stage_rows"], report["stage_compute_s"]) == ([10, 0], [0.5, 0.0])
    assert report["policy_over_time"][0][0] == 0


def test_what_a_dead_ledger_left_unaccounted_is_reported() -> None:
    mark = MemoryMark()
    worked(plan(), mark)
    report = Ledger.open(plan(), mark).report()
    assert report["restart_macs"] == report["spent_macs"] - 10 * EXIT_MACS[0] > 0


def test_the_policy_over_time_stays_short() -> None:
    ledger, purse = Ledger.open(plan(1500), MemoryMark()), Purse(0, NUM_EXITS)
    for image in range(1500):
        ask(ledger, purse, 1)
        compute(purse, np.array([image]))
    moments = ledger.report()["policy_over_time"]
    assert 60 < len(moments) <= 256
    assert [seen for seen, _ in moments] == sorted(seen for seen, _ in moments)
