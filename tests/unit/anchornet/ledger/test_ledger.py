"""The ledger's promise under random sequences of lease, settle, die and restart, and what it does at the edges."""

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
from anchornet.ledger.ledger import FileMark, Lease, Ledger, LedgerPlan, MemoryMark
from anchornet.ledger.mark import MarkState
from benchmarks.replay import Fleet, Replay
from benchmarks.tables import EXIT_MACS, synthetic_table

NUM_EXITS = len(EXIT_MACS)


@cache
def table() -> ExitTable:
    return synthetic_table(3000, 0)


@cache
def frontier() -> Frontier:
    return fit_frontier(table())


def plan(num_images: int = 1000, gflops: float = 1.1, **changes: object) -> LedgerPlan:
    budget = round(gflops * 1e9 * num_images)
    made = LedgerPlan(
        budget_macs=budget, num_images=num_images, exit_macs=EXIT_MACS, stage_starts=(0,), frontier=frontier()
    )
    return replace(made, **changes)


class MemoryMarkCopy(MemoryMark):
    """A mark of its own that begins where another one stands."""

    def __init__(self, mark: MemoryMark) -> None:
        super().__init__()
        self.content = mark.content


def leaving(num_rows: int, exit_index: int = 0) -> list[int]:
    return [num_rows if k == exit_index else 0 for k in range(NUM_EXITS)]


class Job:
    """A job of random steps: what was really computed, against what the ledger believes."""

    def __init__(self, made: LedgerPlan, data: st.DataObject) -> None:
        self.plan, self.data, self.mark = made, data, MemoryMark()
        self.ledger = Ledger.open(made, self.mark)
        self.spent = 0
        self.lost = False
        self.working: list[tuple[Lease, int, np.ndarray]] = []
        self.old: list[tuple[Lease, int]] = []
        self.fresh = list(range(made.num_images))
        self.retries: list[tuple[int, np.ndarray]] = []

    def lease(self) -> None:
        num_rows = self.data.draw(st.integers(1, 12))
        ids, self.fresh = np.array(self.fresh[:num_rows], np.int64), self.fresh[num_rows:]
        if len(ids):
            lease = self._grant(0, ids)
            if not self.lost:
                assert lease.allowance_macs >= len(ids) * self.plan.exit_macs[0]

    def retry(self) -> None:
        if self.retries:
            self._grant(*self.retries.pop())

    def _grant(self, stage: int, ids: np.ndarray) -> Lease:
        lease = self.ledger.lease(stage, ids)
        assert 0 <= lease.allowance_macs <= len(ids) * self.plan.stage_most_macs(stage)
        self.working.append((lease, stage, ids))
        return lease

    def settle(self) -> None:
        if not self.working:
            return
        lease, stage, ids = self.working.pop(self.data.draw(st.integers(0, len(self.working) - 1)))
        spent = self.data.draw(st.integers(0, lease.allowance_macs))
        self.spent += spent
        going = 0
        if stage + 1 < len(self.plan.stage_starts):
            going = self.data.draw(st.integers(0, len(ids)))
            if going:
                self.retries.append((stage + 1, ids[:going]))
        counts = [0] * len(self.plan.exit_macs)
        counts[self.plan.stage_starts[stage]] = len(ids) - going
        self.ledger.settle(lease.lease_id, spent, counts)
        self.old.append((lease, spent))

    def die(self) -> None:
        """The worker computed anything up to its allowance; nobody hears of it."""
        if self.working:
            lease, stage, ids = self.working.pop()
            self.spent += self.data.draw(st.integers(0, lease.allowance_macs))
            self.retries.append((stage, ids))
            self.lost = True

    def settle_again(self) -> None:
        if self.old:
            lease, spent = self.data.draw(st.sampled_from(self.old))
            self.ledger.settle(lease.lease_id, spent, [0] * len(self.plan.exit_macs))

    def restart(self) -> None:
        self.ledger = Ledger.open(self.plan, self.mark)

    def step(self) -> None:
        steps = ["lease", "lease", "settle", "settle", "retry", "die", "settle_again", "restart"]
        getattr(self, self.data.draw(st.sampled_from(steps)))()
        computing = sum(lease.allowance_macs for lease, _, _ in self.working)
        assert self.spent + computing <= self.plan.budget_macs
        assert self.spent <= self.ledger.charged_macs <= self.plan.budget_macs


@given(
    data=st.data(),
    num_images=st.integers(1, 80),
    above=st.floats(0.0, 1.5),
    stage_starts=st.sampled_from([(0,), (0, 1), (0, 2), (0, 1, 3)]),
    chunk=st.sampled_from([0.0, 0.001, 0.1]),
)
def test_whatever_happens_no_more_than_the_budget_is_computed(
    data: st.DataObject, num_images: int, above: float, stage_starts: tuple[int, ...], chunk: float
) -> None:
    minimum = num_images * EXIT_MACS[0]
    made = plan(
        num_images, 5.0, budget_macs=int(minimum * (1 + above)), stage_starts=stage_starts, chunk_fraction=chunk
    )
    job = Job(made, data)
    for _ in range(data.draw(st.integers(0, 40))):
        job.step()


@settings(max_examples=25)
@given(
    seed=st.integers(0, 99),
    gflops=st.floats(0.7899, 2.5),
    stage_starts=st.sampled_from([(0,), (0, 1)]),
    workers=st.integers(1, 12),
    rows=st.integers(1, 40),
    kill_every=st.sampled_from([0, 3, 11]),
)
def test_without_lost_work_every_image_gets_a_label(
    seed: int, gflops: float, stage_starts: tuple[int, ...], workers: int, rows: int, kill_every: int
) -> None:
    """Real confidences, real policies, any order of settlement; kills of the ledger included."""
    made = plan(200, gflops, stage_starts=stage_starts)
    fleet = Fleet(num_workers=workers, batch_rows=rows, kill_every=kill_every, seed=seed)
    outcome = Replay(table(), np.random.default_rng(seed).integers(0, len(table()), 200), made, fleet).run()
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
    outcome = Replay(
        table(), rows, made, Fleet(num_workers=8, batch_rows=16, death_probability=0.03, kill_every=50)
    ).run()
    assert outcome.spent_macs <= made.budget_macs
    assert (outcome.num_unlabelled, outcome.num_kills > 3) == (0, True)


def test_the_minimum_buys_exactly_the_first_exit_of_every_image() -> None:
    made = plan(100, 5.0, budget_macs=100 * EXIT_MACS[0])
    ledger = Ledger.open(made, MemoryMark())
    for start in range(0, 100, 25):
        lease = ledger.lease(0, np.arange(start, start + 25))
        assert lease.allowance_macs == 25 * EXIT_MACS[0]
        ledger.settle(lease.lease_id, lease.allowance_macs, leaving(25))
    assert ledger.left_macs == 0


def test_a_budget_below_the_first_exits_is_refused_with_the_minimum() -> None:
    with pytest.raises(ValueError, match=r"below the first exit of all 1000 images \(789.8\)"):
        plan(1000, 0.7)


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


def test_a_retried_batch_is_charged_twice_and_counted_once() -> None:
    ledger = Ledger.open(plan(), MemoryMark())
    first, again = ledger.lease(0, np.arange(10)), ledger.lease(0, np.arange(10))
    assert ledger.charged_macs == first.allowance_macs + again.allowance_macs
    assert ledger.num_unseen == 990
    ledger.settle(again.lease_id, 10 * EXIT_MACS[0], leaving(10))
    report = ledger.report()
    assert report["lost_lease_macs"] == first.allowance_macs
    assert report["exits_realised"] == leaving(10)


def test_settling_twice_or_unknown_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger.open(plan(), MemoryMark())
    lease = ledger.lease(0, np.arange(10))
    ledger.settle(lease.lease_id, 10 * EXIT_MACS[0], leaving(10))
    with caplog.at_level(logging.INFO):
        ledger.settle(lease.lease_id, 10 * EXIT_MACS[0], leaving(10))
        ledger.settle(4711, 5, leaving(1))
    assert "it is not open" in caplog.text
    assert ledger.charged_macs == 10 * EXIT_MACS[0]
    assert ledger.report()["num_unknown_settlements"] == 2


def test_more_than_allowed_is_charged_and_reported() -> None:
    ledger = Ledger.open(plan(), MemoryMark())
    lease = ledger.lease(0, np.arange(10))
    with pytest.raises(RuntimeError, match="were allowed; they are charged"):
        ledger.settle(lease.lease_id, lease.allowance_macs + 7, leaving(10))
    assert ledger.charged_macs == lease.allowance_macs + 7
    assert ledger.report()["overdrawn_macs"] == 7


@pytest.mark.parametrize(("spent", "counts"), [(-1, leaving(1)), (5, [1, 2])])
def test_settlements_that_make_no_sense_are_refused(spent: int, counts: list[int]) -> None:
    ledger = Ledger.open(plan(), MemoryMark())
    lease = ledger.lease(0, np.arange(1))
    with pytest.raises(ValueError, match="settle needs spent >= 0 and 5 counts"):
        ledger.settle(lease.lease_id, spent, counts)


def test_a_stage_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stage must be in 0\.\.0, got 1"):
        Ledger.open(plan(), MemoryMark()).lease(1, np.arange(3))


def test_a_restarted_ledger_counts_all_it_may_have_granted() -> None:
    mark = MemoryMark()
    ledger = Ledger.open(plan(), mark)
    lease = ledger.lease(0, np.arange(10))
    restarted = Ledger.open(plan(), mark)
    assert restarted.charged_macs >= ledger.charged_macs
    assert restarted.num_unseen == 990
    before = restarted.charged_macs
    restarted.settle(lease.lease_id, 10 * EXIT_MACS[0], leaving(10))
    assert restarted.charged_macs == before - (lease.allowance_macs - 10 * EXIT_MACS[0])


def test_a_new_session_remembers_the_spend_and_forgets_the_images() -> None:
    mark = MemoryMark()
    first = Ledger.open(plan(session="a"), mark)
    lease = first.lease(0, np.arange(10))
    resumed = Ledger.open(plan(num_images=995, budget_macs=plan().budget_macs, session="b"), mark)
    assert resumed.num_unseen == 995
    charged = resumed.charged_macs
    assert charged >= lease.allowance_macs
    resumed.settle(lease.lease_id, 0, leaving(10))
    assert resumed.charged_macs == charged


def test_a_resume_that_cannot_label_everything_says_so(caplog: pytest.LogCaptureFixture) -> None:
    mark = MemoryMark()
    made = plan(10, 0.8, session="a")
    ledger = Ledger.open(made, mark)
    ledger.lease(0, np.arange(10))
    with caplog.at_level(logging.WARNING):
        Ledger.open(replace(made, session="b"), mark)
    assert "does not cover the first exit of every image" in caplog.text


def test_a_ledger_that_was_replaced_stops_granting() -> None:
    mark = MemoryMark()
    ledger = Ledger.open(plan(chunk_fraction=0.0), mark)
    Ledger.open(plan(chunk_fraction=0.0), mark)
    with pytest.raises(RuntimeError, match="another ledger has taken over"):
        ledger.lease(0, np.arange(10))


def test_the_empty_mark_of_a_driver_is_a_fresh_start() -> None:
    mark = MemoryMark()
    mark.write(MarkState().to_bytes())
    ledger = Ledger.open(plan(stage_starts=(0, 1)), mark)
    lease = ledger.lease(0, np.arange(10))
    ledger.settle(lease.lease_id, 10 * EXIT_MACS[0], leaving(10))
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
        first.lease(0, np.arange(10))


def test_a_closed_ledger_left_nothing_authorised_that_was_not_charged() -> None:
    mark = MemoryMark()
    ledger = Ledger.open(plan(), mark)
    lease = ledger.lease(0, np.arange(10))
    ledger.settle(lease.lease_id, 10 * EXIT_MACS[0], leaving(10))
    assert Ledger.open(plan(), MemoryMarkCopy(mark)).charged_macs > ledger.charged_macs
    ledger.close()
    assert Ledger.open(plan(), mark).charged_macs == ledger.charged_macs == 10 * EXIT_MACS[0]


def test_another_start_counts_its_own_exits() -> None:
    mark = MemoryMark()
    ledger = Ledger.open(plan(session="a"), mark)
    lease = ledger.lease(0, np.arange(10))
    ledger.settle(lease.lease_id, 10 * EXIT_MACS[0], leaving(10))
    ledger.close()
    assert Ledger.open(plan(session="a"), MemoryMarkCopy(mark)).report()["exits_realised"] == leaving(10)
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
    ledger = Ledger.open(plan(), mark)
    ledger.lease(0, np.arange(10))
    assert Ledger.open(plan(), mark).num_unseen == 990


def test_the_mark_is_written_rarely() -> None:
    ledger = Ledger.open(plan(20_000, chunk_fraction=0.01), MemoryMark())
    for start in range(0, 20_000, 10):
        lease = ledger.lease(0, np.arange(start, start + 10))
        ledger.settle(lease.lease_id, min(lease.allowance_macs, 11_000_000_000), leaving(10, 1))
    assert ledger.report()["num_mark_writes"] < 500


def test_unreadable_images_free_their_reserve() -> None:
    ledger = Ledger.open(plan(100, 0.8), MemoryMark())
    ledger.skip(np.arange(50))
    assert ledger.num_unseen == 50
    lease = ledger.lease(0, np.arange(50, 100))
    assert lease.policy.expected_gflops > 1.0


def test_the_fixed_mode_keeps_its_policy_and_has_no_bound() -> None:
    chosen = frontier().at(1.2)
    ledger = Ledger.open(plan(100, 1.2, fixed_policy=chosen), MemoryMark())
    for start in range(0, 100, 20):
        lease = ledger.lease(0, np.arange(start, start + 20))
        assert lease.policy is chosen
        ledger.settle(lease.lease_id, 20 * sum(EXIT_MACS), leaving(20, 4))
    report = ledger.report()
    assert report["spent_macs"] == 100 * sum(EXIT_MACS) > report["asked_macs"]
    assert report["mode"] == "fixed"


def test_the_report_is_json_and_complete() -> None:
    ledger = Ledger.open(plan(stage_starts=(0, 1)), MemoryMark())
    lease = ledger.lease(0, np.arange(10))
    ledger.settle(lease.lease_id, 10 * EXIT_MACS[0], leaving(6))
    report = json.loads(json.dumps(ledger.report()))
    assert report["spent_macs"] == 10 * EXIT_MACS[0]
    assert report["planned_macs"] == pytest.approx(report["asked_macs"], rel=1e-6)
    assert sum(report["exits_planned"]) == pytest.approx(1.0)
    assert report["exits_realised"] == leaving(6)
    assert report["policy_over_time"][0][0] == 10


def test_the_policy_over_time_stays_short() -> None:
    ledger = Ledger.open(plan(1500), MemoryMark())
    for image in range(1500):
        lease = ledger.lease(0, np.array([image]))
        ledger.settle(lease.lease_id, EXIT_MACS[0], leaving(1))
    moments = ledger.report()["policy_over_time"]
    assert 60 < len(moments) <= 256
    assert [seen for seen, _ in moments] == sorted(seen for seen, _ in moments)
