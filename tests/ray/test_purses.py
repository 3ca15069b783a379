"""Purses on Ray: a real ledger actor, real holders; what goes back, what stays charged, and what a restart forgets."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.ledger.ledger import FileMark, LedgerPlan
from anchornet.ledger.mark import MarkState
from anchornet.ledger.purse import Draw, Purse
from benchmarks.tables import EXIT_MACS, synthetic_table
from jobs.labelling import purse_holder
from jobs.labelling.ledger_actor import start_ledger
from jobs.labelling.purse_holder import PurseHolder

pytestmark = pytest.mark.ray
NUM_EXITS = len(EXIT_MACS)
BATCH = 8
WAIT_S = 60.0


@cache
def frontier() -> Frontier:
    return fit_frontier(synthetic_table(3000, 0))


def plan(num_images: int, gflops: float) -> LedgerPlan:
    return LedgerPlan(
        budget_macs=round(gflops * 1e9) * num_images,
        num_images=num_images,
        exit_macs=EXIT_MACS,
        stage_starts=(0,),
        frontier=frontier(),
        session="s",
        chunk_fraction=0.0,  # a mark for every grant
    )


def batches(first: int, stop: int) -> list[np.ndarray]:
    return [np.arange(start, start + BATCH) for start in range(first, stop, BATCH)]


def label(holder: PurseHolder, image_ids: np.ndarray) -> int:
    """A batch of which every row leaves at the first exit; returns what it computed."""
    holder.prepare(len(image_ids))
    draw = holder.draw(len(image_ids))
    spent = min(draw.allowance_macs, len(image_ids) * EXIT_MACS[0])
    holder.done(draw, image_ids, spent, [len(image_ids)] + [0] * (NUM_EXITS - 1), 0, 0.01)
    return spent


def never_idle() -> None:
    """From now on the holders of this process look for idle purses once at the beginning, and never again."""
    purse_holder._TICK_S = 1e6


@ray.remote(num_cpus=0)
class Worker:
    """An actor of the label job without its networks."""

    def __init__(self, ledger: Any) -> None:
        never_idle()
        self.holder = PurseHolder(ledger, 0, NUM_EXITS)
        self.computing: Draw | None = None

    def label(self, image_ids: np.ndarray) -> int:
        return label(self.holder, image_ids)

    def begin(self, num_rows: int) -> int:
        """Draw a batch that will never end; returns all that is in the purse then."""
        self.computing = self.holder.draw(num_rows)
        return self.computing.allowance_macs + self.holder._purse.left_macs

    def give_back(self) -> None:
        self.holder.give_back(now=True)


def poll(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; every look asks an actor or a file, so it takes its time."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"


def num_open(ledger: Any) -> int:
    return ray.get(ledger.num_open.remote())


def test_an_idle_purse_goes_back_and_all_was_stated(tmp_path: Path) -> None:
    """One actor's holder and the two threads it has, as in the label job."""
    ledger = start_ledger(plan(1000, 1.1), str(tmp_path / "ledger.json"))
    holder = PurseHolder(ledger, 0, NUM_EXITS)
    with ThreadPoolExecutor(2) as threads:
        spent = sum(threads.map(lambda ids: label(holder, ids), batches(0, 80)))
    poll(lambda: num_open(ledger) == 0)
    report = ray.get(ledger.report.remote())
    assert (report["num_seen"], report["open_macs"], report["lost_macs"]) == (80, 0, 0)
    assert report["spent_macs"] == spent == 80 * EXIT_MACS[0]


def test_the_purse_of_an_actor_that_ends_goes_back(tmp_path: Path) -> None:
    ledger = start_ledger(plan(1000, 1.1), str(tmp_path / "ledger.json"))
    worker = Worker.remote(ledger)
    spent = ray.get(worker.label.remote(np.arange(BATCH)))
    assert num_open(ledger) == 1
    del worker
    gc.collect()
    poll(lambda: num_open(ledger) == 0)
    report = ray.get(ledger.report.remote())
    assert (report["num_seen"], report["spent_macs"]) == (BATCH, spent)


def test_the_purse_of_a_killed_actor_stays_charged_and_the_budget_holds(tmp_path: Path) -> None:
    """The budget is the minimum: with one batch lost it pays for all the others, and for no more."""
    made = plan(40, EXIT_MACS[0] / 1e9)
    ledger = start_ledger(made, str(tmp_path / "ledger.json"))
    doomed, *others = [Worker.remote(ledger) for _ in range(3)]
    lost = ray.get(doomed.begin.remote(BATCH))
    ray.kill(doomed)
    spent = 0
    for i, image_ids in enumerate(batches(BATCH, 40)):
        spent += ray.get(others[i % 2].label.remote(image_ids))
        ray.get(others[i % 2].give_back.remote())
    assert lost == BATCH * EXIT_MACS[0]
    report = ray.get(ledger.report.remote())
    assert report["spent_macs"] == spent + lost == made.budget_macs
    assert (report["open_macs"] + report["lost_macs"], report["num_seen"]) == (lost, 32)
    again = ray.get(ledger.exchange.remote(Purse(0, NUM_EXITS).statement(BATCH, 0.0)))
    assert (again.num_rows, again.allowance_macs, again.retry_s > 0) == (0, 0, True)


def test_a_ledger_that_restarts_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    """Three actors work on while it is away; their purses stay good, and what they did is counted once."""
    made, mark = plan(240, 1.3), FileMark(str(tmp_path / "ledger.json"))
    ledger = start_ledger(made, mark.uri)
    workers = [Worker.remote(ledger) for _ in range(3)]
    calls = [workers[i % 3].label.remote(image_ids) for i, image_ids in enumerate(batches(0, 240))]
    spent = ray.get(calls[:9])
    ray.kill(ledger, no_restart=False)
    spent += ray.get(calls[9:])
    ray.get([worker.give_back.remote() for worker in workers])
    report = ray.get(ledger.report.remote())
    assert MarkState.from_bytes(mark.read() or b"").epoch == 2
    assert sum(spent) == 240 * EXIT_MACS[0]
    assert (report["num_seen"], report["num_open"]) == (240, 0)
    assert sum(spent) <= report["spent_macs"] <= made.budget_macs
    assert report["spent_macs"] == sum(spent) + report["restart_macs"]
