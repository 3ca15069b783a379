"""What AnchorNet and its classifiers are fed in training, and how they are validated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from anchornet.images.preprocess import Preprocessing
from anchornet.models import training
from anchornet.models.card import ModelCard, save_model
from anchornet.models.training_settings import FineTuning
from anchornet.systems.anchornet.network import AnchorNet, class_activation_map
from anchornet.systems.anchornet.patches import PatchSelector
from anchornet.systems.anchornet.receptive_field import ReceptiveField
from anchornet.systems.anchornet.settings import ARCHITECTURE, AnchorNetRecipe, GlanceRecipe, PatchRecipe
from anchornet.systems.anchornet.training import (
    PatchView,
    accuracy_names,
    check_recipe,
    glance_and_patches_correct,
    glance_view,
    open_recipe,
    patch_size,
)
from tests.small_networks import CLASSES, coloured_images, tiny_network
from tests.tiny_bundle import save_tiny_models, tiny_cards, tiny_networks


@pytest.fixture
def proposer() -> AnchorNet:
    torch.manual_seed(1)
    return AnchorNet(CLASSES)


class TestViews:
    def test_a_patch_is_as_large_as_anchornets_receptive_field(self) -> None:
        assert patch_size() == 95

    def test_a_glance_is_the_shrunken_image(self) -> None:
        pixels, _ = coloured_images(2)
        expected = functional.interpolate(pixels, size=(95, 95), mode="bicubic", align_corners=True)
        assert torch.equal(glance_view(pixels), expected)

    def test_patches_are_those_of_each_image_alone_best_first(self, proposer: AnchorNet) -> None:
        pixels, _ = coloured_images(3)
        crops = PatchView(proposer, 4, 0.3, 224)(pixels)
        assert crops.shape == (12, 3, 95, 95)
        selector = PatchSelector(17, ReceptiveField(95, 8), 0.3, 4)
        for n in range(3):
            proposal = proposer(pixels[n : n + 1])
            cam = class_activation_map(proposal.features, proposer.fc.weight, proposal.logits.argmax(1))
            for p, (top, left) in enumerate(selector.boxes(selector(cam))[0].tolist()):
                assert torch.equal(crops[4 * n + p], pixels[n, :, top : top + 95, left : left + 95])

    def test_a_sample_of_patches_is_some_of_them_without_repetition(self, proposer: AnchorNet) -> None:
        pixels, _ = coloured_images(4)
        everything = PatchView(proposer, 4, 0.3, 224)(pixels).unflatten(0, (4, 4))
        some = PatchView(proposer, 4, 0.3, 224, sample=2)(pixels).unflatten(0, (4, 2))
        for n in range(4):
            found = [next(p for p in range(4) if torch.equal(crop, everything[n, p])) for crop in some[n]]
            assert len(set(found)) == 2

    def test_the_proposer_never_learns(self, proposer: AnchorNet) -> None:
        before = {name: value.clone() for name, value in proposer.state_dict().items()}
        network, (pixels, labels) = tiny_network(), coloured_images(2)
        settings = FineTuning(learning_rate=0.1)
        optimizer = training.build_optimizer(network, settings)
        training.train_step(network, optimizer, PatchView(proposer, 2, 0.3, 224), pixels, labels, settings)
        assert all(torch.equal(value, before[name]) for name, value in proposer.state_dict().items())
        assert all(parameter.grad is None for parameter in proposer.parameters())

    @pytest.mark.parametrize("sample", [0, 5])
    def test_a_sample_of_none_or_too_many_is_refused(self, proposer: AnchorNet, sample: int) -> None:
        with pytest.raises(ValueError, match=r"patches per image in training must be in 1\.\.4"):
            PatchView(proposer, 4, 0.3, 224, sample=sample)

    def test_a_choice_that_can_fall_short_is_refused(self, proposer: AnchorNet) -> None:
        with pytest.raises(ValueError, match="patches"):
            PatchView(proposer, 4, 0.05, 224)


class TestLoss:
    def test_the_patch_loss_is_the_mean_over_all_crops_scored_alone(self, proposer: AnchorNet) -> None:
        pixels, labels = coloured_images(3)
        view, network = (
            PatchView(proposer, 4, 0.3, 224),
            tiny_network().eval(),
        )  # eval: batch statistics would couple crops
        crops = view(pixels)
        alone = [
            functional.cross_entropy(network(crops[m : m + 1]), labels[m // 4 : m // 4 + 1]).item() for m in range(12)
        ]
        settings = FineTuning()
        result = training.train_step(
            network, training.build_optimizer(network, settings), view, pixels, labels, settings
        )
        assert result.views == 12
        assert result.loss == pytest.approx(sum(alone), rel=1e-5)


class TestValidation:
    def test_patches_are_summed_one_after_the_other_with_and_without_the_glance(self, proposer: AnchorNet) -> None:
        pixels, labels = coloured_images(5)
        network, view = tiny_network().eval(), PatchView(proposer, 3, 0.3, 224)
        torch.manual_seed(2)
        small = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES)).eval()
        counts = glance_and_patches_correct(network, pixels, labels, view, small)
        names = accuracy_names(3, True)
        crops = view(pixels)
        first = small(glance_view(pixels))
        expected = {"accuracy_glance": int((first.argmax(1) == labels).sum())}
        for k in (1, 2, 3):
            total = sum(network(crops[p::3]) for p in range(k))
            expected[f"accuracy_patches_{k}"] = int((total.argmax(1) == labels).sum())
            expected[f"accuracy_glance_patches_{k}"] = int(((first + total).argmax(1) == labels).sum())
        assert dict(zip(names, counts.tolist(), strict=True)) == expected
        assert names[-1] == "accuracy_glance_patches_3"

    def test_without_a_glance_network_the_patches_alone_are_counted(self) -> None:
        assert accuracy_names(2, False) == ("accuracy_patches_1", "accuracy_patches_2")


class TestRecipes:
    def test_views_have_the_sizes_of_training_and_of_validation(self, tmp_path: Path) -> None:
        models = save_tiny_models(str(tmp_path))
        recipe = PatchRecipe(
            kind="anchornet.patch",
            architecture="a",
            anchornet=models["anchornet"],
            glance=models["glance"],
            num_patches=2,
            training_patches=1,
        )
        opened = open_recipe(recipe, 160, 224, torch.device("cpu"))
        pixels, labels = coloured_images(2, size=160)
        assert opened.view(pixels).shape == (2, 3, 95, 95)
        whole, labels = coloured_images(4)
        network = tiny_networks()["patch"].eval()
        counts = opened.count_correct(network, whole, labels)
        assert len(counts) == len(opened.accuracy_names) == 5
        assert check_recipe(recipe, 160) == ("ant", "bee", "cow")

    def test_only_patches_need_other_networks(self) -> None:
        for recipe in (AnchorNetRecipe(), GlanceRecipe(kind="anchornet.glance", architecture="resnet18")):
            assert check_recipe(recipe, 224) is None
            assert open_recipe(recipe, 224, 224, torch.device("cpu")).accuracy_names == ("accuracy",)

    def test_anchornet_learns_from_a_teacher_of_whole_images(self, tmp_path: Path) -> None:
        folder = str(tmp_path / "full")
        save_model(folder, tiny_networks()["glance"], replace(tiny_cards()["glance"], preprocessing=Preprocessing()))
        recipe = AnchorNetRecipe(teacher=folder, teacher_weight=0.3, temperature=4.0)
        assert check_recipe(recipe, 160) == ("ant", "bee", "cow")
        teacher = open_recipe(recipe, 160, 224, torch.device("cpu")).teacher
        assert teacher is not None and (teacher.weight, teacher.temperature) == (0.3, 4.0)
        pixels, _ = coloured_images(2, size=160)
        torch.testing.assert_close(teacher.logits(pixels), tiny_networks()["glance"](pixels))
        assert not teacher.logits(pixels).requires_grad

    def test_a_teacher_that_never_saw_whole_images_is_refused(self, tmp_path: Path) -> None:
        models = save_tiny_models(str(tmp_path))
        with pytest.raises(ValueError, match=r"was trained as patch, .* give a run of recipe classifier"):
            check_recipe(AnchorNetRecipe(teacher=models["patch"]), 160)

    @pytest.mark.parametrize(
        ("name", "value"), [("teacher_weight", 0.0), ("teacher_weight", 1.5), ("temperature", 0.0)]
    )
    def test_a_teacher_without_a_say_is_refused(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=rf"recipe\.{name} must be"):
            AnchorNetRecipe(**{name: value})  # type: ignore[arg-type]

    def test_a_network_that_is_no_anchornet_is_refused(self, tmp_path: Path) -> None:
        models = save_tiny_models(str(tmp_path))
        recipe = PatchRecipe(kind="anchornet.patch", architecture="a", anchornet=models["glance"])
        with pytest.raises(ValueError, match="give a run that trained AnchorNet"):
            check_recipe(recipe, 224)

    def test_a_glance_of_other_classes_is_refused(self, tmp_path: Path) -> None:
        models = save_tiny_models(str(tmp_path))
        card = tiny_cards()["glance"]
        other = ModelCard(role="glance", architecture=card.architecture, classes=("bee", "ant", "cow"))
        save_model(models["glance"], tiny_networks()["glance"], other)
        recipe = PatchRecipe(
            kind="anchornet.patch", architecture="a", anchornet=models["anchornet"], glance=models["glance"]
        )
        with pytest.raises(ValueError, match="not the same or not in the same order"):
            check_recipe(recipe, 224)

    @pytest.mark.parametrize("sample", [0, 5])
    def test_a_sample_that_cannot_be_is_refused(self, sample: int) -> None:
        with pytest.raises(ValueError, match=r"recipe\.training_patches must be in 1\.\.4 or null"):
            PatchRecipe(kind="anchornet.patch", architecture="a", anchornet="b", training_patches=sample)

    def test_the_architecture_of_anchornet_is_known(self) -> None:
        assert AnchorNetRecipe().architecture == ARCHITECTURE
