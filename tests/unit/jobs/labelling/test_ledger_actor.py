"""The ledger's address on Ray, without Ray: its name, and that it never starts without a mark."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from anchornet.budget.frontier import fit_frontier
from anchornet.ledger.mark import FileMark, MarkState
from anchornet.ledger.plan import LedgerPlan
from anchornet.ledger.purse import Purse
from benchmarks.tables import EXIT_MACS, synthetic_table
from jobs.labelling import ledger_actor
from jobs.labelling.ledger_actor import NAMESPACE, LedgerActor, await_purses, ledger_name, start_ledger
from jobs.shell.stops import FolderTakenError


@pytest.fixture(scope="module")
def plan() -> LedgerPlan:
    frontier = fit_frontier(synthetic_table(200, 0))
    return LedgerPlan(
        budget_macs=10**12, num_images=100, exit_macs=EXIT_MACS, stage_starts=(0, 1), frontier=frontier, session="s"
    )


def test_a_ledger_without_a_mark_is_no_fresh_budget(tmp_path: Path, plan: LedgerPlan) -> None:
    with pytest.raises(
        RuntimeError, match=r"absent\.json is not to be seen from node .*must lie where every node sees it"
    ):
        LedgerActor(plan, str(tmp_path / "absent.json"))


def test_each_run_has_a_ledger_of_its_own() -> None:
    assert ledger_name("s3://bucket/a/ledger.json") == ledger_name("s3://bucket/a/ledger.json")
    assert ledger_name("s3://bucket/a/ledger.json") != ledger_name("s3://bucket/b/ledger.json")
    assert ledger_name("x").startswith("ledger-")


class Started:
    """``ray.remote`` that keeps what was asked for and starts nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray, "remote", self._remote)
        here = SimpleNamespace(get_node_id=lambda: "ab" * 28)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: here)

    def _remote(self, cls: type) -> Started:
        self.cls = cls
        return self

    def options(self, **options: Any) -> Started:
        self.asked = options
        return self

    def remote(self, *arguments: Any) -> Started:
        self.arguments = arguments
        return self


def test_the_driver_writes_the_first_mark_and_asks_for_an_actor_that_comes_back(
    tmp_path: Path, plan: LedgerPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, uri = Started(monkeypatch), str(tmp_path / "ledger.json")
    assert start_ledger(plan, uri) is started
    assert (started.cls, started.arguments) == (LedgerActor, (plan, uri))
    strategy = started.asked["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft) == ("ab" * 28, False)
    assert started.asked == {
        "name": ledger_name(uri), "namespace": NAMESPACE, "num_cpus": 0, "max_restarts": -1, "max_task_retries": -1,
        "scheduling_strategy": strategy,
    }  # fmt: skip
    assert LedgerActor(plan, uri).report()["spent_macs"] == 0


def test_a_later_start_keeps_the_mark_that_is_there(
    tmp_path: Path, plan: LedgerPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = FileMark(str(tmp_path / "ledger.json"))
    mark.write(MarkState(authorised_macs=7 * 10**9, epoch=1, session="before").to_bytes())
    Started(monkeypatch)
    start_ledger(plan, mark.uri)
    assert LedgerActor(plan, mark.uri).report()["spent_macs"] == 7 * 10**9


def test_a_run_that_another_job_of_the_cluster_works_on_is_refused_once_that_has_had_time_to_leave(
    tmp_path: Path, plan: LedgerPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, asked = Started(monkeypatch), []

    def taken(*arguments: Any) -> None:
        asked.append(arguments)
        raise ValueError("The name ledger-... is already taken")

    monkeypatch.setattr(started, "remote", taken)
    monkeypatch.setattr(ledger_actor, "_LEAVES_S", 1.5)
    with pytest.raises(
        FolderTakenError, match=r"works in this run folder \(its ledger writes .*ledger\.json\); wait for it"
    ):
        start_ledger(plan, str(tmp_path / "ledger.json"))
    assert len(asked) >= 2


def test_an_actor_that_comes_back_knows_who_holds_what(tmp_path: Path, plan: LedgerPlan) -> None:
    """Ray restarts the actor by calling its constructor again, with the same plan and mark."""
    mark = FileMark(str(tmp_path / "ledger.json"))
    mark.write(MarkState().to_bytes())
    first = LedgerActor(plan, mark.uri)
    first.skip(np.arange(40))
    purse = Purse(stage=0, num_exits=len(EXIT_MACS))
    purse.fill(first.exchange(purse.statement(8, 0.0)))
    assert (first.num_open(), purse.left_rows > 0) == (1, True)
    again = LedgerActor(plan, mark.uri)
    assert again.num_open() == 1
    assert again.report()["spent_macs"] >= first.report()["spent_macs"] > 0
    again.exchange(purse.statement(0, 1.0))
    assert again.num_open() == 0


def test_a_closed_ledger_leaves_what_was_spent_and_no_more(tmp_path: Path, plan: LedgerPlan) -> None:
    mark = FileMark(str(tmp_path / "ledger.json"))
    mark.write(MarkState().to_bytes())
    actor = LedgerActor(plan, mark.uri)
    purse = Purse(stage=0, num_exits=len(EXIT_MACS))
    purse.fill(actor.exchange(purse.statement(4, 0.0)))
    draw = purse.draw(4)
    purse.done(draw, np.arange(4), 4 * EXIT_MACS[0], (4, 0, 0, 0, 0))
    actor.exchange(purse.statement(0, 1.0))
    actor.close()
    content = mark.read()
    assert content is not None
    assert MarkState.from_bytes(content).authorised_macs == actor.report()["spent_macs"] == 4 * EXIT_MACS[0]


@pytest.mark.parametrize(("still_open", "looks"), [([3, 1, 0], 3), ([0], 1), ([1] * 1000, 101)])
def test_purses_are_waited_for_until_they_are_back_or_surely_lost(
    monkeypatch: pytest.MonkeyPatch, still_open: list[int], looks: int
) -> None:
    counts, asked = iter(still_open), []
    now_s = 0.0

    def sleep(duration_s: float) -> None:
        nonlocal now_s
        now_s += duration_s

    def num_open() -> int:
        asked.append(now_s)
        return next(counts)

    monkeypatch.setattr(ledger_actor, "time", SimpleNamespace(monotonic=lambda: now_s, sleep=sleep))
    monkeypatch.setattr(ledger_actor, "answer", lambda reference, timeout_s=None: reference)
    await_purses(SimpleNamespace(num_open=SimpleNamespace(remote=num_open)))
    assert len(asked) == pytest.approx(looks, abs=1)  # 5 s in steps of 0.05 s, which floating point may miss by one
