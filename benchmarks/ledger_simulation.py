"""The ledger's promise, replayed: spent <= budget in every case, and the budget well used.

    python -m benchmarks.ledger_simulation [--table FILE.npz] [--quick] [--only TEXT] [--markdown]

One JSON object per line and case, or with ``--markdown`` a row of a table in GFLOPs:

    case, budget, spent              multiply-adds; spent is everything that was computed, lost work included
    used_fraction                    spent / budget, or / useful maximum when the budget is beyond it
    accuracy                         over all images; an image without a label counts as wrong
    fixed_policy_accuracy            the best that ``budget.mode: fixed`` could have reached with the same frontier and no
                                     more spend, chosen with hindsight
    unlabelled                       images without a label
    lost_fraction, kills             lost work / budget; restarts of the ledger
    batches, batches_per_exchange    batches computed at each stage, and for one message to the ledger

``--table``: arrays ``confidence`` (N, >= 5) and ``correct`` (N, >= 5); one random half calibrates, the other is the job.
Without it, a synthetic table with similar statistics. Exit status 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier, first_exit, fit_frontier
from anchornet.ledger.ledger import LedgerPlan
from anchornet.units import GIGA
from benchmarks.replay import Fleet, Outcome, Replay
from benchmarks.tables import ANCHOR_FIRST_MACS, EXIT_MACS, anchor_first, read_table, sparse, synthetic_table

NUM_BLOCKS = 100
FEW_BATCHES = 100
"""Jobs of fewer batches, at any stage, are not promised to use 98 %."""
FEW_IMAGES = 10_000
"""Of fewer images 0.3 points are chance."""
LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "1 stage": ((0,), EXIT_MACS),
    "2 stages": ((0, 1), EXIT_MACS),
    "anchor first": ((0, 1), ANCHOR_FIRST_MACS),
    "sparse": ((0,), EXIT_MACS),
}
"""(stage_starts, the most that a row costs at each exit)."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the answer."""

    layout: str
    label: str
    gflops: float | None
    """Budget per image; None is the minimum."""
    order: str = "random"
    """Of the listing; the job meets it permuted, row by row, or in ``blocks`` as wholes."""
    calibration: str = "half"
    fleet: Fleet = field(default_factory=Fleet)
    num_images: int = 25_000

    @property
    def name(self) -> str:
        """Unique."""
        return f"{self.layout}, {self.label}, budget {'minimum' if self.gflops is None else self.gflops}"

    @property
    def fails(self) -> bool:
        """True when workers or the ledger die."""
        return bool(self.fleet.death_probability or self.fleet.kill_every)


BUDGETS = {
    "1 stage": (None, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 2.5),
    "2 stages": (None, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 2.5),
    "anchor first": (None, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.4),
    "sparse": (None, 0.4107, 0.5, 0.6),
}
"""Of ``sparse`` the dense first exit costs 0.7898 and the mean 0.316: 0.4107 is 1.3 times the mean."""
MIDDLE = {"1 stage": 1.1, "2 stages": 1.1, "anchor first": 0.6, "sparse": 0.4107}


def cases(quick: bool) -> Iterator[Case]:
    """All cases; ``quick`` leaves out the large fleets."""
    for layout, budgets in BUDGETS.items():
        few = budgets[2::2]
        for gflops in budgets:
            yield Case(layout=layout, label="random order", gflops=gflops)
        for order in ("easy first", "hard first", "hard last", "blocks"):
            for gflops in few:
                yield Case(layout=layout, label=order, gflops=gflops, order=order)
        for half in ("easy half", "hard half"):
            for gflops in few:
                yield Case(layout=layout, label=f"calibrated on the {half}", gflops=gflops, calibration=half)
        yield from _failures(layout)
        yield from _fleets(layout, quick)
        yield from _small(layout)
        yield from () if quick else _long(layout)


def _failures(layout: str) -> Iterator[Case]:
    dying = Fleet(death_probability=0.01)
    killed = Fleet(kill_every=300)
    both = Fleet(death_probability=0.01, kill_every=300)
    for label, fleet in (("1 % of batches die", dying), ("ledger killed", killed), ("both", both)):
        for gflops in sorted({*BUDGETS[layout][:2], MIDDLE[layout]}, key=lambda gflops: gflops or 0.0):
            yield Case(layout=layout, label=label, gflops=gflops, fleet=fleet)


def _fleets(layout: str, quick: bool) -> Iterator[Case]:
    """From one worker to 10,000 of each stage; larger fleets get larger jobs: at least eight batches for each worker."""
    most = {"2 stages": 10_000, "anchor first": 1_000}.get(layout, 100)  # 10,000 take minutes
    for workers in (1, 10, 100, 1_000, 10_000):
        if workers > (min(most, 100) if quick else most):
            continue
        rows = 64 if workers <= 100 else 16
        images = max(25_000, workers * rows * 8)
        for death in (0.0, 0.01) if workers < 10_000 else (0.0,):
            slow = 0.25 if workers <= 100 else workers / 400  # the job is not over before the workers were heard twice
            fleet = Fleet(num_workers=workers, batch_rows=rows, batch_s=slow, death_probability=death)
            label = f"{workers} worker{'s' if workers > 1 else ''}{', 1 % die' if death else ''}"
            yield Case(layout=layout, label=label, gflops=MIDDLE[layout], fleet=fleet, num_images=images)


def _long(layout: str) -> Iterator[Case]:
    """Minutes in place of seconds, so that a purse is for an interval and many batches, as in real jobs."""
    fleet = Fleet(num_workers=4, batch_rows=8)
    yield Case(layout=layout, label="4 x 8 rows", gflops=MIDDLE[layout], fleet=fleet, num_images=100_000)


def _small(layout: str) -> Iterator[Case]:
    """1,000 images: few batches, so that chance and the last batch count."""
    for workers, rows in ((1, 64), (2, 64), (2, 8)):
        fleet = Fleet(num_workers=workers, batch_rows=rows)
        label = f"1,000 images, {workers} x {rows} rows"
        for gflops in (None, MIDDLE[layout]):
            yield Case(layout=layout, label=label, gflops=gflops, fleet=fleet, num_images=1_000)


def calibration_rows(table: ExitTable, half: np.ndarray, which: str) -> np.ndarray:
    """Rows of ``half`` to fit on: all, or the half of them that the first exit finds easy or hard."""
    if which == "half":
        return half
    by_difficulty = half[np.argsort(-table.confidence[half, 0], kind="stable")]
    middle = len(half) // 2
    return by_difficulty[:middle] if which == "easy half" else by_difficulty[middle:]


def listed(table: ExitTable, rows: np.ndarray, order: str, random: np.random.Generator) -> np.ndarray:
    """``rows`` in the order of a listing; difficulty is one minus the first exit's confidence."""
    rows = random.permutation(rows)
    easy_first = rows[np.argsort(-table.confidence[rows, 0], kind="stable")]
    if order in ("easy first", "blocks"):
        return easy_first
    if order == "hard first":
        return easy_first[::-1]
    if order == "hard last":
        hardest = easy_first[-len(rows) // 5 :]
        return np.concatenate([random.permutation(easy_first[: -len(rows) // 5]), hardest])
    return rows


def manifest(rows: np.ndarray, order: str, random: np.random.Generator) -> np.ndarray:
    """The listing as the job meets it: permuted row by row, or block by block where rows cannot be read alone."""
    if order == "blocks":
        blocks = np.array_split(rows, NUM_BLOCKS)
        return np.concatenate([random.permutation(blocks[i]) for i in random.permutation(NUM_BLOCKS)])
    return random.permutation(rows)


class Simulation:
    """Cases on one table."""

    def __init__(self, table: ExitTable) -> None:
        """One random half calibrates, the other half is the job."""
        tables = {"anchor first": anchor_first(table, 0), "sparse": sparse(table, 0)}
        self._tables = {layout: tables.get(layout, table) for layout in LAYOUTS}
        shuffled = np.random.default_rng(0).permutation(len(table))
        self._calibrate, self._job = np.split(shuffled, [len(table) // 2])
        self._frontiers: dict[tuple[str, str], Frontier] = {}

    def run(self, case: Case) -> dict[str, Any]:
        """The line of one case."""
        table, random = self._tables[case.layout], np.random.default_rng(1)
        tiles = -(-case.num_images // len(self._job))
        rows = np.tile(self._job, tiles)[: case.num_images]
        rows = manifest(listed(table, rows, case.order, random), case.order, random)
        stage_starts, exit_macs = LAYOUTS[case.layout]
        made = LedgerPlan(
            budget_macs=2**62,
            num_images=len(rows),
            exit_macs=exit_macs,
            stage_starts=stage_starts,
            frontier=self._frontier(case),
        )
        budget = made.minimum_macs if case.gflops is None else round(case.gflops * GIGA) * len(rows)
        plan = replace(made, budget_macs=budget)
        return self._line(case, plan, rows, Replay(table, rows, plan, case.fleet).run())

    def _frontier(self, case: Case) -> Frontier:
        table, key = self._tables[case.layout], (case.layout, case.calibration)
        if key not in self._frontiers:
            self._frontiers[key] = fit_frontier(
                table.select(calibration_rows(table, self._calibrate, case.calibration))
            )
        return self._frontiers[key]

    def _line(self, case: Case, plan: LedgerPlan, rows: np.ndarray, outcome: Outcome) -> dict[str, Any]:
        spend, accuracy = self._fixed_policies(self._tables[case.layout], plan.frontier, rows)
        useful = min(plan.budget_macs, round(spend.max() * len(rows)))
        affordable = spend <= max(outcome.spent_macs / len(rows), spend[0])
        return {
            "case": case.name,
            "budget": plan.budget_macs,
            "spent": outcome.spent_macs,
            "used_fraction": round(outcome.spent_macs / useful, 4),
            "accuracy": round(outcome.accuracy, 4),
            "fixed_policy_accuracy": round(float(accuracy[affordable].max()), 4),
            "unlabelled": outcome.num_unlabelled,
            "lost_fraction": round(outcome.lost_macs / plan.budget_macs, 4),
            "kills": outcome.num_kills,
            "batches": list(outcome.num_batches),
            "batches_per_exchange": round(sum(outcome.num_batches) / outcome.num_exchanges, 1),
        }

    def _fixed_policies(self, table: ExitTable, frontier: Frontier, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean spend and accuracy on the job's own images of every policy that ``budget.mode: fixed`` could choose.

        The frontier's points, and mixtures of neighbours, in the order of the frontier.
        """
        distinct = np.unique(rows)
        confidence, correct = table.confidence[distinct], table.correct[distinct]
        exits = [first_exit(confidence, point.policy.array) for point in frontier.points]
        spend = np.array([table.cost_macs[distinct, chosen].mean() for chosen in exits])
        accuracy = np.array([correct[np.arange(len(distinct)), chosen].mean() for chosen in exits])
        fine = np.linspace(0, len(exits) - 1, 50 * len(exits))
        return np.interp(fine, np.arange(len(exits)), spend), np.interp(fine, np.arange(len(exits)), accuracy)


def table_row(line: Mapping[str, Any]) -> str:
    """The line as a row of Markdown, money in GFLOPs; what it breaks stands beside the images without a label."""
    money = [f"{line[key] / GIGA:,.0f}" for key in ("budget", "spent")]
    parts = [f"{100 * line[key]:.2f} %" for key in ("used_fraction", "accuracy", "fixed_policy_accuracy")]
    last = "; ".join([str(line["unlabelled"]), *line.get("broken", ())])
    return f"| {' | '.join([line['case'], *money, *parts, last, str(line['batches_per_exchange'])])} |"


def broken_promises(line: Mapping[str, Any], case: Case) -> list[str]:
    """What a line breaks of what the ledger promises; empty when all is well."""
    broken = []
    if line["spent"] > line["budget"]:
        broken.append("spent more than the budget")
    if line["unlabelled"] and not case.fleet.death_probability:
        broken.append("images without a label")
    if case.fails:
        return broken
    if min(line["batches"]) >= FEW_BATCHES and line["used_fraction"] < 0.98:
        broken.append("less than 98 % used")
    promised = case.order != "blocks" and case.calibration == "half" and case.num_images >= FEW_IMAGES
    if promised and line["accuracy"] < line["fixed_policy_accuracy"] - 0.003:
        broken.append("more than 0.3 points below the best fixed policy")
    return broken


def main(argv: Sequence[str] | None = None) -> int:
    """Print the lines; 1 when one breaks a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", help="npz with confidence and correct; synthetic when absent")
    parser.add_argument("--quick", action="store_true", help="leave out the large fleets")
    parser.add_argument("--markdown", action="store_true", help="rows of a table in place of JSON")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    options = parser.parse_args(argv)
    table = read_table(options.table) if options.table else synthetic_table(25_000, seed=0)
    simulation, failed = Simulation(table), False
    for case in cases(options.quick):
        if options.only not in case.name:
            continue
        line = simulation.run(case)
        broken = broken_promises(line, case)
        failed |= bool(broken)
        line |= {"broken": broken} if broken else {}
        print(table_row(line) if options.markdown else json.dumps(line), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
