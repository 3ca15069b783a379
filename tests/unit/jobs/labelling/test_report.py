"""The report of a label job, from a ledger's integers and a folder of rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.data.inputs import InputSettings
from anchornet.images.preprocess import Preprocessing
from anchornet.ledger.plan import LedgerPlan
from anchornet.units import GIGA
from benchmarks.tables import EXIT_MACS, EXITS, synthetic_table
from jobs.labelling.plan import LabelPlan
from jobs.labelling.report import exit_code, make_report, render
from jobs.settings.common import PoolSettings, RunSettings
from jobs.settings.label import BudgetSettings, LabelConfig
from jobs.shell.run_folder import RunFolder

COSTS = (EXIT_MACS[0] / GIGA, (EXIT_MACS[0] + EXIT_MACS[1]) / GIGA)
"""GFLOPs of leaving at the first and at the second exit."""
IMAGES = 6


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return fit_frontier(synthetic_table(2000, 0))


def config(folder: Path) -> LabelConfig:
    return LabelConfig(
        run=RunSettings(folder=str(folder)),
        bundle="b",
        input=InputSettings(path="i"),
        budget=BudgetSettings(gflops_per_image=1.2),
    )


def a_plan(frontier: Frontier, num_labelled: int = 0, spent_macs: int = 0) -> LabelPlan:
    ledger = LedgerPlan(
        budget_macs=round(1.2 * IMAGES * GIGA),
        num_images=IMAGES - num_labelled,
        exit_macs=EXIT_MACS,
        stage_starts=(0, 1),
        frontier=frontier,
    )
    return LabelPlan(
        num_images=IMAGES,
        num_labelled=num_labelled,
        spent_macs=spent_macs,
        policy=frontier.at(1.2),
        ledger=ledger,
        exits=EXITS,
        stages=("glance", "patches"),
        pools=(PoolSettings(), PoolSettings()),
        preprocessing=Preprocessing(),
    )


def write_labels(folder: Path, *, ids: list[int], unreadable: int = 0, costs: tuple[float, float] = COSTS) -> int:
    """Rows of these images: unreadable ones first, then by turns at the first and the second exit. Their multiply-adds."""
    cost = [0.0 if i < unreadable else costs[i % 2] for i in range(len(ids))]
    rows = {
        "image_id": pa.array(ids, pa.int64()),
        "status": ["unreadable" if i < unreadable else "ok" for i in range(len(ids))],
        "error": pa.array(["empty file" if i < unreadable else None for i in range(len(ids))], pa.string()),
        "exit": pa.array([None if i < unreadable else EXITS[i % 2] for i in range(len(ids))], pa.string()),
        "gflops": pa.array(cost, pa.float64()),
    }
    labels = Path(RunFolder(str(folder)).labels)
    labels.mkdir(parents=True)
    pq.write_table(pa.table(rows), labels / "a.parquet")
    return round(sum(cost) * GIGA)


def a_report(folder: Path, frontier: Frontier, all_spent: int, **plan: int) -> dict[str, Any]:
    return make_report(config(folder), a_plan(frontier, **plan), {"spent_macs": all_spent}, wall_s=4.0)


def test_spend_beyond_the_labels_is_waste(tmp_path: Path, frontier: Frontier) -> None:
    in_labels = write_labels(tmp_path, ids=list(range(IMAGES)))
    budget = a_report(tmp_path, frontier, in_labels + 2 * GIGA)["budget"]
    assert budget["in_labels_gflops"] == pytest.approx(3 * COSTS[0] + 3 * COSTS[1])
    assert budget["wasted_gflops"] == pytest.approx(2.0)
    assert budget["spent_gflops"] == pytest.approx(budget["in_labels_gflops"] + 2)
    assert budget["asked_gflops"] == pytest.approx(7.2)
    assert budget["used_fraction"] == pytest.approx(budget["spent_gflops"] / 7.2)
    assert budget["mode"] == "hard"


def test_what_is_planned_counts_earlier_starts(tmp_path: Path, frontier: Frontier) -> None:
    write_labels(tmp_path, ids=list(range(IMAGES)))
    report = a_report(tmp_path, frontier, 7 * GIGA, num_labelled=2, spent_macs=3 * GIGA)
    assert report["budget"]["planned_gflops"] == pytest.approx(3 + 1.2 * 4)
    assert report["labelled_in_this_start"] == 4
    assert report["images_per_s"] == pytest.approx(1.0)
    assert report["wall_s"] == 4.0
    assert "4 images in 4.0 s, 1.0 images/s" in render(report)
    nothing = a_report(tmp_path, frontier, 7 * GIGA, num_labelled=IMAGES, spent_macs=7 * GIGA)
    assert "images/s" not in render(nothing)


@pytest.mark.parametrize(
    ("ids", "missing", "repeated"),
    [([0, 1, 2, 3, 4, 5], 0, 0), ([0, 1, 2, 3, 4], 1, 0), ([0, 1, 2, 3, 4, 5, 5], 0, 1)],
    ids=["whole", "one missing", "one twice"],
)
def test_complete_is_one_row_for_each_image(
    tmp_path: Path, frontier: Frontier, ids: list[int], missing: int, repeated: int
) -> None:
    write_labels(tmp_path, ids=ids)
    report = a_report(tmp_path, frontier, 7 * GIGA)
    assert (report["images"], report["missing"], report["repeated"]) == (IMAGES, missing, repeated)
    assert report["complete"] == (missing == repeated == 0)
    assert exit_code(report, 1.0) == (0 if report["complete"] else 1)
    assert ("WITHOUT A ROW" in render(report)) == (not report["complete"])


def test_counts_are_those_of_the_rows(tmp_path: Path, frontier: Frontier) -> None:
    write_labels(tmp_path, ids=list(range(IMAGES)), unreadable=2)
    report = a_report(tmp_path, frontier, 7 * GIGA)
    assert report["status"] == {"ok": 4, "unreadable": 2, "failed": 0}
    assert report["errors"] == {"empty file": 2}
    assert report["exits_realised"] == {"glance": 2, "patch1": 2, "patch2": 0, "patch3": 0, "patch4": 0}
    assert list(report["exits_planned"]) == list(EXITS)
    assert sum(report["exits_planned"].values()) == pytest.approx(1)
    text = render(report)
    assert "6 images: 4 ok, 2 unreadable, 0 failed" in text
    assert "  2 x empty file" in text
    assert "exits: glance 2, patch1 2, patch2 0" in text
    assert "97.2 %" in text  # 7 of 7.2 GFLOPs


def test_the_expected_accuracy_is_that_of_what_labels_cost(tmp_path: Path, frontier: Frontier) -> None:
    write_labels(tmp_path, ids=list(range(IMAGES)), unreadable=2)
    report = a_report(tmp_path, frontier, 7 * GIGA)
    mean = (2 * COSTS[0] + 2 * COSTS[1]) / 4  # unreadable files cost nothing and have no label
    assert report["accuracy_expected"] == pytest.approx(frontier.at(mean).accuracy)
    assert report["accuracy_planned"] == frontier.at(1.2).accuracy
    assert f"expected accuracy {100 * report['accuracy_expected']:.1f} %" in render(report)


@pytest.mark.parametrize("end", ["minimum_gflops", "maximum_gflops"])
def test_labels_that_cost_more_or_less_than_any_policy_have_the_accuracy_of_the_nearest(
    end: str, tmp_path: Path, frontier: Frontier, caplog: pytest.LogCaptureFixture
) -> None:
    nearest = getattr(frontier, end)
    beyond = nearest / 2 if end == "minimum_gflops" else nearest * 2
    write_labels(tmp_path, ids=list(range(IMAGES)), costs=(beyond, beyond))
    report = a_report(tmp_path, frontier, 7 * GIGA)
    assert report["accuracy_expected"] == frontier.at(nearest).accuracy
    assert not caplog.messages  # nobody asked for a budget beyond the frontier


def test_a_calibration_without_labels_promises_no_accuracy(tmp_path: Path) -> None:
    frontier = fit_frontier(replace(synthetic_table(2000, 0), label=None))
    write_labels(tmp_path, ids=list(range(IMAGES)))
    report = a_report(tmp_path, frontier, 7 * GIGA)
    assert report["accuracy_expected"] is report["accuracy_planned"] is None
    assert "accuracy" not in render(report)


def test_the_commonest_reasons_come_first_and_only_some_are_shown(tmp_path: Path, frontier: Frontier) -> None:
    write_labels(tmp_path, ids=list(range(IMAGES)), unreadable=2)
    table = pq.read_table(tmp_path / "labels" / "a.parquet")
    reasons = ["g", "a", "b", "c", "d", "e"]
    more = table.set_column(table.column_names.index("error"), "error", pa.array(reasons))
    pq.write_table(pa.concat_tables([table, more, more.slice(0, 1)]), tmp_path / "labels" / "a.parquet")
    report = a_report(tmp_path, frontier, 7 * GIGA)
    assert list(report["errors"].items()) == [("empty file", 2), ("g", 2), *((name, 1) for name in "abcde")]
    assert [line for line in render(report).splitlines() if " x " in line] == [
        "  2 x empty file", "  2 x g", "  1 x a", "  1 x b", "  1 x c",
    ]  # fmt: skip


def test_without_a_label_no_accuracy_is_claimed(tmp_path: Path, frontier: Frontier) -> None:
    write_labels(tmp_path, ids=list(range(IMAGES)), unreadable=IMAGES)
    report = a_report(tmp_path, frontier, 0)
    assert report["accuracy_expected"] is None
    assert "expected accuracy" not in render(report)


@pytest.mark.parametrize(
    ("ok", "fraction", "code"), [(6, 0.0, 0), (5, 0.0, 1), (5, 1 / 6 + 1e-9, 0), (3, 0.49, 1), (0, 1.0, 0)]
)
def test_the_exit_code_counts_failures(ok: int, fraction: float, code: int) -> None:
    assert exit_code({"status": {"ok": ok}, "images": IMAGES, "complete": True}, fraction) == code
    assert exit_code({"status": {"ok": ok}, "images": IMAGES, "complete": False}, fraction) == 1
