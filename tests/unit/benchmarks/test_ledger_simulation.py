"""The simulation that shows the ledger's promise: its orders are what they are called, its judgement is not empty."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import ledger_simulation
from benchmarks.tables import read_table, synthetic_table

KEYS = {"case", "budget", "spent", "used_fraction", "accuracy", "fixed_policy_accuracy", "unlabelled", "reserve_lost"}
GOOD = {
    "spent": 99, "budget": 100, "unlabelled": 0, "reserve_lost": False, "used_fraction": 0.99,
    "accuracy": 0.7, "fixed_policy_accuracy": 0.702,
}  # fmt: skip


def test_a_case_is_one_json_line_and_keeps_its_promises(capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger_simulation.main(["--only", "2 stages, both, budget 1.1"]) == 0
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert set(line) >= KEYS and line["kills"] > 0 and line["lost_fraction"] > 0
    assert line["spent"] <= line["budget"]


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, []),
        ({"spent": 101}, ["spent more than the budget"]),
        ({"unlabelled": 1}, ["images without a label"]),
        ({"unlabelled": 1, "reserve_lost": True}, []),
        ({"used_fraction": 0.97}, ["less than 98 % used"]),
        ({"accuracy": 0.698}, ["more than 0.3 points below the best fixed policy"]),
    ],
)
def test_broken_promises_are_named(change: dict[str, object], broken: list[str]) -> None:
    assert ledger_simulation.broken_promises({**GOOD, **change}, failures=False, random_order=True) == broken


@pytest.mark.parametrize("order", ["random", "easy first", "hard first", "hard last", "blocks"])
def test_orders_keep_every_row(order: str) -> None:
    table = synthetic_table(1000, 0)
    rows = np.arange(0, 1000, 2)
    arranged = ledger_simulation.arrange(table, rows, order, np.random.default_rng(0))
    assert sorted(arranged) == sorted(rows)
    first, last = (table.confidence[part, 0].mean() for part in (arranged[:100], arranged[-100:]))
    assert {"easy first": first > last, "hard first": first < last, "hard last": last < 0.5}.get(order, True)


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in ledger_simulation.cases(quick=False)]
    assert len(names) == len(set(names)) > 80


def test_the_synthetic_table_resembles_the_published_one() -> None:
    correct = synthetic_table(20_000, 0).correct.mean(axis=0)
    assert 0.68 < correct[0] < 0.74 < correct[-1] < 0.82


def test_a_table_without_the_arrays_is_refused(tmp_path: object) -> None:
    path = f"{tmp_path}/other.npz"
    np.savez(path, confidence=np.zeros((3, 2)), correct=np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="must hold confidence and correct"):
        read_table(path)
