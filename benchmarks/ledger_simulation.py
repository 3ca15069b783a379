"""The ledger's promise, replayed: spent <= budget in every case, and the budget well used.

    python -m benchmarks.ledger_simulation [--table FILE.npz] [--quick] [--only TEXT]

One JSON object per line and case:

    case, budget, spent              multiply-adds; spent is everything that was computed, lost work included
    used_fraction                    spent / budget, or / useful maximum when the budget is beyond it
    accuracy                         over all images; an image without a label counts as wrong
    fixed_policy_accuracy            the best that ``budget.mode: fixed`` could have reached with the same frontier and no
                                     more spend, chosen with hindsight
    unlabelled                       images without a label
    reserve_lost                     true when lost work alone ate the reserve for unlabelled images
    lost_fraction, kills             lost work / budget; restarts of the ledger

``--table``: arrays ``confidence`` (N, >= 5) and ``correct`` (N, >= 5); one random half calibrates, the other is the job.
Without it, a synthetic table with similar statistics. Exit status 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier, first_exit, fit_frontier
from anchornet.ledger.ledger import LedgerPlan
from benchmarks.replay import Fleet, Outcome, Replay
from benchmarks.tables import EXIT_MACS, read_table, synthetic_table

NUM_BLOCKS = 100


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the answer."""

    name: str
    gflops: float | None
    """Budget per image; None is the minimum."""
    order: str = "random"
    calibration: str = "half"
    stage_starts: tuple[int, ...] = (0,)
    fleet: Fleet = field(default_factory=Fleet)
    num_images: int = 25_000


def cases(quick: bool) -> Iterator[Case]:
    """All cases; ``quick`` leaves out the large fleets and repeats."""
    for stages in ((0,), (0, 1)):
        tag = f"{len(stages)} stage{'s' if len(stages) > 1 else ''}"
        for gflops in (None, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 2.5):
            name = f"{tag}, random order, budget {'minimum' if gflops is None else gflops}"
            yield Case(name=name, gflops=gflops, stage_starts=stages)
        for order in ("easy first", "hard first", "hard last", "blocks"):
            for gflops in (0.9, 1.1, 1.4):
                yield Case(name=f"{tag}, {order}, budget {gflops}", gflops=gflops, order=order, stage_starts=stages)
        for half in ("easy half", "hard half"):
            for gflops in (0.9, 1.1, 1.4):
                name = f"{tag}, calibrated on the {half}, budget {gflops}"
                yield Case(name=name, gflops=gflops, calibration=half, stage_starts=stages)
        yield from _failures(tag, stages)
        yield from _fleets(tag, stages, quick)


def _failures(tag: str, stages: tuple[int, ...]) -> Iterator[Case]:
    dying = Fleet(death_probability=0.01)
    killed = Fleet(kill_every=200)
    both = Fleet(death_probability=0.01, kill_every=200)
    for label, fleet in (("1 % of batches die", dying), ("ledger killed", killed), ("both", both)):
        for gflops in (None, 0.8, 1.1, 1.4):
            name = f"{tag}, {label}, budget {'minimum' if gflops is None else gflops}"
            yield Case(name=name, gflops=gflops, stage_starts=stages, fleet=fleet)
    hard = "hard last, 1 % die and ledger killed, budget 1.1"
    yield Case(name=f"{tag}, {hard}", gflops=1.1, order="hard last", stage_starts=stages, fleet=both)


def _fleets(tag: str, stages: tuple[int, ...], quick: bool) -> Iterator[Case]:
    """From one worker to 10,000; larger fleets get larger jobs, so that no more than an eighth of a job is computing."""
    for workers in (1, 10, 100, 1_000, 10_000):
        if quick and workers >= 1_000:
            continue
        rows = 64 if workers <= 100 else 16
        images = max(25_000, workers * rows * 8)
        for death in (0.0, 0.01):
            fleet = Fleet(num_workers=workers, batch_rows=rows, death_probability=death)
            name = f"{tag}, {workers} worker{'s' if workers > 1 else ''}{', 1 % die' if death else ''}, budget 1.1"
            yield Case(name=name, gflops=1.1, stage_starts=stages, fleet=fleet, num_images=images)


def calibration_rows(table: ExitTable, half: np.ndarray, which: str) -> np.ndarray:
    """Rows of ``half`` to fit on: all, or the half of them that the first exit finds easy or hard."""
    if which == "half":
        return half
    by_difficulty = half[np.argsort(-table.confidence[half, 0], kind="stable")]
    middle = len(half) // 2
    return by_difficulty[:middle] if which == "easy half" else by_difficulty[middle:]


def arrange(table: ExitTable, rows: np.ndarray, order: str, random: np.random.Generator) -> np.ndarray:
    """``rows`` in the order in which the job meets them; difficulty is one minus the first exit's confidence."""
    rows = random.permutation(rows)
    easy_first = rows[np.argsort(-table.confidence[rows, 0], kind="stable")]
    if order == "easy first":
        return easy_first
    if order == "hard first":
        return easy_first[::-1]
    if order == "hard last":
        hardest = easy_first[-len(rows) // 5 :]
        return np.concatenate([random.permutation(easy_first[: -len(rows) // 5]), hardest])
    if order == "blocks":
        blocks = np.array_split(easy_first, NUM_BLOCKS)
        return np.concatenate([random.permutation(blocks[i]) for i in random.permutation(NUM_BLOCKS)])
    return rows


class Simulation:
    """Cases on one table."""

    def __init__(self, table: ExitTable) -> None:
        """One random half calibrates, the other half is the job."""
        self.table = table
        shuffled = np.random.default_rng(0).permutation(len(table))
        self._calibrate, self._job = np.split(shuffled, [len(table) // 2])
        self._frontiers: dict[str, Frontier] = {}

    def run(self, case: Case) -> dict[str, object]:
        """The line of one case."""
        frontier = self._frontier(case.calibration)
        random = np.random.default_rng(1)
        tiles = -(-case.num_images // len(self._job))
        rows = arrange(self.table, np.tile(self._job, tiles)[: case.num_images], case.order, random)
        minimum = EXIT_MACS[0] * len(rows)
        budget = minimum if case.gflops is None else round(case.gflops * 1e9) * len(rows)
        plan = LedgerPlan(
            budget_macs=budget,
            num_images=len(rows),
            exit_macs=EXIT_MACS,
            stage_starts=case.stage_starts,
            frontier=frontier,
        )
        outcome = Replay(self.table, rows, plan, case.fleet).run()
        return self._line(case, plan, rows, outcome)

    def _frontier(self, which: str) -> Frontier:
        if which not in self._frontiers:
            self._frontiers[which] = fit_frontier(
                self.table.select(calibration_rows(self.table, self._calibrate, which))
            )
        return self._frontiers[which]

    def _line(self, case: Case, plan: LedgerPlan, rows: np.ndarray, outcome: Outcome) -> dict[str, object]:
        spend, accuracy = self._fixed_policies(plan.frontier, rows)
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
            "reserve_lost": outcome.reserve_lost,
            "lost_fraction": round(outcome.lost_macs / plan.budget_macs, 4),
            "kills": outcome.num_kills,
        }

    def _fixed_policies(self, frontier: Frontier, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean spend and accuracy on the job's own images of every policy that ``budget.mode: fixed`` could choose.

        The frontier's points, and mixtures of neighbours, in the order of the frontier.
        """
        distinct = np.unique(rows)
        confidence, correct = self.table.confidence[distinct], self.table.correct[distinct]
        exits = [first_exit(confidence, point.policy.array) for point in frontier.points]
        spend = np.array([self.table.cost_macs[distinct, chosen].mean() for chosen in exits])
        accuracy = np.array([correct[np.arange(len(distinct)), chosen].mean() for chosen in exits])
        fine = np.linspace(0, len(exits) - 1, 50 * len(exits))
        return np.interp(fine, np.arange(len(exits)), spend), np.interp(fine, np.arange(len(exits)), accuracy)


def broken_promises(line: dict[str, object], failures: bool, random_order: bool) -> list[str]:
    """What a line breaks of what the ledger promises; empty when all is well."""
    broken = []
    if int(str(line["spent"])) > int(str(line["budget"])):
        broken.append("spent more than the budget")
    if line["unlabelled"] and not line["reserve_lost"]:
        broken.append("images without a label")
    if not failures and float(str(line["used_fraction"])) < 0.98:
        broken.append("less than 98 % used")
    if random_order and float(str(line["accuracy"])) < float(str(line["fixed_policy_accuracy"])) - 0.003:
        broken.append("more than 0.3 points below the best fixed policy")
    return broken


def main(argv: Sequence[str] | None = None) -> int:
    """Print the lines; 1 when one breaks a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", help="npz with confidence and correct; synthetic when absent")
    parser.add_argument("--quick", action="store_true", help="leave out the large fleets")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    options = parser.parse_args(argv)
    table = read_table(options.table) if options.table else synthetic_table(25_000, seed=0)
    simulation, failed = Simulation(table), False
    for case in cases(options.quick):
        if options.only not in case.name:
            continue
        line = simulation.run(case)
        failures = bool(case.fleet.death_probability or case.fleet.kill_every)
        broken = broken_promises(line, failures, case.order == "random" and not failures)
        failed |= bool(broken)
        print(json.dumps(line | ({"broken": broken} if broken else {})), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
