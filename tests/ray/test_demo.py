"""The demo's own code on a bundle whose frontier is a single point, which is what an untrained cascade may give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anchornet.cascade.run import run_all_exits
from anchornet.images.decode import decode
from anchornet.images.preprocess import preprocess
from anchornet.models.card import ModelCard, save_model
from anchornet.units import gflops_text
from jobs import demo
from tests.tiny_bundle import ARCHITECTURE, CLASSES, save_tiny_models, tiny_cascade, tiny_classifier
from tests.workshop import write_images

pytestmark = pytest.mark.ray


def sort_by_first_exit(uris: list[str], folder: Path) -> None:
    """Copies of images in the class folders that the cascade's first exit names: no later exit can be worth its cost."""
    pixels = np.stack([preprocess(decode(Path(uri).read_bytes())) for uri in uris])
    labels = run_all_exits(tiny_cascade(), pixels).prediction[:, 0]
    for uri, label in zip(uris, labels, strict=True):
        target = folder / CLASSES[label] / Path(uri).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(uri).read_bytes())


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A demo that has come as far as its networks."""
    save_tiny_models(str(tmp_path))
    save_model(
        str(tmp_path / "full"),
        tiny_classifier(3),
        ModelCard(role="classifier", architecture=ARCHITECTURE, classes=CLASSES),
    )
    for number, split in enumerate(demo.SPLITS):
        images = write_images(tmp_path / "unsorted" / split.name, 40, seed=number)
        sort_by_first_exit(images, tmp_path / "data" / split.name)
    return str(tmp_path)


def test_one_point_is_enough(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.Demo(7, folder, training=()).run() == 0
    shown = capsys.readouterr().out
    summary = json.loads(Path(folder, "summary.json").read_bytes())
    assert summary["seed"] == 7
    assert len(summary["frontier"]) == 1
    minimum = demo.frontier_of(folder).minimum_gflops
    assert [row["asked_gflops"] for row in summary["labels"]] == [float(gflops_text(minimum))] * 3
    assert all(row["accuracy"] == 1.0 and row["images"] == 40 for row in summary["labels"])
    assert len(summary["anchor_patch_accuracy"]) == len(summary["random_patch_accuracy"]) == 2
    assert set(summary["seconds"]) >= {"images", "ray", "calibrate", "label-0.25", "label-0.5", "label-1", "evaluate"}
    lines = [line for line in shown.splitlines() if line.startswith(("The full network", "The cascade", "One patch"))]
    assert len(lines) == 3
    assert "100.0 % right" in lines[1]
    assert shown.count("The frontier is a single point") == 3  # after the calibration, in evaluate's tables, at the end


def test_a_folder_belongs_to_one_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / demo.SEED_FILE).write_text('{"seed": 3}')
    assert demo.main(["--folder", str(tmp_path)]) == 2
    assert f"{tmp_path} holds the demo of seed 3, got 0; choose another --folder" in capsys.readouterr().err


def test_a_step_that_fails_ends_the_demo_with_its_exit_code(folder: str) -> None:
    Path(folder, "patch", "model.yaml").unlink()
    assert demo.Demo(0, folder, training=()).run() == 2
    assert not Path(folder, "summary.json").exists()
