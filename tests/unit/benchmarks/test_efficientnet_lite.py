"""The comparison of two public classifiers: what counts as agreement, which photographs are taken, what the table says."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from anchornet.budget.frontier import fit_frontier
from anchornet.bundle import load_bundle, save_bundle
from anchornet.systems.models.system import SYSTEM
from benchmarks import efficientnet_lite
from benchmarks.tables import synthetic_table
from tests import small_classifiers


def table(**labels: str | None) -> pa.Table:
    return pa.table({"uri": list(labels), "label": pa.array(list(labels.values()), pa.string())})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (table(a="x", b="y", c="z", d="x"), 1.0),
        (table(d="x", c="x", b="y", a="x"), 0.75),
        (table(a="x", b=None, c=None), 0.25),
    ],
    ids=["the same", "in another order", "rows without a label, and none"],
)
def test_images_agree_by_their_name(labels: pa.Table, expected: float) -> None:
    assert efficientnet_lite.agreement(labels, table(a="x", b="y", c="z", d="x")) == expected


def write_photographs(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / efficientnet_lite.SETS[number % 2] / "test" / "kind" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))


def test_photographs_are_drawn_by_a_fixed_seed(tmp_path: Path) -> None:
    write_photographs(tmp_path, 20)
    drawn = []
    for name in ("first", "second"):
        efficientnet_lite.sample(tmp_path, "test", 8, tmp_path / name)
        drawn.append([path.read_text() for path in sorted((tmp_path / name).iterdir())])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 8
    with pytest.raises(SystemExit, match="holds 20 photographs of test, 21 are asked for; ask for fewer"):
        efficientnet_lite.sample(tmp_path, "test", 21, tmp_path / "third")


def test_both_bundles_are_calibrated_from_one_pass(tmp_path: Path) -> None:
    """Two small classifiers in place of the Lite ones: the cascade, and its last member alone."""
    files = small_classifiers.write_weights(tmp_path)
    members = small_classifiers.members(files)
    for name, kept in (("cascade", members), ("alone", members[1:])):
        settings = small_classifiers.settings(members=kept)
        parts = SYSTEM.import_weights(settings, settings.weight_files, {}, small_classifiers.CLASSES)
        save_bundle(str(tmp_path / name), parts, settings)
    (tmp_path / "calibrate").mkdir()
    for number in range(12):
        Image.fromarray(small_classifiers.picture(number)).save(tmp_path / "calibrate" / f"{number}.png")
    efficientnet_lite.calibrate(tmp_path)
    both, alone = (load_bundle(str(tmp_path / name)) for name in ("cascade", "alone"))
    assert both.exit_table is not None
    assert alone.exit_table is not None
    assert both.exit_table.exits == ("small", "large")
    assert both.exit_table.correct[:, 1].all()  # the last member's answer is the truth
    assert alone.exit_table.exits == ("large",)
    assert (alone.exit_table.prediction == both.exit_table.prediction[:, 1:]).all()
    assert alone.exit_table.cost_macs[0, 0] == alone.cascade().exits[0].macs


def test_a_row_says_what_was_asked_spent_and_agreed_on() -> None:
    report = {
        "images": 4,
        "budget": {"asked_gflops": 2.0, "spent_gflops": 1.8},
        "accuracy_expected": 0.7,
        "exits_realised": {"lite0": 3, "lite2": 1},
        "images_per_s": 12.345,
    }
    truth = table(a="x", b="y", c="z", d="x")
    row = efficientnet_lite.row("both", report, table(a="x", b="y", c="z", d="y"), truth)
    assert efficientnet_lite.cells(row) == ["both", "0.500", "0.450", "75.0 %", "70.0 %", "75.0 %", "12.3"]
    alone = efficientnet_lite.row("alone", {**report, "exits_realised": {"lite2": 4}}, truth, truth)
    assert efficientnet_lite.cells(alone)[3:6] == ["100.0 %", "70.0 %", ""]


def test_the_last_network_alone_costs_only_what_it_costs() -> None:
    both = synthetic_table(50, 0)
    alone = efficientnet_lite.last_alone(both)
    assert alone.exits == both.exits[-1:]
    assert (alone.cost_macs[:, 0] == both.cost_macs[:, -1] - both.cost_macs[:, -2]).all()
    assert (alone.prediction[:, 0] == both.prediction[:, -1]).all()
    assert len(fit_frontier(alone).points) == 1
