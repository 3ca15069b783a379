"""Which of several ways to answer is worth having, judged on images that its policies were not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anchornet.budget.exit_table import ExitTable, HeldOut
from anchornet.budget.frontier import Frontier, fit_frontier

NUM_SPENDS = 33
"""Spends at which accuracies are compared."""


@dataclass(frozen=True)
class Choice:
    """The way that was chosen."""

    name: str
    frontier: Frontier
    accuracies: Mapping[str, float | None]
    """Of every way: cross-fitted accuracy (fraction), averaged over the spends; None without labels."""

    def report(self) -> str | None:
        """A sentence on what was chosen and why; None where there was no choice."""
        if len(self.accuracies) == 1:
            return None
        if self.accuracies[self.name] is None:
            return f"Chosen: {self.name}, because without labels nothing tells {' from '.join(self.accuracies)}."
        found = ", ".join(f"{name} {100 * (value or 0):.2f} %" for name, value in self.accuracies.items())
        return f"Chosen: {self.name}. Cross-fitted accuracy, averaged over the budgets: {found}."


def choose_frontier(tables: Mapping[str, ExitTable | HeldOut], margin: float = 0.0) -> Choice:
    """The way whose frontier has the highest mean cross-fitted accuracy over the spends that any of them can make use of.

    tables: the exits of the same images in each way, at least one. margin: accuracy (fraction) by which a way must lead the
    first one to be preferred. Among equals, and without labels, it is the first one.
    """
    frontiers = {name: fit_frontier(table) for name, table in tables.items()}
    low = min(frontier.costs_macs[0] for frontier in frontiers.values())
    high = max(frontier.costs_macs[-1] for frontier in frontiers.values())
    spends = np.linspace(low, high, NUM_SPENDS)
    accuracies = {name: mean_accuracy(frontier, spends) for name, frontier in frontiers.items()}
    first = next(iter(frontiers))
    name = max(frontiers, key=lambda each: (accuracies[each] or 0.0) - margin * (each != first))  # the first of equals
    return Choice(name, frontiers[name], accuracies)


def mean_accuracy(frontier: Frontier, spends_macs: np.ndarray) -> float | None:
    """Cross-fitted accuracy averaged over spends; beyond its useful maximum a frontier spends no more. None without labels."""
    accuracies = [point.accuracy for point in frontier.points]
    if None in accuracies:
        return None
    return float(np.interp(spends_macs, frontier.costs_macs, np.array(accuracies, np.float64)).mean())
