"""Steps, losses, schedules and validation of training, against plain restatements of what they should be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from anchornet.images import tensors
from anchornet.models import training
from anchornet.models.training import PatchView
from anchornet.models.training_settings import AnchorNetTraining, ClassifierTraining, TrainingSettings
from anchornet.systems.anchornet.network import AnchorNet, class_activation_map
from anchornet.systems.anchornet.patches import PatchSelector
from anchornet.systems.anchornet.receptive_field import ReceptiveField

CLASSES = 3


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def coloured_images(count: int, size: int = 224) -> tuple[Tensor, Tensor]:
    """Normalised images (count, 3, size, size) whose strongest channel is their label."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(0, 120, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(count), labels] += 100
    return tensors.normalise(pixels), labels


@pytest.fixture
def proposer() -> AnchorNet:
    torch.manual_seed(1)
    return AnchorNet(CLASSES)


class TestSchedules:
    def test_step_is_the_papers_stage_one(self) -> None:
        rates = [training.learning_rate(AnchorNetTraining(), epoch) for epoch in range(100)]
        expected = [0.1] * 30 + [0.01] * 30 + [0.001] * 30 + [0.0001] * 10
        assert rates == pytest.approx(expected)

    def test_cosine_is_the_papers_stage_two(self) -> None:
        rates = [training.learning_rate(ClassifierTraining(), epoch) for epoch in range(30)]
        assert rates == pytest.approx([0.005 * (1 + math.cos(math.pi * epoch / 30)) for epoch in range(30)])

    def test_warm_up_climbs_in_equal_steps_and_then_the_cosine_starts(self) -> None:
        settings = TrainingSettings(epochs=7, learning_rate=0.4, schedule="cosine", warmup_epochs=3)
        rates = [training.learning_rate(settings, epoch) for epoch in range(7)]
        cosine = [0.2 * (1 + math.cos(math.pi * done)) for done in (0.0, 0.25, 0.5, 0.75)]
        assert rates == pytest.approx([0.1, 0.2, 0.3, *cosine])

    def test_a_set_rate_is_what_the_optimizer_uses(self) -> None:
        network = tiny_network()
        optimizer = training.build_optimizer(network, ClassifierTraining())
        training.set_learning_rate(optimizer, 0.125)
        assert {group["lr"] for group in optimizer.param_groups} == {0.125}


class TestOptimizer:
    @pytest.mark.parametrize(("settings", "nesterov"), [(AnchorNetTraining(), True), (ClassifierTraining(), False)])
    def test_it_is_the_papers(self, settings: TrainingSettings, nesterov: bool) -> None:
        optimizer = training.build_optimizer(tiny_network(), settings)
        values = optimizer.param_groups[0]
        assert (values["momentum"], values["weight_decay"], values["nesterov"]) == (0.9, 1e-4, nesterov)
        assert values["lr"] == settings.learning_rate
        assert settings.batch_size == 256

    def test_frozen_parameters_are_left_out(self) -> None:
        network = tiny_network()
        network[0].requires_grad_(False)
        chosen = training.build_optimizer(network, ClassifierTraining()).param_groups[0]["params"]
        assert len(chosen) == len(list(network.parameters())) - 2


class TestViews:
    def test_a_patch_is_as_large_as_anchornets_receptive_field(self) -> None:
        assert training.patch_size() == 95

    def test_a_glance_is_the_shrunken_image(self) -> None:
        pixels, _ = coloured_images(2)
        expected = functional.interpolate(pixels, size=(95, 95), mode="bicubic", align_corners=True)
        assert torch.equal(training.glance_view(pixels), expected)

    def test_patches_are_those_of_each_image_alone_best_first(self, proposer: AnchorNet) -> None:
        pixels, _ = coloured_images(3)
        crops = PatchView(proposer, 4, 0.3)(pixels)
        assert crops.shape == (12, 3, 95, 95)
        selector = PatchSelector(17, ReceptiveField(95, 8), 0.3, 4)
        for n in range(3):
            proposal = proposer(pixels[n : n + 1])
            cam = class_activation_map(proposal.features, proposer.fc.weight, proposal.logits.argmax(1))
            for p, (top, left) in enumerate(selector.boxes(selector(cam))[0].tolist()):
                assert torch.equal(crops[4 * n + p], pixels[n, :, top : top + 95, left : left + 95])

    def test_a_sample_of_patches_is_some_of_them_without_repetition(self, proposer: AnchorNet) -> None:
        pixels, _ = coloured_images(4)
        everything = PatchView(proposer, 4, 0.3)(pixels).unflatten(0, (4, 4))
        some = PatchView(proposer, 4, 0.3, sample=2)(pixels).unflatten(0, (4, 2))
        for n in range(4):
            found = [next(p for p in range(4) if torch.equal(crop, everything[n, p])) for crop in some[n]]
            assert len(set(found)) == 2

    def test_the_proposer_never_learns(self, proposer: AnchorNet) -> None:
        before = {name: value.clone() for name, value in proposer.state_dict().items()}
        network, (pixels, labels) = tiny_network(), coloured_images(2)
        settings = ClassifierTraining(learning_rate=0.1)
        optimizer = training.build_optimizer(network, settings)
        training.train_step(network, optimizer, PatchView(proposer, 2, 0.3), pixels, labels, settings)
        assert all(torch.equal(value, before[name]) for name, value in proposer.state_dict().items())
        assert all(parameter.grad is None for parameter in proposer.parameters())

    @pytest.mark.parametrize("sample", [0, 5])
    def test_a_sample_of_none_or_too_many_is_refused(self, proposer: AnchorNet, sample: int) -> None:
        with pytest.raises(ValueError, match=r"must be in 1\.\.4"):
            PatchView(proposer, 4, 0.3, sample=sample)

    def test_a_choice_that_can_fall_short_is_refused(self, proposer: AnchorNet) -> None:
        with pytest.raises(ValueError, match="patches"):
            PatchView(proposer, 4, 0.05)


class TestStep:
    def test_the_patch_loss_is_the_mean_over_all_crops_scored_alone(self, proposer: AnchorNet) -> None:
        pixels, labels = coloured_images(3)
        view, network = PatchView(proposer, 4, 0.3), tiny_network().eval()  # eval: batch statistics would couple crops
        crops = view(pixels)
        alone = [
            functional.cross_entropy(network(crops[m : m + 1]), labels[m // 4 : m // 4 + 1]).item() for m in range(12)
        ]
        settings = ClassifierTraining()
        result = training.train_step(
            network, training.build_optimizer(network, settings), view, pixels, labels, settings
        )
        assert result.views == 12
        assert result.loss == pytest.approx(sum(alone), rel=1e-5)

    def test_a_step_is_that_of_plain_torch(self) -> None:
        pixels, labels = coloured_images(4)
        settings = TrainingSettings(label_smoothing=0.1)
        ours, theirs = tiny_network(), tiny_network()
        result = training.train_step(
            ours, training.build_optimizer(ours, settings), training.glance_view, pixels, labels, settings
        )
        optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
        logits = theirs(training.glance_view(pixels))
        loss = functional.cross_entropy(logits, labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        assert result.loss == pytest.approx(4 * loss.item())
        assert result.correct == int((logits.argmax(1) == labels).sum())
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other)

    def test_a_loss_that_is_not_finite_changes_nothing_and_says_where(self) -> None:
        network, (pixels, labels) = tiny_network(), coloured_images(2)
        settings = ClassifierTraining()
        optimizer = training.build_optimizer(network, settings)
        before = [parameter.detach().clone() for parameter in network.parameters()]
        pixels[0, 0, 0, 0] = math.nan
        with pytest.raises(RuntimeError, match=r"train/loss is nan at epoch 3, step 7, rank 1"):
            training.train_step(
                network, optimizer, training.whole_view, pixels, labels, settings, "epoch 3, step 7, rank 1"
            )
        assert all(torch.equal(now, then) for now, then in zip(network.parameters(), before, strict=True))
        assert not optimizer.state

    def test_bfloat16_keeps_weights_and_loss_in_float32(self) -> None:
        network, (pixels, labels) = tiny_network(), coloured_images(4, size=95)
        settings = ClassifierTraining(precision="bfloat16")
        optimizer = training.build_optimizer(network, settings)
        result = training.train_step(network, optimizer, training.whole_view, pixels, labels, settings)
        exact = training.train_step(
            tiny_network(), optimizer, training.whole_view, pixels, labels, ClassifierTraining()
        )
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        assert result.loss == pytest.approx(exact.loss, rel=0.05)

    @pytest.mark.parametrize("role", ["classifier", "anchornet"])
    def test_a_handful_of_images_is_learned_by_heart(self, role: str, proposer: AnchorNet) -> None:
        pixels, labels = coloured_images(6, size=96)
        network = proposer if role == "anchornet" else tiny_network()
        settings = TrainingSettings(learning_rate=0.05)
        optimizer = training.build_optimizer(network, settings)
        network.train()
        results = [
            training.train_step(network, optimizer, training.whole_view, pixels, labels, settings) for _ in range(40)
        ]
        assert results[-1].correct == 6
        assert results[-1].loss < 0.3 * results[0].loss


class TestValidation:
    def test_one_view_counts_right_answers(self) -> None:
        network, (pixels, labels) = tiny_network().eval(), coloured_images(7, size=95)
        counts = training.correct_counts(network, training.whole_view, pixels, labels)
        assert counts.tolist() == [int((network(pixels).argmax(1) == labels).sum())]
        assert training.accuracy_names(0, False) == ("accuracy",)

    def test_patches_are_summed_one_after_the_other_with_and_without_the_glance(self, proposer: AnchorNet) -> None:
        pixels, labels = coloured_images(5)
        network, view = tiny_network().eval(), PatchView(proposer, 3, 0.3)
        torch.manual_seed(2)
        small = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES)).eval()
        counts = training.correct_counts(network, view, pixels, labels, lambda x: small(training.glance_view(x)))
        names = training.accuracy_names(3, True)
        crops = view(pixels)
        first = small(training.glance_view(pixels))
        expected = {"accuracy_glance": int((first.argmax(1) == labels).sum())}
        for k in (1, 2, 3):
            total = sum(network(crops[p::3]) for p in range(k))
            expected[f"accuracy_patches_{k}"] = int((total.argmax(1) == labels).sum())
            expected[f"accuracy_glance_patches_{k}"] = int(((first + total).argmax(1) == labels).sum())
        assert dict(zip(names, counts.tolist(), strict=True)) == expected
        assert names[-1] == "accuracy_glance_patches_3"

    def test_without_a_glance_network_the_patches_alone_are_counted(self) -> None:
        assert training.accuracy_names(2, False) == ("accuracy_patches_1", "accuracy_patches_2")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"epochs": 0}, "epochs must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"momentum": 0.0}, "nesterov needs"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0"),
        ({"gamma": 0.0}, "gamma must be > 0"),
        ({"epochs": 2, "warmup_epochs": 2}, "warmup_epochs must be >= 0 and below"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TrainingSettings(**wrong)
