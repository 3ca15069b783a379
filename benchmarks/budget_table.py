"""What a budget buys on a table it was not fitted on, beside the points that the authors published.

    python -m benchmarks.budget_table --fit A.npz --score B.npz --gflops 0.9 1.0 1.1 1.2 1.4 1.6 1.8 [--unlabelled]
    python -m benchmarks.budget_table --halves 10 --table FILE.npz [--unlabelled]

One JSON object per line and budget:

    asked, spent         GFLOPs per image: the budget, and the mean on B
    accuracy             fraction right on B
    policies             the two neighbouring policies that are mixed: thresholds, and the fraction of images that follow each
    authors_accuracy     the authors' published thresholds, scored on B and interpolated at ``spent``

``--halves N`` splits one table N times at random, fits on one half and scores on the other; a line per budget with means
over the halves: ``spent_error`` = mean of spent / asked - 1, ``gain_points`` = 100 x mean of accuracy - authors_accuracy,
``_sd`` their standard deviations over the halves.
Tables: arrays ``confidence`` and ``correct``, first five columns; cost of k looks 0.7898 k GFLOPs, + 0.0605 for k >= 2.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier, first_exit, fit_frontier
from anchornet.units import GIGA
from benchmarks.tables import read_table

GFLOPS = (0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 1.8)
PUBLISHED = "anchornet_published.csv"


def published_file() -> Path:
    """The authors' points: in ANCHORNET_SHARED_DATA, else in ../shared/data beside the checkout."""
    root = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("ANCHORNET_SHARED_DATA") or root / "shared" / "data") / PUBLISHED


def read_authors(path: Path) -> np.ndarray:
    """(points, 5) float32 thresholds that the authors published; the last takes everything."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    thresholds = np.array([[float(row[f"t{k}"]) for k in range(1, 6)] for row in rows], np.float32)
    thresholds[:, -1] = -np.inf
    return thresholds


def score(table: ExitTable, thresholds: np.ndarray) -> tuple[float, float]:
    """(mean GFLOPs, accuracy) on ``table``; thresholds (K,) or (N, K)."""
    picked = np.arange(len(table)), first_exit(table.confidence, thresholds)
    return float(table.cost_macs[picked].mean()) / GIGA, float(table.correct[picked].mean())


def authors_curve(table: ExitTable, authors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(points,) GFLOPs and accuracy of the authors' thresholds on ``table``, cheapest first."""
    points = np.array(sorted(score(table, thresholds) for thresholds in authors))
    return points[:, 0], points[:, 1]


def lines(fit: ExitTable, judge: ExitTable, gflops: Sequence[float], authors: np.ndarray) -> list[dict[str, Any]]:
    """One line per budget; see the top of this file."""
    frontier, curve = fit_frontier(fit), authors_curve(judge, authors)
    return [line(frontier, judge, asked, curve) for asked in gflops]


def line(frontier: Frontier, judge: ExitTable, asked: float, curve: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """The line of one budget."""
    policy = frontier.at(asked)
    spent, accuracy = score(judge, policy.thresholds_for(judge.image_id))
    mixed = ((policy.low, 1 - policy.high_fraction), (policy.high, policy.high_fraction))
    return {
        "asked": asked,
        "spent": spent,
        "accuracy": accuracy,
        "policies": [{"thresholds": [str(t) for t in one.thresholds], "fraction": share} for one, share in mixed],
        "authors_accuracy": float(np.interp(spent, *curve)),
    }


def halves(
    table: ExitTable, count: int, gflops: Sequence[float], authors: np.ndarray, unlabelled: bool
) -> list[dict[str, Any]]:
    """Means over ``count`` random halves, a line per budget."""
    runs = []
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(len(table))
        first, second = (table.select(np.sort(rows)) for rows in np.array_split(order, 2))
        runs.append(lines(without_labels(first) if unlabelled else first, second, gflops, authors))
    result = []
    for column in zip(*runs, strict=True):
        spent, accuracy, theirs = (
            np.array([row[key] for row in column]) for key in ("spent", "accuracy", "authors_accuracy")
        )
        result.append(
            {
                "asked": column[0]["asked"],
                "halves": count,
                "spent_error": float(spent.mean() / column[0]["asked"] - 1),
                "spent_error_sd": float(spent.std() / column[0]["asked"]),
                "accuracy": float(accuracy.mean()),
                "gain_points": float(100 * (accuracy - theirs).mean()),
                "gain_points_sd": float(100 * (accuracy - theirs).std()),
            }
        )
    return result


def without_labels(table: ExitTable) -> ExitTable:
    """The same table as someone has it who knows no labels."""
    return ExitTable(table.exits, table.image_id, table.confidence, table.prediction, table.cost_macs)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", help="npz to fit on")
    parser.add_argument("--score", help="npz to score on")
    parser.add_argument("--gflops", type=float, nargs="+", default=list(GFLOPS))
    parser.add_argument("--unlabelled", action="store_true", help="fit on confidences alone")
    parser.add_argument("--halves", type=int, help="random halves of --table instead of --fit and --score")
    parser.add_argument("--table", help="npz to halve")
    parser.add_argument("--authors", type=Path, default=published_file(), help="the authors' published points, CSV")
    options = parser.parse_args(argv)
    authors = read_authors(options.authors)
    if options.halves:
        if not options.table:
            parser.error("--halves needs --table")
        answer = halves(read_table(options.table), options.halves, options.gflops, authors, options.unlabelled)
    else:
        if not (options.fit and options.score):
            parser.error("give --fit and --score, or --halves and --table")
        fit = read_table(options.fit)
        fit = without_labels(fit) if options.unlabelled else fit
        answer = lines(fit, read_table(options.score), options.gflops, authors)
    for row in answer:
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
