"""Steps, losses, schedules and validation of training, against plain restatements of what they should be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anchornet.images import tensors
from anchornet.models import training
from anchornet.models.training_settings import FineTuning, FromScratch, TrainingSettings
from anchornet.systems.anchornet.network import AnchorNet
from tests.small_networks import CLASSES, coloured_images, tiny_network


@pytest.fixture
def proposer() -> AnchorNet:
    torch.manual_seed(1)
    return AnchorNet(CLASSES)


def shrunken(images_N3HW: Tensor) -> Tensor:
    return tensors.shrink(images_N3HW, 95)


def two_views(images_N3HW: Tensor) -> Tensor:
    return torch.stack([shrunken(images_N3HW), shrunken(images_N3HW.flip(3))], 1).flatten(0, 1)


class TestSchedules:
    def test_step_is_the_papers_stage_one(self) -> None:
        rates = [training.learning_rate(FromScratch(), epoch) for epoch in range(100)]
        expected = [0.1] * 30 + [0.01] * 30 + [0.001] * 30 + [0.0001] * 10
        assert rates == pytest.approx(expected)

    def test_cosine_is_the_papers_stage_two(self) -> None:
        rates = [training.learning_rate(FineTuning(), epoch) for epoch in range(30)]
        assert rates == pytest.approx([0.005 * (1 + math.cos(math.pi * epoch / 30)) for epoch in range(30)])

    def test_warm_up_climbs_in_equal_steps_and_then_the_cosine_starts(self) -> None:
        settings = TrainingSettings(epochs=7, learning_rate=0.4, schedule="cosine", warmup_epochs=3)
        rates = [training.learning_rate(settings, epoch) for epoch in range(7)]
        cosine = [0.2 * (1 + math.cos(math.pi * done)) for done in (0.0, 0.25, 0.5, 0.75)]
        assert rates == pytest.approx([0.1, 0.2, 0.3, *cosine])

    def test_a_rate_of_every_step_goes_on_within_the_epoch(self) -> None:
        every_step, every_epoch = (
            TrainingSettings(epochs=2, schedule="cosine", schedule_every=every, learning_rate=1.0)
            for every in ("step", "epoch")
        )
        rates = [training.learning_rate(every_step, epoch, done) for epoch in (0, 1) for done in (0, 0.5, 1, 1.5)]
        assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 4)) for k in (0, 1, 2, 2, 2, 3, 4, 4)])
        assert [training.learning_rate(every_epoch, 1, done) for done in (0, 0.5)] == [0.5, 0.5]

    def test_a_rate_of_every_step_falls_and_climbs_too(self) -> None:
        settings = TrainingSettings(
            epochs=4, schedule="step", schedule_every="step", milestones=(3,), warmup_epochs=1, learning_rate=1.0
        )
        rates = [training.learning_rate(settings, *when) for when in ((0, 0.0), (0, 0.5), (2, 0.9), (2, 1.0))]
        assert rates == pytest.approx([0.5, 0.75, 1.0, 0.1])

    def test_a_set_rate_is_what_the_optimizer_uses(self) -> None:
        network = tiny_network()
        optimizer = training.build_optimizer(network, FineTuning())
        training.set_learning_rate(optimizer, 0.125)
        assert {group["lr"] for group in optimizer.param_groups} == {0.125}


class TestOptimizer:
    @pytest.mark.parametrize(("settings", "nesterov"), [(FromScratch(), True), (FineTuning(), False)])
    def test_it_is_the_papers(self, settings: TrainingSettings, nesterov: bool) -> None:
        optimizer = training.build_optimizer(tiny_network(), settings)
        values = optimizer.param_groups[0]
        assert (values["momentum"], values["weight_decay"], values["nesterov"]) == (0.9, 1e-4, nesterov)
        assert values["lr"] == settings.learning_rate
        assert settings.batch_size == 256

    def test_frozen_parameters_are_left_out(self) -> None:
        network = tiny_network()
        network[0].requires_grad_(False)
        chosen = training.build_optimizer(network, FineTuning()).param_groups[0]["params"]
        assert len(chosen) == len(list(network.parameters())) - 2


class TestStep:
    def test_a_step_is_that_of_plain_torch(self) -> None:
        pixels, labels = coloured_images(4)
        settings = TrainingSettings(label_smoothing=0.1)
        ours, theirs = tiny_network(), tiny_network()
        result = training.train_step(ours, training.build_optimizer(ours, settings), shrunken, pixels, labels, settings)
        optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
        logits = theirs(shrunken(pixels))
        loss = functional.cross_entropy(logits, labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        assert result.loss == pytest.approx(4 * loss.item())
        assert result.correct == int((logits.argmax(1) == labels).sum())
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other)

    def test_a_teacher_has_its_share_of_the_loss(self) -> None:
        pixels, labels = coloured_images(4)
        torch.manual_seed(3)
        answers = torch.randn(4, CLASSES)
        teacher = training.Teacher(lambda images: answers, weight=0.25, temperature=3.0)
        settings = TrainingSettings(label_smoothing=0.1)
        ours, theirs = tiny_network(), tiny_network()
        result = training.train_step(
            ours, training.build_optimizer(ours, settings), two_views, pixels, labels, settings, teacher=teacher
        )
        optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
        logits = theirs(two_views(pixels))
        soft = (answers.repeat_interleave(2, 0) / 3).softmax(1)
        apart = (soft * (soft.log() - (logits / 3).log_softmax(1))).sum(1).mean()
        error = functional.cross_entropy(logits, labels.repeat_interleave(2), label_smoothing=0.1)
        loss = 0.75 * error + 0.25 * 9 * apart
        loss.backward()
        optimizer.step()
        assert result.loss == pytest.approx(8 * loss.item())
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other)

    def test_agreeing_with_the_teacher_costs_nothing(self) -> None:
        logits = torch.randn(5, CLASSES)
        assert training.disagreement(logits, logits + 7, 2.0).item() == pytest.approx(0, abs=1e-6)
        assert training.disagreement(logits, -logits, 2.0).item() > 0.1

    def test_a_loss_that_is_not_finite_changes_nothing_and_says_where(self) -> None:
        network, (pixels, labels) = tiny_network(), coloured_images(2)
        settings = FineTuning()
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
        settings = FineTuning(precision="bfloat16")
        optimizer = training.build_optimizer(network, settings)
        result = training.train_step(network, optimizer, training.whole_view, pixels, labels, settings)
        exact = training.train_step(tiny_network(), optimizer, training.whole_view, pixels, labels, FineTuning())
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
        recipe = training.plain_recipe(training.whole_view)
        assert recipe.accuracy_names == ("accuracy",)
        assert recipe.count_correct(network, pixels, labels).tolist() == counts.tolist()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"epochs": 0}, "training.epochs must be >= 1, got 0"),
        ({"batch_size": 0}, "training.batch_size must be >= 1, got 0"),
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
