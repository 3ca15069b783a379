"""What evaluation compares, and how its report reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from anchornet.budget.exit_table import ExitTable
from anchornet.bundle import assemble_bundle
from anchornet.data.listing import DatasetSettings
from anchornet.models.card import ModelCard, save_model
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.units import GIGA
from jobs import evaluate
from jobs.scoring.exits import CASCADE, FULL
from jobs.settings.common import RunSettings
from jobs.settings.scoring import EvaluateConfig
from tests.small_networks import quick
from tests.tiny_bundle import save_tiny_models


def a_table(*exits: str) -> ExitTable:
    """Two images; exit k is right on the first image, and on both from the second exit on, for k + 1 GFLOPs."""
    count = len(exits)
    prediction = np.array([[0] * count, [1] + [0] * (count - 1)], np.int32)
    return ExitTable(
        exits=exits,
        image_id=np.arange(2),
        confidence=np.full((2, count), 0.5, np.float32),
        prediction=prediction,
        cost_macs=np.tile(np.arange(1, count + 1) * GIGA, (2, 1)),
        label=np.zeros(2, np.int32),
    )


def config(folder: Path, **changes: Any) -> EvaluateConfig:
    run, data = RunSettings(folder=str(folder / "run")), DatasetSettings(path=str(folder / "nowhere"))
    return EvaluateConfig(run=run, bundle=str(folder / "bundle"), data=data, **changes)


class TestReferences:
    TABLES: ClassVar = {
        CASCADE: a_table("glance", "patch"),
        "alone": a_table("glance", "patch1", "patch2"),
        FULL: a_table(FULL),
    }

    def test_only_the_exits_worth_showing_are_rows(self) -> None:
        rows = evaluate.reference_rows(self.TABLES, {"alone": ("patch1", "patch2")})
        assert [(row["reference"], row["exit"], row["accuracy"], row["gflops"]) for row in rows] == [
            ("alone", "patch1", 1.0, 2.0), ("alone", "patch2", 1.0, 3.0), (FULL, FULL, 0.5, 1.0),
        ]  # fmt: skip

    def test_a_reference_that_says_nothing_shows_every_exit_and_the_cascade_is_none(self) -> None:
        rows = evaluate.reference_rows(self.TABLES, {})
        assert [row["reference"] for row in rows] == ["alone"] * 3 + [FULL]


class TestReport:
    REPORT: ClassVar[dict[str, Any]] = {
        "num_images": 372,
        "num_unreadable": 0,
        "exits": [{"exit": "anchor", "accuracy": 0.9, "accuracy_standard_error": 0.01, "gflops": 0.06}],
        "frontier": [{"asked_gflops": 0.06, "accuracy": 0.91, "gflops": 0.06, "expected_accuracy": 0.92}],
        "single_point": None,
        "references": [],
    }

    def test_tables_have_headings_and_an_empty_one_is_left_out(self) -> None:
        text = evaluate.render(self.REPORT)
        assert text.startswith("372 images\n\nEvery image leaves at\n\n| exit | accuracy |")
        assert "| anchor | 90.0 % | 1.0 % | 0.06000 |" in text
        assert "Along the frontier\n\n| asked GFLOPs |" in text
        assert "References" not in text
        full = {**self.REPORT, "references": [{"reference": FULL, "exit": FULL, "accuracy": 0.5, "gflops": 4.09}]}
        assert "References\n\n|  | exit |" in evaluate.render(full)

    def test_what_was_not_read_and_what_was_not_to_choose_are_said(self) -> None:
        text = evaluate.render({**self.REPORT, "num_unreadable": 3, "single_point": "There is but one."})
        assert text.startswith("372 images, 3 more could not be read\n\nThere is but one.\n\nEvery image")


class TestFullNetwork:
    def test_it_is_found_in_the_run_that_trained_it(self, tmp_path: Path) -> None:
        card = ModelCard(role="classifier", architecture="tests.small_networks:quick", classes=("x", "y"))
        save_model(str(tmp_path / "run" / "model"), quick(2), card)
        work = evaluate._work(config(tmp_path, full=str(tmp_path / "run")))
        assert work.full == str(tmp_path / "run" / "model")
        assert work.references

    def test_it_may_be_left_out(self, tmp_path: Path) -> None:
        assert evaluate._work(config(tmp_path)).full is None

    def test_one_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match="full nowhere does not exist; train it with recipe classifier, or set full"
        ):
            evaluate._work(config(tmp_path, full="nowhere"))


def test_a_bundle_without_a_frontier_is_refused_before_anything_is_listed(tmp_path: Path) -> None:
    models = save_tiny_models(str(tmp_path / "models"))
    assemble_bundle(str(tmp_path / "bundle"), models, AnchorNetSettings())
    with pytest.raises(ValueError, match=r"has no frontier; run python -m jobs\.calibrate first"):
        evaluate.execute(config(tmp_path))
