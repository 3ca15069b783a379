"""Cascades of every shape through the jobs: one stage, three, features instead of pixels, costs that differ per image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from anchornet.bundle import Bundle, load_bundle
from anchornet.cascade.run import run_all_exits, run_cascade
from anchornet.images.decode import decode
from anchornet.models.card import ModelCard, save_model
from anchornet.report.label_counts import label_tables
from anchornet.units import GIGA
from jobs import calibrate, evaluate, label
from jobs.shell.run_folder import RunFolder
from tests import own_systems

pytestmark = pytest.mark.ray

CLASSES = ("ant", "bee", "cow")
NUM_IMAGES = 60
SHAPES = {
    "one stage": {"stages": 1},
    "three stages": {"stages": 3},
    "three stages of features": {"stages": 3, "features": True},
    "costs per image": {"stages": 2, "dynamic": True},
}


def write_images(folder: Path, count: int, seed: int) -> list[Path]:
    generator = np.random.default_rng(seed)
    paths = []
    for i in range(count):
        paths.append(folder / f"{i:03d}.png")
        folder.mkdir(parents=True, exist_ok=True)
        blocks = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        noise = generator.integers(0, 8, (32, 32, 3), dtype=np.uint8)
        Image.fromarray((blocks // 2 + noise + 60).astype(np.uint8)).resize((40, 36)).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images to label, held-out images in the class folders that the last exit names, and the network."""
    folder = tmp_path_factory.mktemp("own")
    write_images(folder / "images", NUM_IMAGES, seed=0)
    network = own_systems.tiny_net(len(CLASSES))
    card = ModelCard(role="net", architecture="tests.own_systems:tiny_net", classes=CLASSES)
    save_model(str(folder / "net"), network, card)
    cascade = own_systems.OwnCascade({}, network.eval(), CLASSES)  # type: ignore[arg-type]
    for path in write_images(folder / "unsorted", 90, seed=1):
        pixels = own_systems.SYSTEM.preprocessing(None)(decode(path.read_bytes()))[None]  # type: ignore[arg-type]
        truth = CLASSES[run_all_exits(cascade, pixels).prediction[0, -1]]
        (folder / "held_out" / truth).mkdir(parents=True, exist_ok=True)
        path.rename(folder / "held_out" / truth / path.name)
    return folder


def arguments(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(params=SHAPES, scope="module")
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def bundle(shape: dict[str, Any], material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle of this shape."""
    folder = tmp_path_factory.mktemp("bundle")
    options = [f"system.options.{name}={str(value).lower()}" for name, value in shape.items()]
    settings = [f"run.folder={folder / 'run'}", f"bundle={folder / 'bundle'}", f"data.path={material / 'held_out'}"]
    system = ["system.kind=own", f"system.name={own_systems.NAME}", f"models.net={material / 'net'}"]
    assert calibrate.main(arguments(*settings, *system, *options)) == 0
    return folder / "bundle"


def labelled(folder: Path, bundle: Path, material: Path, *settings: str) -> pa.Table:
    run = [f"run.folder={folder}", f"bundle={bundle}", f"input.path={material / 'images'}", *settings]
    assert label.main(arguments(*run)) == 0
    return pa.concat_tables(label_tables(RunFolder(str(folder)).labels)).sort_by("image_id")


def middle_gflops(loaded: Bundle) -> float:
    assert loaded.frontier is not None
    return 0.5 * (loaded.frontier.minimum_gflops + loaded.frontier.maximum_gflops)


def test_fixed_labels_are_those_of_a_direct_call(bundle: Path, material: Path, tmp_path: Path) -> None:
    loaded = load_bundle(str(bundle))
    asked = middle_gflops(loaded)
    rows = labelled(tmp_path, bundle, material, f"budget.gflops_per_image={asked}", "budget.mode=fixed")
    pixels = np.stack([loaded.preprocessing(decode(Path(uri).read_bytes())) for uri in rows["uri"].to_pylist()])
    assert loaded.frontier is not None
    limits = loaded.frontier.at(asked).thresholds_for(rows["image_id"].to_numpy())
    expected = run_cascade(loaded.cascade(), pixels, limits)
    assert rows["label_id"].to_pylist() == expected.label_id.tolist()
    assert rows["exit"].to_pylist() == [f"look{k + 1}" for k in expected.exit]
    np.testing.assert_array_equal((rows["gflops"].to_numpy() * GIGA).round(), expected.macs)
    assert rows["boxes"].null_count == len(rows) == NUM_IMAGES
    assert len(set(rows["exit"].to_pylist())) > 1


def test_a_hard_budget_holds_and_everything_gets_a_label(
    shape: dict[str, Any], bundle: Path, material: Path, tmp_path: Path
) -> None:
    loaded = load_bundle(str(bundle))
    asked = middle_gflops(loaded)
    if shape.get("dynamic"):  # between what a first exit costs on average and what it costs at most
        assert loaded.frontier is not None
        asked = 1.3 * loaded.frontier.minimum_gflops
        assert asked < loaded.cascade().exits[0].macs / GIGA
    rows = labelled(tmp_path, bundle, material, f"budget.gflops_per_image={asked}")
    budget = json.loads(Path(RunFolder(str(tmp_path)).report).read_text())["budget"]
    assert rows["status"].to_pylist() == ["ok"] * NUM_IMAGES
    assert budget["spent_gflops"] <= budget["asked_gflops"]
    assert budget["in_labels_gflops"] == pytest.approx(budget["spent_gflops"])


def test_evaluation_has_every_exit(bundle: Path, material: Path, tmp_path: Path) -> None:
    settings = [f"run.folder={tmp_path}", f"bundle={bundle}", f"data.path={material / 'held_out'}"]
    assert evaluate.main(arguments(*settings)) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["exit"] for row in report["exits"]] == [f"look{k}" for k in (1, 2, 3, 4)]
    assert report["exits"][-1]["accuracy"] > 0.8  # fitted weights
    assert [row["reference"] for row in report["references"]] == ["combined by the rule sum"] * 4
    assert report["references"][-1]["accuracy"] == 1.0  # the truth is what the sum says at the last exit


def test_another_number_of_pools_than_stages_is_refused(
    bundle: Path, material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = len(load_bundle(str(bundle)).cascade().stages)
    settings = [f"run.folder={tmp_path}", f"bundle={bundle}", f"input.path={material / 'images'}"]
    settings += ["budget.gflops_per_image=0.3", *(f"pools.{i}.batch_size=8" for i in range(stages + 1))]
    assert label.main(arguments(*settings)) == 2
    message = f"pools has {stages + 1} entries, the bundle's cascade has {stages} stages; give one for each, or none"
    assert message in capsys.readouterr().err
