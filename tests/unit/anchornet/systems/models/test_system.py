"""From weight files to a bundle that holds a cascade of classifiers, and everything that does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from anchornet.bundle import assemble_bundle, load_bundle, save_bundle, write_calibration
from anchornet.calibration import calibrate
from anchornet.cascade.protocol import Placement
from anchornet.cascade.run import run_all_exits
from anchornet.cascade.view_table import ViewTable
from anchornet.images.preprocess import Preprocessing, Views
from anchornet.models.card import ModelCard, save_model
from anchornet.models.classifiers import build_classifier
from anchornet.systems.models.settings import Member, ModelsSettings, PreprocessingSettings
from anchornet.systems.models.system import SYSTEM
from anchornet.systems.system import Trained
from tests.said import combined
from tests.small_classifiers import (
    CLASSES,
    FEEDS,
    LARGE,
    SMALL,
    members,
    networks,
    picture,
    settings,
    small,
    write_weights,
)


def imported(
    folder: Path, given: ModelsSettings | None = None, classes: tuple[str, ...] = CLASSES
) -> dict[str, Trained]:
    files = write_weights(folder)
    return SYSTEM.import_weights(given or settings(members=members(files)), files, {}, classes)


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    parts = imported(tmp_path)
    save_bundle(str(tmp_path / "bundle"), parts, settings(members=members(write_weights(tmp_path))))
    return str(tmp_path / "bundle")


def test_weights_of_either_kind_become_networks(tmp_path: Path) -> None:
    parts = imported(tmp_path)
    for role, network in networks().items():
        state = parts[role].module.state_dict()
        assert not parts[role].module.training
        assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert {role: part.card.preprocessing for role, part in parts.items()} == FEEDS
    card = parts["small"].card
    assert (card.role, card.architecture) == ("small", "tests.small_classifiers:small")
    assert card.training == {"imported_from": str(tmp_path / "small.pth"), "preprocessing_from": "the settings"}


def test_a_bundle_holds_the_cascade_and_all_preprocessing(bundle: str) -> None:
    loaded = load_bundle(bundle)
    assert loaded.system == settings()  # complete, and without the files it was made of
    assert loaded.preprocessing == Views(networks=(SMALL, LARGE))
    assert {role: card.preprocessing for role, card in loaded.cards.items()} == FEEDS
    assert [exit.name for exit in loaded.cascade().exits] == ["small", "large"]
    assert [stage.name for stage in loaded.cascade().stages] == ["small", "large"]


def trained(folder: Path, name: str, role: str) -> str:
    """A model folder as ``jobs.train`` leaves it: ``small`` or ``large``, trained by the recipe of this role."""
    card = ModelCard(
        role=role, architecture=f"tests.small_classifiers:{name}", classes=CLASSES, preprocessing=FEEDS[name]
    )
    save_model(str(folder / name), networks()[name], card)
    return str(folder / name)


def test_runs_of_recipe_classifier_become_members(tmp_path: Path) -> None:
    runs = {name: trained(tmp_path, name, "classifier") for name in ("small", "large")}
    given = settings(members=tuple(Member(architecture=f"tests.small_classifiers:{name}") for name in runs))
    assemble_bundle(str(tmp_path / "bundle"), runs, given)
    loaded = load_bundle(str(tmp_path / "bundle"))
    assert loaded.system == settings()  # how they are fed is what the runs' cards say
    assert {role: card.role for role, card in loaded.cards.items()} == {"small": "small", "large": "large"}


def test_a_run_of_another_recipe_or_architecture_is_no_member(tmp_path: Path) -> None:
    runs = {"small": trained(tmp_path, "small", "glance"), "large": trained(tmp_path, "large", "classifier")}
    with pytest.raises(
        ValueError, match=r"small needs a network trained as 'classifier', .*small holds one trained as 'glance'"
    ):
        assemble_bundle(str(tmp_path / "bundle"), runs, settings())
    runs["small"] = trained(tmp_path, "small", "classifier")
    other = (replace(members()[0], architecture="resnet18", name="small"), members()[1])
    with pytest.raises(
        ValueError, match=r"small has architecture resnet18, the network given for it is a tests\.small_cl"
    ):
        assemble_bundle(str(tmp_path / "bundle"), runs, settings(members=other))


@pytest.mark.parametrize("name", ["mean", "std", "resize"])
def test_another_preprocessing_than_recorded_is_refused(name: str, bundle: str) -> None:
    path = Path(bundle, "bundle.yaml")
    content = yaml.safe_load(path.read_text())
    first = content["preprocessing"]["networks"][0]
    first[name] = 40 if name == "resize" else [0.1, 0.2, 0.3]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"this version gives .*; use the version that made it"):
        load_bundle(bundle)


def test_torchvisions_networks_are_fed_as_torchvision_says_unless_told_otherwise(tmp_path: Path) -> None:
    files = {}
    for name in ("squeezenet1_1", "shufflenet_v2_x0_5"):
        files[name] = str(tmp_path / f"{name}.pth")
        torch.save(build_classifier(name, 3).state_dict(), files[name])
    told = PreprocessingSettings(side=64)
    given = ModelsSettings(
        kind="models",
        members=(
            Member(architecture="shufflenet_v2_x0_5", preprocessing=told),
            Member(architecture="squeezenet1_1"),
        ),
    )
    parts = SYSTEM.import_weights(given, files, {}, CLASSES)
    assert parts["squeezenet1_1"].card.preprocessing == Preprocessing()
    assert parts["squeezenet1_1"].card.training["preprocessing_from"] == "torchvision's IMAGENET1K_V1"
    assert parts["shufflenet_v2_x0_5"].card.preprocessing == Preprocessing(crop=64, resize=73)
    complete = SYSTEM.complete(given, {role: part.card for role, part in parts.items()})
    SYSTEM.check(complete, {role: part.module for role, part in parts.items()}, 3)
    assert SYSTEM.complete(complete, {role: part.card for role, part in parts.items()}) == complete


def test_a_network_of_timm_comes_with_its_own_metadata(tmp_path: Path) -> None:
    path = str(tmp_path / "m.safetensors")
    source = build_classifier("timm:mobilenetv3_small_050", 3)
    safetensors.torch.save_file(source.state_dict(), path)
    given = ModelsSettings(kind="models", members=(Member(architecture="timm:mobilenetv3_small_050"),))
    part = SYSTEM.import_weights(given, {"mobilenetv3_small_050": path}, {}, CLASSES)["mobilenetv3_small_050"]
    assert part.card.preprocessing == Preprocessing(interpolation="bicubic")
    assert part.card.training["preprocessing_from"].startswith("timm ")


def test_other_class_counts_are_refused_with_all_of_them(tmp_path: Path) -> None:
    files = write_weights(tmp_path)
    torch.save(small(7).state_dict(), files["small"])
    with pytest.raises(
        ValueError, match="classes names 3 classes, the weight files have: small 7, large 3; all members"
    ):
        SYSTEM.import_weights(settings(), files, {}, CLASSES)


def test_names_for_other_classes_than_the_weights_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="classes names 2 classes, the weight files have: small 3, large 3"):
        imported(tmp_path, classes=("ant", "bee"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    files = write_weights(tmp_path)
    with pytest.raises(ValueError, match=r"large\.safetensors does not fit SqueezeNet; missing: features"):
        SYSTEM.import_weights(
            settings(members=(Member(architecture="squeezenet1_1", name="large"),)), files, {}, CLASSES
        )


def test_architectures_beside_the_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names its architectures in system\.members, got architectures for small"):
        SYSTEM.import_weights(settings(), write_weights(tmp_path), {"small": "resnet18"}, CLASSES)


def test_a_function_of_ones_own_must_say_its_size(tmp_path: Path) -> None:
    silent = tuple(replace(member, preprocessing=PreprocessingSettings()) for member in members())
    with pytest.raises(ValueError, match="member small: nobody says what size of image the network takes"):
        imported(tmp_path, settings(members=silent))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: settings(members=members()[::-1]), "small costs .* GFLOPs per image, less than large before it"),
        (lambda: settings(members=(resized("small", 8), members()[1])), "TinyClassifier cannot take 8x8 images"),
    ],
)
def test_members_that_make_no_cascade_make_no_bundle(change: Any, message: str, tmp_path: Path) -> None:
    given = change()
    parts = imported(tmp_path, given)
    with pytest.raises(ValueError, match=message):
        save_bundle(str(tmp_path / "bundle"), parts, given)
    assert not (tmp_path / "bundle").exists()


def resized(role: str, side: int) -> Member:
    [member] = [each for each in members() if each.role == role]
    return replace(member, preprocessing=PreprocessingSettings(side=side))


def test_members_of_equal_cost_are_a_cascade() -> None:
    twice = (members()[0], replace(members()[0], name="again"))
    SYSTEM.check(settings(members=twice), {**networks(), "again": networks()["small"]}, 3)


def test_each_member_but_the_first_is_shown_alone() -> None:
    [found] = SYSTEM.references(settings(), networks(), CLASSES, Placement())
    assert (found.name, found.exits) == ("large alone", ("large",))
    assert [exit.name for exit in found.cascade.exits] == ["large"]


def test_what_calibration_chose_is_what_the_bundle_keeps(bundle: str) -> None:
    uncalibrated = load_bundle(bundle)
    cascade = uncalibrated.cascade()
    pixels = np.stack([uncalibrated.preprocessing(picture(k)) for k in range(60)])
    exits = run_all_exits(combined(cascade, "mean"), pixels)
    truth = exits.prediction[:, -1]
    table = ViewTable(
        exits=("small", "large"),
        views=("small", "large"),
        image_id=np.arange(60),
        logits_RWC=exits.views_NVC.numpy(),
        row=np.arange(60),
        cost_macs=exits.cost_NK,
        label=truth,
        columns=(0, 1),
    )
    chosen = calibrate(uncalibrated, table, "auto")
    assert chosen.combined.combination.name != "last"
    assert "last" in chosen.said[0]
    write_calibration(bundle, chosen.combined.held.table, chosen.frontier, combination=chosen.combined.combination)
    loaded = load_bundle(bundle)
    assert loaded.combination == chosen.combined.combination == loaded.cascade().combination
    assert loaded.as_built().combination.rule == "last"
    assert loaded.frontier is not None
    assert loaded.frontier.points == chosen.frontier.points
    without = calibrate(loaded, replace(table, label=None), "fitted")
    kept = loaded.combination if loaded.combination and loaded.combination.fitted else loaded.as_built().combination
    assert without.combined.combination == kept
    write_calibration(bundle, chosen.combined.held.table, chosen.frontier)
    assert load_bundle(bundle).combination is None
