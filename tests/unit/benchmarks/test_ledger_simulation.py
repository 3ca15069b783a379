"""The simulation that shows the ledger's promise: its orders are what they are called, its judgement is not empty."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import ledger_simulation
from benchmarks.replay import Fleet
from benchmarks.tables import ANCHOR_FIRST_MACS, EXIT_MACS, anchor_first, read_table, sparse, synthetic_table

KEYS = {"case", "budget", "spent", "used_fraction", "accuracy", "fixed_policy_accuracy", "unlabelled", "batches"}
GOOD = {
    "spent": 99, "budget": 100, "unlabelled": 0, "used_fraction": 0.99,
    "accuracy": 0.7, "fixed_policy_accuracy": 0.702, "batches": [800, 100],
}  # fmt: skip


def case(**changes: object) -> ledger_simulation.Case:
    values = {"layout": "1 stage", "label": "random order", "gflops": 1.1} | changes
    return ledger_simulation.Case(**values)  # type: ignore[arg-type]


def test_a_case_is_one_json_line_and_keeps_its_promises(capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger_simulation.main(["--only", "2 stages, both, budget 1.1"]) == 0
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert set(line) >= KEYS and line["kills"] > 0 and line["lost_fraction"] > 0
    assert line["spent"] <= line["budget"]


def test_a_line_is_a_row_of_a_table() -> None:
    line = {**GOOD, "case": "c", "budget": 25_000_400_000_000, "batches_per_exchange": 1.5, "broken": ["too much"]}
    assert ledger_simulation.table_row(line) == "| c | 25,000 | 0 | 99.00 % | 70.00 % | 70.20 % | 0; too much | 1.5 |"


@pytest.mark.parametrize(
    ("change", "judged", "broken"),
    [
        ({}, case(), []),
        ({"spent": 101}, case(), ["spent more than the budget"]),
        ({"unlabelled": 1}, case(), ["images without a label"]),
        ({"unlabelled": 1}, case(fleet=Fleet(death_probability=0.1)), []),
        ({"used_fraction": 0.97}, case(), ["less than 98 % used"]),
        ({"used_fraction": 0.97, "batches": [800, 99]}, case(), []),
        ({"used_fraction": 0.97}, case(fleet=Fleet(kill_every=3)), []),
        ({"accuracy": 0.698}, case(), ["more than 0.3 points below the best fixed policy"]),
        ({"accuracy": 0.698}, case(order="blocks"), []),
        ({"accuracy": 0.698}, case(calibration="easy half"), []),
        ({"accuracy": 0.698}, case(num_images=1_000), []),
    ],
)
def test_broken_promises_are_named(
    change: dict[str, object], judged: ledger_simulation.Case, broken: list[str]
) -> None:
    assert ledger_simulation.broken_promises({**GOOD, **change}, judged) == broken


@pytest.mark.parametrize("order", ["random", "easy first", "hard first", "hard last", "blocks"])
def test_orders_keep_every_row_and_the_manifest_mixes_all_but_blocks(order: str) -> None:
    table, random = synthetic_table(1000, 0), np.random.default_rng(0)
    rows = np.arange(0, 1000, 2)
    listed = ledger_simulation.listed(table, rows, order, random)
    mixed = ledger_simulation.manifest(listed, order, random)
    assert sorted(listed) == sorted(mixed) == sorted(rows)
    first, last = (table.confidence[part, 0].mean() for part in (listed[:100], listed[-100:]))
    assert {"easy first": first > last, "hard first": first < last, "hard last": last < 0.5}.get(order, True)
    block_means = table.confidence[mixed, 0].reshape(100, 5).mean(axis=1)
    assert bool(block_means.std() > 0.22) is (order == "blocks")


def test_the_sparse_table_costs_two_fifths_of_the_dense_one() -> None:
    table = sparse(synthetic_table(5_000, 0), 0)
    assert table.cost_macs[:, 0].mean() / EXIT_MACS[0] == pytest.approx(0.4, abs=0.01)
    assert (table.cost_macs[:, -1] <= sum(EXIT_MACS)).all()


def test_anchor_first_is_cheaper_and_worse_than_the_glance() -> None:
    table = anchor_first(synthetic_table(5_000, 0), 0)
    assert table.exits[:2] == ("anchor", "glance")
    assert table.cost_macs[0].tolist() == np.cumsum(ANCHOR_FIRST_MACS).tolist()
    assert table.correct[:, 0].mean() < table.correct[:, 1].mean() - 0.03


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
