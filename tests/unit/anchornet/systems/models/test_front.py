"""Ordinary classifiers behind AnchorNet: it is the first exit, and members may see the glance or the patches it chose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from torch import Tensor

from anchornet.budget.combination import Rule
from anchornet.bundle import load_bundle, save_bundle
from anchornet.cascade import rows as records
from anchornet.cascade.label_stage import finish_rows, label_stage
from anchornet.cascade.protocol import Placement, image_shape
from anchornet.cascade.run import run_all_exits, run_cascade
from anchornet.images import tensors
from anchornet.images.preprocess import Preprocessing
from anchornet.models.macs import MacsCounter, count_macs
from anchornet.systems.anchornet.proposer import Proposer
from anchornet.systems.looks import LooksCascade
from anchornet.systems.models.cascade import models_cascade, views_of
from anchornet.systems.models.settings import AnchorNetFront, Member, ModelsSettings, PreprocessingSettings
from anchornet.systems.models.system import SYSTEM
from anchornet.units import GIGA
from jobs.import_weights import describe
from tests.said import combined, said_by
from tests.small_classifiers import CLASSES, LARGE, networks, picture
from tests.tiny_bundle import tiny_cards, tiny_networks

COUNT = 8
PICTURES = [picture(300 + k) for k in range(COUNT)]
NETWORKS = {**tiny_networks(), "large": networks()["large"]}
OWN = PreprocessingSettings(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.5))
TINY = "tests.tiny_bundle:tiny_classifier"
GLANCE = Member(architecture=TINY, name="glance", view="glance")
PATCH = Member(architecture=TINY, name="patch", view="patch", patches=2, preprocessing=OWN)
WHOLE = Member(
    architecture="tests.small_classifiers:large", name="large", preprocessing=PreprocessingSettings.of(LARGE)
)


def settings(*members: Member, **changes: Any) -> ModelsSettings:
    """AnchorNet, and members behind it."""
    chosen = members or (GLANCE, PATCH, WHOLE)
    return ModelsSettings(**{"kind": "models", "anchornet": AnchorNetFront(), "members": chosen, **changes})


def cascade_of(given: ModelsSettings, **options: Any) -> LooksCascade:
    return models_cascade(given, NETWORKS, CLASSES, **options)


def pixels(given: ModelsSettings) -> np.ndarray:
    return np.stack([views_of(given)(rgb) for rgb in PICTURES])


@torch.inference_mode()
def written_down() -> dict[str, Tensor]:
    """What every look says, straight from the pictures: name of the exit -> logits (N, C)."""
    image = Preprocessing.of_size(224)
    shown = torch.from_numpy(np.stack([image(rgb) for rgb in PICTURES])).permute(0, 3, 1, 2)
    own = replace(image, mean=OWN.mean, std=OWN.std)
    large = torch.from_numpy(np.stack([LARGE(rgb) for rgb in PICTURES])).permute(0, 3, 1, 2)
    anchor, corners = Proposer(NETWORKS["anchornet"].eval(), 2, 0.3, 224)(tensors.normalise(shown))
    crops = [
        torch.stack(
            [shown[n, :, top : top + 95, left : left + 95] for n, (top, left) in enumerate(corners[:, i].tolist())]
        )
        for i in range(2)
    ]
    return {
        "anchor": anchor,
        "glance": NETWORKS["glance"](tensors.shrink(tensors.normalise(shown), 95)),
        "patch1": NETWORKS["patch"](tensors.normalise(crops[0], own)),
        "patch2": NETWORKS["patch"](tensors.normalise(crops[1], own)),
        "large": NETWORKS["large"](tensors.normalise(large, LARGE)),
    }


def test_each_look_is_an_exit_under_its_own_logits() -> None:
    given = settings()
    found, expected = said_by(cascade_of(given), pixels(given)), written_down()
    assert list(found) == list(expected) == list(given.exits)
    for name, logits in expected.items():
        torch.testing.assert_close(found[name], logits, rtol=1e-4, atol=1e-4, msg=name)


def test_the_mean_is_over_the_looks_of_members() -> None:
    given = settings()
    found, looks = said_by(combined(cascade_of(given), "mean"), pixels(given)), written_down()
    torch.testing.assert_close(found["anchor"], looks["anchor"], rtol=1e-4, atol=1e-4)
    names = ["glance", "patch1", "patch2", "large"]
    for k, name in enumerate(names):
        expected = torch.stack([looks[each] for each in names[: k + 1]]).mean(0)
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4, msg=name)


def test_a_second_member_looks_at_the_next_patches() -> None:
    given = settings(replace(PATCH, patches=1), replace(PATCH, name="again", patches=1))
    built = models_cascade(given, {**NETWORKS, "again": NETWORKS["patch"]}, CLASSES)
    found, expected = said_by(built, pixels(given)), written_down()
    assert list(found) == ["anchor", "patch1", "again1"]
    torch.testing.assert_close(found["again1"], expected["patch2"], rtol=1e-4, atol=1e-4)


def test_costs_are_those_really_computed() -> None:
    given = settings()
    built, rows = cascade_of(given), pixels(given)
    small = count_macs(NETWORKS["patch"], (1, 3, 95, 95))
    expected = [count_macs(NETWORKS["anchornet"], (1, 3, 224, 224)), small, small, small]
    assert [exit.macs for exit in built.exits] == [*expected, count_macs(NETWORKS["large"], (1, 3, 64, 64))]
    limits = np.tile(np.median(run_all_exits(built, rows).confidence, axis=0), (COUNT, 1)).astype(np.float32)
    limits[:, -1] = -np.inf
    with MacsCounter() as counter:
        result = run_cascade(built, rows, limits)
    assert counter.macs == result.macs.sum()
    assert len(set(result.exit.tolist())) > 1


@pytest.mark.parametrize("rule", ["last", "mean", "fitted"])
@pytest.mark.parametrize("stages", ["per_member", "one"])
@pytest.mark.parametrize("batch", [1, 3, COUNT])
def test_stages_and_batches_change_nothing(rule: Rule, stages: str, batch: int) -> None:
    given = settings(stages=stages)
    built, rows = combined(cascade_of(given), rule), pixels(given)
    limits = np.tile(np.median(run_all_exits(built, rows).confidence, axis=0), (COUNT, 1)).astype(np.float32) + 1e-4
    limits[:, -1] = -np.inf
    expected = run_cascade(built, rows, limits)
    uris = [f"/{k}.jpg" for k in range(COUNT)]
    table = records.work_table(np.arange(COUNT), uris, list(rows), ["ok"] * COUNT, [None] * COUNT, rows.shape[1:])
    for index in range(len(built.stages)):
        parts = range(0, COUNT, batch)
        done = [label_stage(built, index, table.slice(k, batch), limits[k : k + batch], None).table for k in parts]
        table = pa.concat_tables(done)
    found = finish_rows(built, table, None)
    assert found["label_id"].to_pylist() == expected.label_id.tolist()
    assert found["exit"].to_pylist() == [built.exits[k].name for k in expected.exit]
    assert (found["gflops"].to_numpy() * GIGA).round().tolist() == expected.macs.tolist()
    assert [len(boxes) for boxes in found["boxes"].to_pylist()] == [2] * COUNT


def test_stages_take_no_more_than_they_need() -> None:
    built = cascade_of(settings())
    assert [stage.name for stage in built.stages] == ["anchor", "glance", "patch", "large"]
    both = 3 * (224**2 + 64**2)
    assert image_shape(built) == (both,)
    assert [stage.takes["image"][1] for stage in built.stages] == [(both,), (both,), (both,), (64, 64, 3)]
    assert list(built.stages[1].takes) == ["image", "boxes"]
    alone = cascade_of(settings(GLANCE, PATCH, stages="one"))
    assert [(stage.name, list(stage.takes)) for stage in alone.stages] == [("members", ["image"])]
    assert image_shape(alone) == (224, 224, 3)


def test_anchornet_may_stand_before_whole_pictures_alone() -> None:
    given = settings(WHOLE)
    found = said_by(cascade_of(given), pixels(given))
    assert list(found) == ["anchor", "large"]
    state = cascade_of(given).start(pixels(given))
    step, _ = cascade_of(given).advance(state, 0)
    assert step.boxes_nP3 is not None
    assert step.boxes_nP3.shape == (COUNT, 1, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ModelsSettings(kind="models", members=(GLANCE,)),
            r"glance has view 'glance', which is made from AnchorNet's image; set system\.anchornet, or the view to 'whole'",
        ),
        (lambda: replace(WHOLE, patches=2), r"large has patches \(2\) and view 'whole'; set view to patch, or take"),
        (lambda: replace(PATCH, patches=0), r"system\.members\.patches must be >= 1, got 0"),
        (
            lambda: replace(PATCH, preprocessing=PreprocessingSettings(side=95)),
            r"patch has view 'patch', whose pixels are those of AnchorNet's image, and preprocessing\.side; take it out",
        ),
        (lambda: settings(replace(WHOLE, name="anchornet")), "'anchornet' names two networks; give each member a name"),
        (lambda: settings(replace(WHOLE, name="anchor")), "'anchor' names two exits"),
        (lambda: settings(PATCH, replace(WHOLE, name="patch2")), "'patch2' names two exits"),
        (lambda: AnchorNetFront(image_size=0), r"system\.anchornet\.image_size must be >= 1, got 0"),
        (
            lambda: settings(anchornet=AnchorNetFront(iou_threshold=1.0)),
            r"system\.anchornet\.iou_threshold must be in \[0, 1\), got 1",
        ),
        (lambda: cascade_of(settings(replace(PATCH, patches=40))), "patches"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_another_network_in_place_of_anchornet_is_refused() -> None:
    with pytest.raises(ValueError, match="anchornet is a TinyClassifier; give the run of recipe"):
        SYSTEM.check(settings(), {**NETWORKS, "anchornet": NETWORKS["patch"]}, len(CLASSES))


def test_only_whole_pictures_have_to_be_in_the_order_of_their_cost() -> None:
    SYSTEM.check(settings(WHOLE, GLANCE), NETWORKS, len(CLASSES))
    assert count_macs(NETWORKS["large"], (1, 3, 64, 64)) < count_macs(NETWORKS["glance"], (1, 3, 95, 95))


def test_members_that_need_no_patches_are_shown_alone() -> None:
    found = SYSTEM.references(settings(), NETWORKS, CLASSES, Placement())
    assert [(each.name, each.exits) for each in found] == [
        ("glance alone", ("glance",)),
        ("large alone", ("large",)),
    ]
    expected = written_down()
    for each in found:
        [logits] = said_by(each.cascade, pixels(settings())).values()
        torch.testing.assert_close(logits, expected[each.exits[0]], rtol=1e-4, atol=1e-4)


def files(folder: Path) -> dict[str, str]:
    paths = {}
    for role in ("anchornet", "glance", "patch", "large"):
        paths[role] = str(folder / f"{role}.safetensors")
        state = {name: value.contiguous() for name, value in NETWORKS[role].state_dict().items()}
        safetensors.torch.save_file(state, paths[role])
    return paths


def test_weight_files_become_a_bundle(tmp_path: Path) -> None:
    paths = files(tmp_path)
    members = tuple(replace(member, weights=paths[member.role]) for member in (GLANCE, PATCH, WHOLE))
    given = settings(*members, anchornet=AnchorNetFront(weights=paths["anchornet"]))
    assert given.weight_files == paths
    save_bundle(str(tmp_path / "bundle"), SYSTEM.import_weights(given, given.weight_files, {}, CLASSES), given)
    bundle = load_bundle(str(tmp_path / "bundle"))
    assert isinstance(bundle.system, ModelsSettings)
    assert bundle.system.weight_files == {}
    assert bundle.system.members[1].preprocessing == OWN
    assert bundle.system.members[0].preprocessing == PreprocessingSettings(
        mean=Preprocessing().mean, std=Preprocessing().std
    )
    found = said_by(bundle.cascade(), np.stack([bundle.preprocessing(rgb) for rgb in PICTURES]))
    expected = said_by(cascade_of(settings()), pixels(settings()))
    for name, logits in expected.items():
        torch.testing.assert_close(found[name], logits, rtol=1e-4, atol=1e-4, msg=name)
    told = describe(bundle)
    assert "exit patch2: at most 0.0" in told
    assert "network glance: the glance, the image of AnchorNet shrunk to a patch, mean [0.485" in told
    assert "network patch: patches of AnchorNet's image, mean [0.5, 0.5, 0.5], std [0.25, 0.5, 0.5]" in told
    assert "network large: short side to 64, central 64 x 64, bicubic" in told


def test_a_network_whose_card_says_nothing_is_fed_by_imagenets_mean_and_std() -> None:
    complete = SYSTEM.complete(settings(GLANCE), tiny_cards())
    imagenet = Preprocessing()
    assert complete.members[0].preprocessing == PreprocessingSettings(mean=imagenet.mean, std=imagenet.std)
