"""Calibration looks at its data before it touches the bundle, and says what a budget buys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.bundle import assemble_bundle
from anchornet.data.listing import DatasetSettings
from anchornet.systems.anchornet.settings import AnchorNetSettings
from benchmarks.tables import EXITS, synthetic_table
from jobs import calibrate
from jobs.settings.common import RunSettings
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


TABLE = synthetic_table(2000, 0)


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return fit_frontier(TABLE)


def test_the_report_holds_the_range_of_budgets_and_what_each_exit_is_worth(frontier: Frontier) -> None:
    report = calibrate.summarise(frontier, TABLE)
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
    text = calibrate.render(calibrate.summarise(frontier, TABLE))
    head, _, table = text.partition("\n\n")
    assert head == f"2,000 images; spend of a fixed policy is known to {100 * frontier.spend_error:.1f} %"
    assert table.startswith("| GFLOPs per image | accuracy | standard error | leaving at |")
    assert len(table.strip().splitlines()) == 2 + calibrate.NUM_BUDGETS


def test_a_single_point_is_one_line_and_a_sentence(frontier: Frontier) -> None:
    text = calibrate.render(calibrate.summarise(replace(frontier, points=frontier.points[:1]), TABLE))
    assert sum(line.startswith("|") for line in text.splitlines()) == 2 + 1
    assert "The frontier is a single point" in text


def test_what_was_chosen_is_a_sentence_below_the_table(frontier: Frontier) -> None:
    text = calibrate.render({**calibrate.summarise(frontier, TABLE), "choice": "Chosen: mean."})
    assert text.endswith("|\n\nChosen: mean.\n")


@pytest.mark.parametrize(("used", "said"), [(10, []), (7, ["3 of 10 images could not be read and are not in the"])])
def test_images_that_are_missing_are_said(used: int, said: list[str], caplog: pytest.LogCaptureFixture) -> None:
    calibrate._warn_of_unreadable(10, used)
    assert [message[: len(said[0])] for message in caplog.messages] == said


def test_class_names_are_those_of_the_models_or_of_the_bundle_that_is_there(tmp_path: Path) -> None:
    models = save_tiny_models(str(tmp_path / "models"))
    bundle = str(tmp_path / "bundle")
    data, run = DatasetSettings(path="d"), RunSettings(folder="r")
    assert calibrate._classes(CalibrateConfig(run=run, bundle="none yet", data=data, models=models)) == CLASSES
    assemble_bundle(bundle, models, AnchorNetSettings())
    assert calibrate._classes(CalibrateConfig(run=run, bundle=bundle, data=data)) == CLASSES
    with pytest.raises(ValueError, match="system anchornet has the networks anchornet, glance, patch, got glance"):
        calibrate._classes(CalibrateConfig(run=run, bundle=bundle, data=data, models={"glance": models["glance"]}))
