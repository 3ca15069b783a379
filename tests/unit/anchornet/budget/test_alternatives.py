"""Choosing between ways to answer: by accuracy on images a policy was not fitted on, over all budgets, never by chance names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anchornet.budget.alternatives import Choice, choose_frontier, mean_accuracy
from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import fit_frontier
from benchmarks.tables import synthetic_table

TABLE = synthetic_table(2000, 0)


def worse(table: ExitTable, share: float) -> ExitTable:
    """The same table with a share of the images wrong at every exit but the first."""
    assert table.label is not None
    wrong = np.random.default_rng(1).random(len(table)) < share
    prediction = table.prediction.copy()
    prediction[wrong, 1:] = ((table.label[wrong] + 1) % 2)[:, None]
    return replace(table, prediction=prediction)


@pytest.mark.parametrize("names", [("last", "mean"), ("mean", "last")])
def test_the_more_accurate_one_is_chosen_whatever_its_place(names: tuple[str, str]) -> None:
    tables = {names[0]: worse(TABLE, 0.2), names[1]: TABLE}
    choice = choose_frontier(tables)
    assert choice.name == names[1]
    assert choice.frontier == fit_frontier(TABLE)
    low, high = (choice.accuracies[name] or 0.0 for name in names)
    assert 0 < low < high < 1


def test_equals_leave_it_at_the_first() -> None:
    assert choose_frontier({"last": TABLE, "mean": TABLE}).name == "last"
    assert choose_frontier({"mean": TABLE, "last": TABLE}).name == "mean"


def test_without_labels_it_is_the_first_and_the_report_says_why() -> None:
    blind = replace(TABLE, label=None)
    choice = choose_frontier({"last": blind, "mean": blind})
    assert choice.accuracies == {"last": None, "mean": None}
    assert choice.report() == "Chosen: last, because without labels nothing tells last from mean."


def test_the_report_gives_all_of_them_and_is_silent_without_a_choice() -> None:
    choice = choose_frontier({"last": worse(TABLE, 0.2), "mean": TABLE})
    said = choice.report()
    assert said is not None
    assert said.startswith("Chosen: mean. Cross-fitted accuracy, averaged over the budgets: last ")
    assert f"mean {100 * (choice.accuracies['mean'] or 0):.2f} %" in said
    assert choose_frontier({"cascade": TABLE}).report() is None
    assert Choice("a", choice.frontier, {"a": 0.25, "b": 0.125}).report() == (
        "Chosen: a. Cross-fitted accuracy, averaged over the budgets: a 25.00 %, b 12.50 %."
    )


def test_accuracy_is_averaged_over_spends_and_holds_beyond_the_useful_maximum() -> None:
    frontier = fit_frontier(TABLE)
    first, last = frontier.points[0], frontier.points[-1]
    assert mean_accuracy(frontier, np.array([first.expected_macs])) == pytest.approx(first.accuracy)
    assert mean_accuracy(frontier, np.array([last.expected_macs, 9 * last.expected_macs])) == pytest.approx(
        last.accuracy
    )
    both = mean_accuracy(frontier, np.array([first.expected_macs, last.expected_macs]))
    assert both == pytest.approx(((first.accuracy or 0) + (last.accuracy or 0)) / 2)
