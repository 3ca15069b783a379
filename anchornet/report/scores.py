"""Accuracy and cost of a cascade on labelled images, from its exit tables: arrays in, plain rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier, first_exit
from anchornet.units import GIGA, gflops_text

Row = dict[str, Any]


def exit_rows(table: ExitTable) -> list[Row]:
    """One row per exit when every image leaves there: accuracy (fraction), its standard error, mean GFLOPs per image.

    Without labels only the GFLOPs.
    """
    if table.label is None:
        spend_K = table.cost_macs.mean(axis=0) / GIGA
        return [{"exit": name, "gflops": float(gflops)} for name, gflops in zip(table.exits, spend_K, strict=True)]
    return [{"exit": name, **_score(table.correct[:, k], table.cost_macs[:, k])} for k, name in enumerate(table.exits)]


def classes_without_images(table: ExitTable, classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes that no image of a labelled table is of; none of an unlabelled one."""
    if table.label is None:
        return ()
    counts = np.bincount(table.label, minlength=len(classes))
    return tuple(name for name, count in zip(classes, counts, strict=True) if not count)


def frontier_rows(frontier: Frontier, table: ExitTable, gflops: Sequence[float]) -> list[Row]:
    """One row per asked budget: what the frontier promised, and what its policy gives on ``table``."""
    rows = []
    for asked in gflops:
        policy = frontier.at(asked)
        leaves = first_exit(table.confidence, policy.thresholds_for(table.image_id))
        picked = np.arange(len(leaves)), leaves
        row = {"asked_gflops": asked, **_score(table.correct[picked], table.cost_macs[picked])}
        counts = np.bincount(leaves, minlength=len(table.exits))
        row["exits"] = {name: int(count) for name, count in zip(table.exits, counts, strict=True)}
        row["expected_accuracy"] = policy.accuracy
        rows.append(row)
    return rows


def promise_rows(frontier: Frontier, gflops: Sequence[float]) -> list[Row]:
    """One row per budget: what the frontier promises for images like those it was fitted on."""
    rows = []
    for asked in gflops:
        policy = frontier.at(asked)
        exits = dict(zip(frontier.exits, policy.exit_fractions, strict=True))
        row = {
            "gflops": asked,
            "accuracy": policy.accuracy,
            "accuracy_standard_error": policy.accuracy_se,
            "exits": exits,
        }
        rows.append({**row, "leaving": ", ".join(f"{name} {100 * share:.0f} %" for name, share in exits.items())})
    return rows


def spread(frontier: Frontier, num_budgets: int) -> tuple[float, ...]:
    """``num_budgets`` budgets evenly spaced over the useful range of the frontier, in GFLOPs per image; of a single point
    there is but one budget."""
    if len(frontier.points) == 1:
        return (frontier.minimum_gflops,)
    budgets = np.linspace(frontier.minimum_gflops, frontier.maximum_gflops, num_budgets)
    return tuple(float(budget) for budget in budgets)


def single_point(frontier: Frontier) -> str | None:
    """A sentence about a frontier of a single point; None for any other."""
    if len(frontier.points) > 1:
        return None
    [point] = frontier.points
    name = frontier.exits[int(np.argmax(point.exit_fractions))]
    return (
        f"The frontier is a single point, {gflops_text(frontier.minimum_gflops)} GFLOPs per image: on the calibration images "
        f"no later exit was worth its cost, so every image leaves at {name}, and a larger budget buys nothing."
    )


def cheapest_as_good(rows: Sequence[Row], accuracy: float) -> Row | None:
    """The cheapest row whose accuracy is at least ``accuracy``; None when there is none."""
    good = [row for row in rows if row["accuracy"] >= accuracy]
    return min(good, key=lambda row: row["gflops"], default=None)


def markdown(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A table of ``rows``; columns: key -> heading. Fractions named ``accuracy`` are shown in percent, ``gflops`` as people
    read and type them."""
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(key, row.get(key)) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def _score(correct_N: np.ndarray, macs_N: np.ndarray) -> Row:
    accuracy = float(correct_N.mean())
    return {
        "accuracy": accuracy,
        "accuracy_standard_error": float(np.sqrt(accuracy * (1 - accuracy) / len(correct_N))),
        "gflops": float(macs_N.mean()) / GIGA,
    }


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if "accuracy" in key:
        return f"{100 * value:.1f} %"
    if "gflops" in key:
        return gflops_text(value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
