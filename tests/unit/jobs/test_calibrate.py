"""Calibration looks at its data before it touches the bundle, and says what a budget buys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from anchornet.budget.combination import Combination, View
from anchornet.budget.exit_table import ExitTable, HeldOut
from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.bundle import assemble_bundle, load_bundle, write_calibration
from anchornet.cascade.view_table import Combined
from anchornet.data.listing import DatasetSettings
from anchornet.data.unlabelled import list_unlabelled
from anchornet.systems.anchornet.settings import AnchorNetSettings
from benchmarks.tables import EXITS, synthetic_table
from jobs import calibrate
from jobs.data.dataset import _RowReader
from jobs.scoring.exits import CASCADE, ExitActor, ExitWork, _exit_table, exit_names
from jobs.settings.common import InferenceSettings, PoolSettings, RunSettings
from jobs.settings.scoring import CalibrateConfig
from tests.small_images import encode
from tests.tiny_bundle import CLASSES, save_tiny_models


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "does not exist"), ("held_out", "does not know, such as 'dog'")]
)
def test_unusable_data_leave_a_bundle_as_it_is(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "frontier.json").write_text("of an earlier calibration")
    (tmp_path / "held_out" / "dog").mkdir(parents=True)
    (tmp_path / "held_out" / "dog" / "1.png").write_bytes(encode(0))
    settings = [f"run.folder={tmp_path / 'run'}", f"bundle={bundle}", f"data.path={tmp_path / name}"]
    settings += [f"models.{role}={folder}" for role, folder in save_tiny_models(str(tmp_path / "models")).items()]
    assert calibrate.main([part for setting in settings for part in ("--set", setting)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in bundle.iterdir()] == ["frontier.json"]
    assert not (tmp_path / "run").exists()


def by_tables(table: ExitTable) -> Combined:
    """A table as the sum of one view per exit would have given it."""
    rule = Combination.of("sum", [[View(name)] for name in table.exits])
    return Combined(rule, HeldOut.plain(table))


def report_of(frontier: Frontier, table: ExitTable, classes: tuple[str, ...]) -> dict[str, Any]:
    return {**calibrate.summarise(frontier, by_tables(table), classes), "said": []}


TABLE = synthetic_table(2000, 0)
NAMES = ("right",)
"""Every image is of class 0."""


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return fit_frontier(TABLE)


def test_the_report_holds_the_range_of_budgets_and_what_each_exit_is_worth(frontier: Frontier) -> None:
    report = report_of(frontier, TABLE, NAMES)
    assert report["num_images"] == 2000
    assert [row["gflops"] for row in report["budgets"]][:: calibrate.NUM_BUDGETS - 1] == [
        report["minimum_gflops"],
        report["maximum_gflops"],
    ]
    assert [row["exit"] for row in report["exits"]] == list(EXITS)
    assert [row["exit"] for row in report["calibration_error"]] == list(EXITS)
    assert report["spend_error_fraction"] == frontier.spend_error
    assert report["single_point"] is None


def test_a_person_reads_a_line_per_budget_and_how_sure_the_spend_is(frontier: Frontier) -> None:
    text = calibrate.render(report_of(frontier, TABLE, NAMES))
    head, _, rest = text.partition("\n\nBy budget\n\n")
    table, _, exits = rest.partition("\n\nEvery image leaves at\n\n")
    assert head == f"2,000 images; spend of a fixed policy is known to {100 * frontier.spend_error:.1f} %"
    assert table.startswith("| GFLOPs per image | accuracy | standard error | leaving at |")
    assert len(table.strip().splitlines()) == 2 + calibrate.NUM_BUDGETS
    assert exits.startswith("| exit | GFLOPs per image | accuracy | standard error | weights of what was said |")
    assert f"| {EXITS[0]} 1.00, {EXITS[1]} 1.00 |" in exits
    assert len(exits.strip().splitlines()) == 2 + len(EXITS)


def test_a_single_point_is_one_line_and_a_sentence(frontier: Frontier) -> None:
    text = calibrate.render(report_of(replace(frontier, points=frontier.points[:1]), TABLE, NAMES))
    assert sum(line.startswith("|") for line in text.splitlines()) == 2 + 1 + 2 + len(EXITS)
    assert "The frontier is a single point" in text


def test_what_was_chosen_is_a_sentence_below_the_table(frontier: Frontier) -> None:
    text = calibrate.render({**report_of(frontier, TABLE, NAMES), "said": ["Chosen: mean."]})
    assert text.endswith("|\n\nChosen: mean.\n")


@pytest.mark.parametrize(("used", "said"), [(10, []), (7, ["3 of 10 images could not be read and are not in the"])])
def test_images_that_are_missing_are_said(used: int, said: list[str], caplog: pytest.LogCaptureFixture) -> None:
    calibrate._warn_of_unreadable(10, used)
    assert [message[: len(said[0])] for message in caplog.messages] == said


def test_classes_without_images_are_named_in_the_report(frontier: Frontier, caplog: pytest.LogCaptureFixture) -> None:
    names = ("right", *(f"class{n}" for n in range(1, 15)))
    report = report_of(frontier, TABLE, names)
    assert report["classes_without_images"] == list(names[1:])
    assert f"No calibration image is of {', '.join(names[1:11])}, ... (14 of the classes): what is" in calibrate.render(
        report
    )
    calibrate._warn_of_missing(names[1:], len(names))
    assert caplog.messages == ["14 of 15 classes have no calibration image, such as class1"]
    caplog.clear()
    calibrate._warn_of_missing((), 3)
    assert not caplog.messages
    whole = report_of(frontier, TABLE, ("right",))
    assert whole["classes_without_images"] == []
    assert "No calibration image" not in calibrate.render(whole)


def test_without_labels_the_report_says_what_it_cannot_show() -> None:
    table = replace(TABLE, label=None)
    report = report_of(fit_frontier(table), table, NAMES)
    assert not report["labelled"]
    assert report["calibration_error"] is None
    assert report["classes_without_images"] == []
    assert [set(row) for row in report["exits"]] == [{"exit", "gflops", "weights"}] * len(EXITS)
    assert report["exits"][-1]["gflops"] == pytest.approx(report["maximum_gflops"])
    json.dumps(report, allow_nan=False)
    text = calibrate.render(report)
    assert "| GFLOPs per image | leaving at |" in text
    assert "| exit | GFLOPs per image | weights of what was said |" in text
    assert "accuracy |" not in text
    assert "Without labels nothing is known to be right. So there is no accuracy here" in text
    assert calibrate.UNKNOWN not in calibrate.render(report_of(fit_frontier(TABLE), TABLE, NAMES))


def test_images_without_labels_make_a_bundle_without_confidences(tmp_path: Path) -> None:
    bundle = str(tmp_path / "bundle")
    assemble_bundle(bundle, save_tiny_models(str(tmp_path / "models")), AnchorNetSettings())
    (tmp_path / "images").mkdir()
    for number in range(12):
        (tmp_path / "images" / f"{number}.png").write_bytes(encode(number, side=256) if number else b"no picture")
    found = list_unlabelled(DatasetSettings(path=str(tmp_path / "images")), seed=0)
    work = ExitWork(bundle, PoolSettings(threads=1), InferenceSettings())
    [block] = found.blocks
    rows = pa.concat_tables(_RowReader(found, load_bundle(bundle).preprocessing)(block))
    table = _exit_table(ExitActor(work)(rows), CASCADE, exit_names(work)[CASCADE])
    assert (len(table), table.label) == (11, None)
    write_calibration(bundle, table, fit_frontier(table))
    loaded = load_bundle(bundle)
    assert loaded.frontier is not None
    assert (loaded.frontier.labelled, loaded.calibrator) == (False, None)
    assert loaded.frontier.maximum_gflops == pytest.approx(float(table.cost_macs[:, -1].mean()) / 1e9)


@pytest.mark.parametrize("labelled", [True, False])
def test_too_few_images_are_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], labelled: bool
) -> None:
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))
    for number in range(9):
        file = tmp_path / "images" / CLASSES[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(number))
    settings = [f"run.folder={tmp_path / 'run'}", f"bundle={tmp_path / 'bundle'}", f"labelled={labelled}"]
    settings += [f"models.{role}={folder}" for role, folder in save_tiny_models(str(tmp_path / "models")).items()]
    settings.append(f"data.path={tmp_path / 'images'}")
    assert calibrate.main([part for setting in settings for part in ("--set", setting)]) == 2
    assert "error: calibration needs at least 10 images, got 9; give 5,000 if you can" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_class_names_are_those_of_the_models_or_of_the_bundle_that_is_there(tmp_path: Path) -> None:
    models = save_tiny_models(str(tmp_path / "models"))
    bundle = str(tmp_path / "bundle")
    data, run = DatasetSettings(path="d"), RunSettings(folder="r")
    assert calibrate._classes(CalibrateConfig(run=run, bundle="none yet", data=data, models=models)) == CLASSES
    assemble_bundle(bundle, models, AnchorNetSettings())
    assert calibrate._classes(CalibrateConfig(run=run, bundle=bundle, data=data)) == CLASSES
    with pytest.raises(ValueError, match="system anchornet has the networks anchornet, glance, patch, got glance"):
        calibrate._classes(CalibrateConfig(run=run, bundle=bundle, data=data, models={"glance": models["glance"]}))
