"""What is seen of a job from outside: metrics on Ray's own endpoint, and in the driver's log what workers had to say."""

from __future__ import annotations

import logging
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.util.metrics import Gauge

from anchornet.budget.frontier import fit_frontier
from anchornet.ledger.plan import LedgerPlan
from anchornet.ledger.purse import Purse
from benchmarks.tables import EXIT_MACS, synthetic_table
from jobs.labelling.ledger_actor import run_of, start_ledger
from jobs.shell.metrics import COUNTERS, GAUGES, NAMES
from jobs.shell.worker_log import Telling
from tests.heads import until

WAIT_S = 60.0
ROWS = 16
GAUGE_SET_ONCE = "tests_set_once"


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("seen") / "ledger.json")


@pytest.fixture(scope="module")
def ledger(mark: str) -> Iterator[Any]:
    """A ledger that has heard of one batch: every row left at the first exit."""
    plan = LedgerPlan(
        budget_macs=10**12,
        num_images=100,
        exit_macs=EXIT_MACS,
        stage_starts=(0, 1),
        frontier=fit_frontier(synthetic_table(200, 0)),
        session="s",
    )
    started = start_ledger(plan, mark)
    yield started
    ray.kill(started)


def endpoint() -> str:
    [node] = ray.nodes()
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as answer:
        return str(answer.read().decode())


def test_every_metric_is_served_under_its_name_with_its_run(ledger: Any, mark: str) -> None:
    purse = Purse(0, len(EXIT_MACS))
    purse.fill(ray.get(ledger.exchange.remote(purse.statement(ROWS, 0.0))))
    draw = purse.draw(ROWS)
    purse.done(draw, np.arange(ROWS), ROWS * EXIT_MACS[0], [ROWS, *[0] * (len(EXIT_MACS) - 1)], 0, 0.5)
    ray.get(ledger.exchange.remote(purse.statement(0, 1.0)))
    ray.get(ledger.skip.remote(np.array([90])))
    ray.get(ledger.report.remote())
    run = run_of(mark).name
    seen: dict[str, dict[str, float]] = {}

    def all_there() -> bool:
        seen.clear()
        for name, labels, value in re.findall(r"^(ray_anchornet_\w+)\{(.*)\} (\S+)$", endpoint(), re.MULTILINE):
            if f'run="{run}"' in labels:
                seen.setdefault(name, {})[labels] = float(value)
        return {re.sub(r"_(bucket|sum|count)$", "", name.removeprefix("ray_")) for name in seen} == NAMES

    assert until(all_there, WAIT_S), sorted(seen)
    images = seen["ray_anchornet_images_total"]
    assert sum(value for labels, value in images.items() if 'status="ok"' in labels) == ROWS
    assert sum(value for labels, value in images.items() if 'status="unreadable"' in labels) == 1
    assert set(seen["ray_anchornet_images_left"].values()) == {100.0 - ROWS - 1}
    assert set(seen["ray_anchornet_budget_gflops"].values()) == {1000.0}
    assert sum(seen["ray_anchornet_batch_rows_count"].values()) == 1
    buckets = seen["ray_anchornet_batch_rows_bucket"]
    within = {float(re.findall(r'le="([^"]+)"', labels)[0]): value for labels, value in buckets.items()}
    assert (within[ROWS / 2], within[ROWS]) == (0, 1)
    assert {f"ray_{name}" for name in (*COUNTERS, *GAUGES)} <= set(seen)
    joined = [labels for series in seen.values() for labels in series]  # alerts and dashboard join on these
    assert all('WorkerId="' in labels and 'SessionName="' in labels for labels in joined)
    # Ray lets go of a gauge that nobody sets; the driver asks for the report even while no worker says anything.
    forgotten = SetOnce.remote()
    assert ray.get(forgotten.set.remote()) and until(lambda: GAUGE_SET_ONCE in endpoint(), WAIT_S)
    assert until(lambda: ray.get(ledger.report.remote()) and GAUGE_SET_ONCE not in endpoint(), WAIT_S)
    assert until(lambda: ray.get(ledger.report.remote()) and all_there(), WAIT_S)


@ray.remote(num_cpus=0)
class SetOnce:
    """A process with a gauge that it never sets again."""

    def set(self) -> bool:
        self.gauge = Gauge(GAUGE_SET_ONCE, "set once")
        self.gauge.set(1)
        return True


@ray.remote(num_cpus=0)
def warn(notes: Any, run: str) -> str:
    def work(_: object) -> str:
        logging.getLogger("anchornet.files.waiting").warning("still waiting for s3://bucket/photo.jpg")
        logging.getLogger("anchornet.files.waiting").info("all is well")
        logging.getLogger("botocore").warning("of a library")
        return "done"

    return str(Telling(work, notes, run)(None))  # type: ignore[arg-type]


def test_the_warning_of_a_worker_reaches_the_driver_once_for_each_time_it_was_said(ledger: Any, tmp_path: Path) -> None:
    assert ray.get([warn.remote(ledger, "run-1a2b3c") for _ in range(3)]) == ["done"] * 3
    notes: list[str] = []

    def heard() -> bool:
        notes.extend(ray.get(ledger.take_notes.remote()))
        return len(notes) >= 3

    assert until(heard, WAIT_S), notes
    assert {note.partition(" (process ")[0] for note in notes} == {
        "WARNING anchornet.files.waiting: still waiting for s3://bucket/photo.jpg"
    }
    assert len(notes) == 3
