"""What the ledger's report becomes in the metrics. Scraped from a real endpoint: tests/ray/test_seen.py."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from anchornet.budget.frontier import fit_frontier
from anchornet.ledger.ledger import Ledger, LedgerPlan, MemoryMark
from anchornet.ledger.purse import Purse
from benchmarks.tables import EXIT_MACS, synthetic_table
from jobs.shell import metrics
from jobs.shell.metrics import COUNTERS, GAUGES, HISTOGRAMS, NAMES, JobMetrics, counted, standing

STAGES = (0, 1)
LAST = len(EXIT_MACS) - 1


class Recorded:
    """Stands in for Ray's metric of one name; what is recorded is summed up, or kept, by label."""

    def __init__(self, name: str, description: str, *more: Any) -> None:
        self.name, self.tags = name, set(more[-1])
        assert description
        self.sums: Tally[tuple[tuple[str, str], ...]] = Tally()
        self.values: list[float] = []

    def inc(self, value: float, tags: Mapping[str, str]) -> None:
        assert value > 0
        assert set(tags) == self.tags
        self.sums[tuple(sorted(tags.items()))] += value  # type: ignore[assignment]

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        assert set(tags) == self.tags
        self.values.append(value)

    observe = set


@pytest.fixture(autouse=True)
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, Recorded)


def a_ledger(num_images: int = 100) -> Ledger:
    plan = LedgerPlan(
        budget_macs=10**12,
        num_images=num_images,
        exit_macs=EXIT_MACS,
        stage_starts=STAGES,
        frontier=fit_frontier(synthetic_table(200, 0)),
        session="s",
    )
    return Ledger.open(plan, MemoryMark())


def work(ledger: Ledger, purse: Purse, ids: range, failed: int = 0) -> Any:
    """A batch whose rows leave at the first exit, but for those that fail; the statement that tells of it."""
    purse.fill(ledger.exchange(purse.statement(len(ids), 0.0), 0.0))
    draw = purse.draw(len(ids))
    counts = [len(ids) - failed, *[0] * LAST]
    purse.done(draw, np.array(ids), len(ids) * EXIT_MACS[0], counts, failed, 0.5)
    purse.waited(0.25)
    return purse.statement(0, 1.0)


def test_names_end_in_their_unit_and_say_what_they_are() -> None:
    units = ("_total", "_gflops", "_seconds", "_rows", "_images_left", "_images_to_label", "_purses", "_starts")
    assert all(name.startswith("anchornet_") and name.endswith(units) for name in NAMES)
    assert len(NAMES) == len(COUNTERS) + len(GAUGES) + len(HISTOGRAMS)
    assert all(name.endswith("_total") for name in COUNTERS)


def test_counters_tell_what_the_ledger_counted_once() -> None:
    ledger, purse = a_ledger(), Purse(0, len(EXIT_MACS))
    made = JobMetrics("run", ledger.report())
    statement = work(ledger, purse, range(8), failed=2)
    for _ in range(2):  # the same statement again counts once
        ledger.exchange(statement, 2.0)
        made.stands(ledger.report())
    ledger.skip(np.array([50, 51, 52]))
    made.stands(ledger.report())
    images = made._counters["anchornet_images_total"].sums
    first = ledger.plan.frontier.exits[0]
    assert {dict(labels)["status"]: count for labels, count in images.items()} == {
        "ok": 6, "failed": 2, "unreadable": 3
    }  # fmt: skip
    assert images[("exit", first), ("run", "run"), ("status", "ok")] == 6
    spent = made._counters["anchornet_stated_gflops_total"].sums
    assert spent == {(("run", "run"), ("stage", "0")): 8 * EXIT_MACS[0] / 1e9}


def test_a_ledger_that_starts_again_counts_from_there() -> None:
    ledger, purse = a_ledger(), Purse(0, len(EXIT_MACS))
    ledger.exchange(work(ledger, purse, range(8)), 2.0)
    made = JobMetrics("run", ledger.report())
    made.stands(ledger.report())
    assert not made._counters["anchornet_images_total"].sums


def test_gauges_say_how_the_run_stands() -> None:
    ledger, purse = a_ledger(), Purse(0, len(EXIT_MACS))
    made = JobMetrics("run", ledger.report())
    ledger.exchange(work(ledger, purse, range(8)), 2.0)
    report = ledger.report()
    made.stands(report)
    stands = standing(report)
    assert set(stands) == set(GAUGES)
    assert {name: gauge.values[-1] for name, gauge in made._gauges.items()} == stands
    assert stands["anchornet_images_left"] == 92
    left = stands["anchornet_budget_gflops"] - stands["anchornet_charged_gflops"]
    assert stands["anchornet_budget_left_gflops"] == left
    assert stands["anchornet_ledger_starts"] == 1


def test_histograms_hold_means_of_the_batches_of_a_statement() -> None:
    ledger, purse = a_ledger(), Purse(0, len(EXIT_MACS))
    made = JobMetrics("run", ledger.report())
    made.stated(work(ledger, purse, range(8)))
    made.stated(purse.statement(0, 3.0))  # of nothing
    assert {name: each.values for name, each in made._histograms.items()} == {
        "anchornet_batch_compute_seconds": [0.5], "anchornet_batch_rows": [8.0], "anchornet_purse_wait_seconds": [0.25]
    }  # fmt: skip


def test_every_counter_is_counted() -> None:
    assert {name for name, _ in counted(a_ledger().report())} == set(COUNTERS)
