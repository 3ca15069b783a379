"""How a network learns: learning rates, losses, one optimizer step, validation. Plain torch, no Ray.

N images, V views per image, C classes. A **view** turns normalised images (N, 3, H, W) into what a network is fed,
(N * V, 3, h, w), the views of one image side by side. What a run teaches is its recipe; each system has its own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from anchornet.models.training_settings import ClassifierRecipe, TrainingSettings

View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Teacher:
    """A trained network that another one is to agree with."""

    logits: Callable[[Tensor], Tensor]
    """Normalised images (N, 3, H, W) -> (N, C)."""
    weight: float
    """Share of the loss that is agreement."""
    temperature: float
    """What logits are divided by before they are compared."""


@dataclass(frozen=True)
class Recipe:
    """What one training run teaches, with the frozen networks around it in place on one device."""

    view: View
    """What the network is fed in training."""
    accuracy_names: tuple[str, ...]
    """Names of what ``count_correct`` counts; the last one chooses the epoch to keep."""
    count_correct: Callable[[nn.Module, Tensor, Tensor], Tensor]
    """(network in evaluation mode, normalised images, labels) -> how many images are right, int64, one per name."""
    teacher: Teacher | None = None
    """What the network learns from beside the labels."""


class StepResult(NamedTuple):
    """Sums over the views of one batch."""

    loss: float
    correct: int
    views: int


def learning_rate(settings: TrainingSettings, epoch: int, done: float = 0.0) -> float:
    """The rate in an epoch (0-based). done: the part of it that is over, which counts with ``schedule_every: step``."""
    time = epoch + min(done, 1.0) if settings.schedule_every == "step" else epoch
    if time < settings.warmup_epochs:
        return settings.learning_rate * (time + 1) / (settings.warmup_epochs + 1)
    if settings.schedule == "step":
        return settings.learning_rate * settings.gamma ** sum(time >= milestone for milestone in settings.milestones)
    turned = (time - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * turned))


def build_optimizer(module: nn.Module, settings: TrainingSettings) -> torch.optim.SGD:
    """SGD over the parameters that learn, at the rate of epoch 0."""
    return torch.optim.SGD(
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        lr=learning_rate(settings, 0),
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def whole_view(images_N3HW: Tensor) -> Tensor:
    """The images as they are."""
    return images_N3HW


def logits_of(output: Any) -> Tensor:
    """The class logits of what a network returned: a tensor, or something that holds more than ``logits``."""
    return output if isinstance(output, Tensor) else output.logits


def classification_loss(logits_MC: Tensor, labels_M: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in float32, a scalar."""
    return functional.cross_entropy(logits_MC.float(), labels_M, label_smoothing=label_smoothing)


def disagreement(logits_MC: Tensor, teacher_MC: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened answers from the teacher's, mean over the batch, in float32, a scalar.

    Times the square of the temperature, so that its gradient keeps its size (Hinton, Vinyals and Dean 2015, section 2).
    """
    ours, theirs = ((logits.float() / temperature).log_softmax(1) for logits in (logits_MC, teacher_MC))
    return temperature**2 * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


@contextlib.contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Autocast to ``precision`` for the body; float32 changes nothing."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def train_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    view: View,
    images_N3HW: Tensor,
    labels_N: Tensor,
    settings: TrainingSettings,
    where: str = "",
    teacher: Teacher | None = None,
) -> StepResult:
    """One optimizer step on a batch of normalised images; every view is scored alone, with its image's label, and with what the
    teacher says of the whole image.

    where: step and rank, for the error. Raises RuntimeError **before** the step when the loss is not finite.
    """
    with arithmetic(images_N3HW.device, settings.precision):
        inputs_M = view(images_N3HW).contiguous(memory_format=torch.channels_last)
        logits_MC = logits_of(module(inputs_M))
    labels_M = labels_N.repeat_interleave(len(inputs_M) // len(labels_N))
    loss = classification_loss(logits_MC, labels_M, settings.label_smoothing)
    if teacher:
        with torch.no_grad(), arithmetic(images_N3HW.device, settings.precision):
            told_MC = teacher.logits(images_N3HW).repeat_interleave(len(inputs_M) // len(labels_N), 0)
        agreement = disagreement(logits_MC, told_MC, teacher.temperature)
        loss = (1 - teacher.weight) * loss + teacher.weight * agreement
    value = loss.item()
    if not math.isfinite(value):
        raise RuntimeError(
            f"train/loss is {value} at {where or 'this step'}; nothing was changed by this step. "
            f"Lower training.learning_rate or add training.warmup_epochs"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    correct = int((logits_MC.detach().argmax(1) == labels_M).sum())
    return StepResult(value * len(labels_M), correct, len(labels_M))


def plain_recipe(view: View) -> Recipe:
    """A recipe that scores each image once, through the same view as in training."""
    return Recipe(view, ("accuracy",), lambda module, images, labels: correct_counts(module, view, images, labels))


@torch.no_grad()
def correct_counts(module: nn.Module, view: View, images_N3HW: Tensor, labels_N: Tensor) -> Tensor:
    """How many images a network in evaluation mode gets right by its first view, by the sum of two, and so on: int64 (V,)."""
    return sums_correct(view_logits(module, view, images_N3HW), labels_N)


@torch.no_grad()
def view_logits(module: nn.Module, view: View, images_N3HW: Tensor) -> Tensor:
    """Logits of every view of every image: (N, V, C) float32."""
    inputs_M = view(images_N3HW).contiguous(memory_format=torch.channels_last)
    return logits_of(module(inputs_M)).float().unflatten(0, (len(images_N3HW), -1))


def sums_correct(logits_NVC: Tensor, labels_N: Tensor) -> Tensor:
    """How many images the running sum over views gets right after each of them: int64 (V,).

    Logits are added one after the other, as a cascade does.
    """
    return (logits_NVC.cumsum(1).argmax(2) == labels_N[:, None]).sum(0)


def check_recipe(recipe: ClassifierRecipe, crop_size: int) -> None:
    """The classes that frozen networks demand: there are none here."""


def open_recipe(recipe: ClassifierRecipe, crop_size: int, image_size: int, device: torch.device) -> Recipe:
    """The recipe of an ordinary classifier on whole images."""
    return plain_recipe(whole_view)
