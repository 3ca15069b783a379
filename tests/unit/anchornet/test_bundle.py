"""Bundles: written, read, calibrated, and refused where their parts do not belong together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from anchornet.budget.combination import Combination
from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier, FrontierPoint, Policy
from anchornet.bundle import assemble_bundle, load_bundle, save_bundle, write_calibration
from anchornet.cascade.protocol import rule_of
from anchornet.files import storage
from anchornet.models.card import save_model
from anchornet.systems.anchornet.cascade import exit_names
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.systems.anchornet.system import ROLES
from anchornet.systems.system import Trained
from tests.tiny_bundle import CLASSES, save_tiny_models, tiny_bundle, tiny_cards, tiny_networks


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder: a local path, or a prefix of a bucket."""
    if request.param == "local":
        return str(tmp_path / "bundle")
    return f"{request.getfixturevalue('s3_bucket')}/bundle"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle with exit table and frontier, to copy from."""
    folder = tmp_path_factory.mktemp("finished")
    save_bundle(str(folder), parts(), AnchorNetSettings())
    write_calibration(str(folder), *calibration(AnchorNetSettings()))
    return folder


@pytest.fixture
def calibrated(finished: Path, tmp_path: Path) -> Path:
    """Folder of a bundle with exit table and frontier."""
    return Path(shutil.copytree(finished, tmp_path / "bundle"))


@pytest.fixture
def local(calibrated: Path) -> Path:
    """Folder of a bundle without calibration."""
    (calibrated / "exit_table.parquet").unlink()
    (calibrated / "frontier.json").unlink()
    return calibrated


def parts() -> dict[str, Trained]:
    cards = tiny_cards()
    return {role: Trained(network, cards[role]) for role, network in tiny_networks().items()}


def calibration(settings: AnchorNetSettings, seed: int = 0, **changes: Any) -> tuple[ExitTable, Frontier]:
    """A made-up exit table of 300 images whose later exits are better, and a frontier."""
    generator, num_exits = np.random.default_rng(seed), len(exit_names(settings))
    label = generator.integers(0, len(CLASSES), 300)
    right = generator.random((300, num_exits)) < np.linspace(0.5, 0.9, num_exits)
    columns: dict[str, Any] = {
        "exits": exit_names(settings),
        "image_id": np.arange(300),
        "confidence": np.clip(0.5 * right + 0.5 * generator.random((300, num_exits)), 0, 1).astype(np.float32),
        "prediction": np.where(right, label[:, None], (label[:, None] + 1) % len(CLASSES)),
        "cost_macs": np.tile(np.cumsum(np.full(num_exits, 1_000_000)), (300, 1)),
        "label": label,
    }
    table = ExitTable(**{**columns, **changes})
    return table, a_frontier(table)


def a_frontier(table: ExitTable) -> Frontier:
    """Two policies: all leave at the first exit, all at the last; fitting better ones is tested elsewhere."""
    num_exits, points = len(table.exits), []
    for leaves_at, threshold in ((0, -np.inf), (num_exits - 1, np.inf)):
        fractions = tuple(float(k == leaves_at) for k in range(num_exits))
        spend = tuple(1e6 * (k <= leaves_at) for k in range(num_exits))
        policy = Policy((threshold,) * (num_exits - 1) + (-np.inf,))
        accuracy = float(table.correct[:, leaves_at].mean())
        points.append(FrontierPoint(policy, sum(spend), 0.0, fractions, spend, accuracy))
    return Frontier(table.exits, tuple(points), len(table), True)


@pytest.mark.parametrize(
    ("order", "skip"), [("anchor_first", ()), ("anchor_first", ("anchor",)), ("glance_first", ("anchor",))]
)
def test_model_folders_become_a_bundle(tmp_path: Path, order: Any, skip: tuple[str, ...]) -> None:
    folder = str(tmp_path)
    models = save_tiny_models(storage.join(folder, "models"))
    settings = AnchorNetSettings(order=order, skip=skip, num_patches=3, iou_threshold=0.25)
    assemble_bundle(storage.join(folder, "bundle"), models, settings)
    bundle = load_bundle(storage.join(folder, "bundle"))
    assert (bundle.system, bundle.classes) == (settings, CLASSES)
    assert (bundle.exit_table, bundle.frontier, bundle.calibrator) == (None, None, None)
    for role, network in tiny_networks().items():
        loaded = bundle.networks[role]
        assert not loaded.training
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert [each.name for each in bundle.cascade().exits] == list(exit_names(settings))


def test_files_are_those_of_the_contract(calibrated: Path) -> None:
    names = {path.name for path in calibrated.iterdir()}
    networks = {f"{role}.safetensors" for role in ROLES}
    assert names == networks | {"bundle.yaml", "exit_table.parquet", "frontier.json"}
    content = yaml.safe_load((calibrated / "bundle.yaml").read_text())
    assert content["preprocessing"] == {
        "resize": 256, "crop": 224, "interpolation": "bilinear", "keep_aspect": True,
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    assert content["system"]["kind"] == "anchornet"
    assert content["classes"] == list(CLASSES)


def test_calibration_comes_back(folder: str) -> None:
    settings = AnchorNetSettings(order="glance_first", skip=("anchor",))
    save_bundle(folder, parts(), settings)
    table, frontier = calibration(settings)
    write_calibration(folder, table, frontier)
    bundle = load_bundle(folder)
    assert bundle.exit_table is not None
    assert bundle.frontier is not None
    assert np.array_equal(bundle.exit_table.confidence, table.confidence)
    assert bundle.frontier.points == frontier.points
    assert set(bundle.frontier.hashes) == {"weights", "cascade", "exit_table"}


def test_calibrating_again_replaces_the_first(calibrated: Path) -> None:
    table, frontier = calibration(AnchorNetSettings(), seed=1)
    write_calibration(str(calibrated), table, frontier)
    assert load_bundle(str(calibrated)).frontier.points == frontier.points  # type: ignore[union-attr]


def test_making_the_bundle_again_drops_its_calibration(calibrated: Path) -> None:
    save_bundle(str(calibrated), parts(), AnchorNetSettings())
    assert load_bundle(str(calibrated)).frontier is None
    assert not (calibrated / "exit_table.parquet").exists()


def test_hashes_tell_weights_and_cascades_apart(local: Path) -> None:
    bundle = load_bundle(str(local))
    fresh = tiny_bundle()
    assert bundle.weights_hash == fresh.weights_hash
    assert bundle.cascade_hash == fresh.cascade_hash
    assert tiny_bundle(AnchorNetSettings(num_patches=3)).cascade_hash != fresh.cascade_hash
    with torch.no_grad():
        fresh.networks["patch"].fc.bias[0] += 1  # type: ignore[union-attr,index]
    assert bundle.weights_hash != fresh.weights_hash


def test_a_missing_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no bundle\.yaml; make a bundle"):
        load_bundle(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("anchornet.safetensors", r"anchornet\.safetensors is missing from the bundle; make the bundle again"),
        ("patch.safetensors", r"patch\.safetensors is missing from the bundle; make the bundle again"),
        ("exit_table.parquet", r"has a frontier but no exit_table\.parquet; calibrate the bundle again"),
    ],
)
def test_missing_files_are_named(name: str, message: str, calibrated: Path) -> None:
    (calibrated / name).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load_bundle(str(calibrated))


def test_an_exit_table_without_frontier_is_not_calibrated(calibrated: Path) -> None:
    """What an interrupted calibration leaves."""
    (calibrated / "frontier.json").unlink()
    assert load_bundle(str(calibrated)).frontier is None


def test_weights_of_another_bundle_are_refused(local: Path) -> None:
    (local / "glance.safetensors").replace(local / "patch.safetensors")
    (local / "glance.safetensors").write_bytes((local / "patch.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"patch\.safetensors holds other weights than those recorded"):
        load_bundle(str(local))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["classes"].append("dog"),
            r"does not fit AnchorNet; wrong shape: fc\.weight \(3, 512\) instead of",
        ),
        (lambda c: c["system"].update(order="sideways"), "must be one of"),
        (lambda c: c["system"].update(patches=4), "unknown key 'patches'.* did you mean 'num_patches'"),
        (
            lambda c: c["preprocessing"].update(resize=224),
            r"was made for .*'resize': 224.*, this version gives .*'resize': 256",
        ),
        (lambda c: c["preprocessing"].update(side=96), "was made for .*'side': 96"),
        (lambda c: c["preprocessing"].update(mean=[0.5, 0.5, 0.5]), r"was made for .*'mean': \[0\.5, 0\.5, 0\.5\]"),
        (lambda c: c["system"].update(kind="anchornets"), "did you mean 'anchornet'"),
        (lambda c: c["system"].pop("kind"), r"system\.kind is required"),
        (lambda c: c.update(format=1), "is no bundle of format 4"),
        (lambda c: c["networks"].pop("patch"), "has the networks anchornet, glance, patch, got anchornet, glance"),
        (lambda c: c.pop("system"), "is no bundle of format 4"),
        (lambda c: c["networks"]["glance"].update(role="full"), "bundle has a network of role 'full' as glance"),
        (lambda c: c["networks"]["glance"].update(architecture="resnet1"), "unknown classifier 'resnet1'"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Any]], Any], message: str, local: Path
) -> None:
    edit(local / "bundle.yaml", change)
    with pytest.raises(ValueError, match=message):
        load_bundle(str(local))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda c: c["system"].update(order="glance_first"), "cascade"),
        (lambda c: c.update(classes=["ant", "bee", "dog"]), "cascade"),
    ],
)
def test_a_frontier_of_another_cascade_is_refused(
    change: Callable[[dict[str, Any]], Any], part: str, calibrated: Path
) -> None:
    edit(calibrated / "bundle.yaml", change)
    with pytest.raises(ValueError, match=f"frontier does not belong to this bundle: hash of {part}"):
        load_bundle(str(calibrated))


def test_a_frontier_of_other_weights_or_another_table_is_refused(calibrated: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    changed = parts()
    with torch.no_grad():
        changed["patch"].module.fc.bias[0] += 1
    save_bundle(str(other), changed, AnchorNetSettings())
    write_calibration(str(other), *calibration(AnchorNetSettings(), seed=1))
    (calibrated / "exit_table.parquet").write_bytes((other / "exit_table.parquet").read_bytes())
    with pytest.raises(ValueError, match="hash of exit_table"):
        load_bundle(str(calibrated))
    (calibrated / "frontier.json").write_bytes((other / "frontier.json").read_bytes())
    with pytest.raises(ValueError, match="hash of weights"):
        load_bundle(str(calibrated))


def test_calibration_of_other_exits_or_classes_is_refused(local: Path) -> None:
    with pytest.raises(ValueError, match="was calibrated for exits"):
        write_calibration(str(local), *calibration(AnchorNetSettings(num_patches=3)))
    table, _ = calibration(AnchorNetSettings())
    _, frontier = calibration(AnchorNetSettings(skip=("anchor",)))
    with pytest.raises(ValueError, match="do not match"):
        write_calibration(str(local), table, frontier)
    prediction = table.prediction.copy()
    prediction[0, 0] = 3
    with pytest.raises(ValueError, match="exit table names class 3, the bundle has 3"):
        write_calibration(str(local), *calibration(AnchorNetSettings(), prediction=prediction))


def fitted(settings: AnchorNetSettings) -> Combination:
    """Weights as calibration could have fitted them."""
    rule = rule_of(tiny_bundle(settings).cascade(), "sum")
    rows = tuple(tuple(0.5 + 0.25 * view for view in range(len(row))) for row in rule.weights)
    return replace(rule, weights=rows, fitted=True)


def test_the_combination_comes_back_and_is_the_cascades(local: Path) -> None:
    table, frontier = calibration(AnchorNetSettings())
    wanted = fitted(AnchorNetSettings())
    write_calibration(str(local), table, frontier, combination=wanted)
    bundle = load_bundle(str(local))
    assert bundle.combination == bundle.cascade().combination == wanted
    assert bundle.as_built().combination == rule_of(bundle.cascade(), "sum")
    content = yaml.safe_load((local / "bundle.yaml").read_text())["combination"]
    assert content["weights"]["glance"] == {"anchornet": 0.5, "glance": 0.75}
    edit(local / "bundle.yaml", lambda c: c["combination"]["weights"]["glance"].update(glance=0.8))
    with pytest.raises(ValueError, match="hash of cascade"):
        load_bundle(str(local))


def test_exits_that_calibration_dropped_stay_dropped(local: Path) -> None:
    fewer = AnchorNetSettings(skip=("glance",))
    table, frontier = calibration(fewer)
    write_calibration(str(local), table, frontier, combination=fitted(fewer), settings=fewer)
    bundle = load_bundle(str(local))
    assert bundle.system == fewer
    assert [exit.name for exit in bundle.cascade().exits] == list(table.exits)


def test_a_combination_of_other_views_is_refused(local: Path) -> None:
    table, frontier = calibration(AnchorNetSettings())
    other = fitted(AnchorNetSettings(order="glance_first"))
    with pytest.raises(
        ValueError, match=r"the bundle combines the views glance, anchornet, .*, its cascade has anchornet, gl"
    ):
        write_calibration(str(local), table, frontier, combination=other)


def with_card(which: str, **changes: Any) -> dict[str, Trained]:
    changed = parts()
    changed[which] = Trained(changed[which].module, replace(changed[which].card, **changes))
    return changed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: with_card("patch", classes=("ant", "bee", "dog")), "class 2 is 'dog' in patch, 'cow' in anchornet"),
        (lambda: with_card("glance", classes=("ant", "bee")), "glance network has 2 classes, anchornet has 3"),
        (lambda: with_card("glance", role="full"), "glance network was trained as 'full'"),
    ],
)
def test_networks_that_do_not_belong_together_make_no_bundle(
    wrong: Callable[[], dict[str, Trained]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        save_bundle(str(tmp_path / "bundle"), wrong(), AnchorNetSettings())
    assert not (tmp_path / "bundle").exists()


def test_a_classifier_that_cannot_take_patches_makes_no_bundle(tmp_path: Path) -> None:
    changed = parts()
    changed["patch"] = Trained(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 3)), changed["patch"].card)
    with pytest.raises(ValueError, match="Sequential cannot take 95x95 images"):
        save_bundle(str(tmp_path / "bundle"), changed, AnchorNetSettings())


def test_a_selection_that_can_fall_short_makes_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can fall short: only 2 are certain"):
        save_bundle(str(tmp_path / "bundle"), parts(), AnchorNetSettings(iou_threshold=0.1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"order": "both"}, "system.order must be one of anchor_first, glance_first, got 'both'"),
        ({"num_patches": 0}, "system.num_patches must be >= 1, got 0"),
        ({"image_size": 0}, "system.image_size must be >= 1 pixel, got 0"),
        ({"iou_threshold": 1.0}, r"system.iou_threshold must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnchorNetSettings(**values)


def test_a_network_that_is_no_anchornet_makes_no_bundle(tmp_path: Path) -> None:
    changed = parts()
    changed["anchornet"] = Trained(changed["glance"].module, changed["anchornet"].card)
    with pytest.raises(ValueError, match="anchornet is a TinyClassifier; give the run of recipe"):
        save_bundle(str(tmp_path / "bundle"), changed, AnchorNetSettings())


def test_missing_networks_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the networks anchornet, glance, patch, got none; give one for each"):
        assemble_bundle(str(tmp_path / "b"), {}, AnchorNetSettings())


def test_a_model_of_another_class_list_is_refused_at_assembly(tmp_path: Path) -> None:
    models = save_tiny_models(str(tmp_path))
    networks, cards = tiny_networks(), tiny_cards()
    save_model(models["patch"], networks["patch"], replace(cards["patch"], classes=("bee", "ant", "cow")))
    with pytest.raises(
        ValueError, match="class 0 is 'bee' in patch, 'ant' in anchornet; train all on the same classes"
    ):
        assemble_bundle(str(tmp_path / "b"), models, AnchorNetSettings())
