"""How the four networks learn: learning rates, losses, one optimizer step, validation. Plain torch, no Ray.

N images, P patches per image, V views per image (P for patches, else 1), C classes. A **view** turns normalised images
(N, 3, 224, 224) into what a network is fed, (N * V, 3, h, w), the views of one image side by side.
Source of the recipes: the published training code of AnchorNet (stage I and II).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from anchornet.images import tensors
from anchornet.images.preprocess import CROP
from anchornet.models.training_settings import TrainingSettings
from anchornet.systems.anchornet.network import AnchorNet, Proposal, class_activation_map
from anchornet.systems.anchornet.patches import PatchSelector, crop_patches
from anchornet.systems.anchornet.receptive_field import grid_size, receptive_field

Role = Literal["anchornet", "glance", "patch", "full"]
View = Callable[[Tensor], Tensor]


class StepResult(NamedTuple):
    """Sums over the views of one batch."""

    loss: float
    correct: int
    views: int


def learning_rate(settings: TrainingSettings, epoch: int) -> float:
    """The rate of a whole epoch (0-based)."""
    if epoch < settings.warmup_epochs:
        return settings.learning_rate * (epoch + 1) / (settings.warmup_epochs + 1)
    if settings.schedule == "step":
        return settings.learning_rate * settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    done = (epoch - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


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


class PatchView:
    """The crops that a frozen AnchorNet chooses: (N, 3, H, W) -> (N * P, 3, size, size), best patch of an image first.

    The class whose map is followed is AnchorNet's own top-1, not the label. sample: of the ``num_patches`` crops take
    only this many, drawn at random for each image (cheaper training); None takes all. Raises ValueError if
    ``num_patches`` boxes at ``iou_threshold`` cannot always be found, or ``sample`` is not among 1..num_patches.
    """

    def __init__(
        self,
        proposer: AnchorNet,
        num_patches: int,
        iou_threshold: float,
        image_size: int = CROP,
        sample: int | None = None,
    ) -> None:
        if sample is not None and not 1 <= sample <= num_patches:
            raise ValueError(f"patches per image in training must be in 1..{num_patches} or null, got {sample}")
        field = receptive_field(proposer)
        self.selector = PatchSelector(grid_size(image_size, field), field, iou_threshold, num_patches)
        self.proposer = proposer.eval().requires_grad_(False)
        self.num_patches = sample or num_patches
        self.size = field.size

    @torch.no_grad()
    def __call__(self, images_N3HW: Tensor) -> Tensor:
        """The crops, those of one image side by side."""
        proposal = self.proposer(images_N3HW)
        cam = class_activation_map(proposal.features, self.proposer.fc.weight, proposal.logits.argmax(1))
        cells_NP = self.selector(cam)
        if self.num_patches < cells_NP.shape[1]:
            order_NP = torch.rand(cells_NP.shape, device=cells_NP.device).argsort(1)
            cells_NP = cells_NP.gather(1, order_NP[:, : self.num_patches])
        boxes_NP2 = self.selector.boxes(cells_NP)
        crops = [crop_patches(images_N3HW, boxes_NP2[:, i], self.size) for i in range(self.num_patches)]
        return torch.stack(crops, 1).flatten(0, 1)


def whole_view(images_N3HW: Tensor) -> Tensor:
    """The images as they are, for the proposer and for the full network."""
    return images_N3HW


def glance_view(images_N3HW: Tensor) -> Tensor:
    """The whole image shrunk to the size of a patch (95 pixels, AnchorNet's receptive field)."""
    return tensors.shrink(images_N3HW, patch_size())


@cache
def patch_size() -> int:
    """Side of a patch in pixels, derived from AnchorNet's layers."""
    with torch.device("meta"):
        return receptive_field(AnchorNet(1)).size


def logits_of(output: Tensor | Proposal) -> Tensor:
    """The class logits of what a network returned (AnchorNet and some classifiers return more than them)."""
    return output if isinstance(output, Tensor) else output.logits


def classification_loss(logits_MC: Tensor, labels_M: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in float32, a scalar."""
    return functional.cross_entropy(logits_MC.float(), labels_M, label_smoothing=label_smoothing)


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
) -> StepResult:
    """One optimizer step on a batch of normalised images; every view is scored alone, with its image's label.

    where: step and rank, for the error. Raises RuntimeError **before** the step when the loss is not finite.
    """
    with arithmetic(images_N3HW.device, settings.precision):
        inputs_M = view(images_N3HW).contiguous(memory_format=torch.channels_last)
        logits_MC = logits_of(module(inputs_M))
    labels_M = labels_N.repeat_interleave(len(inputs_M) // len(labels_N))
    loss = classification_loss(logits_MC, labels_M, settings.label_smoothing)
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


def accuracy_names(num_patches: int, with_glance: bool) -> tuple[str, ...]:
    """What ``correct_counts`` counts, in its order; the last one is what a network is chosen by.

    num_patches: 0 for a network that sees the image once, else after how many patches to count.
    """
    if not num_patches:
        return ("accuracy",)
    patches = tuple(f"accuracy_patches_{k}" for k in range(1, num_patches + 1))
    glance = tuple(f"accuracy_glance_patches_{k}" for k in range(1, num_patches + 1))
    return (*patches, "accuracy_glance", *glance) if with_glance else patches


@torch.no_grad()
def correct_counts(
    module: nn.Module, view: View, images_N3HW: Tensor, labels_N: Tensor, glance: View | None = None
) -> Tensor:
    """How many images each entry of ``accuracy_names`` gets right: int64 (1,), (P,), or with ``glance`` (2 P + 1,).

    Logits of the views are summed one after the other, as the cascade does. glance: images (N, 3, 224, 224) to logits
    (N, C), which then come first. Whatever is called must be in evaluation mode.
    """
    inputs_M = view(images_N3HW).contiguous(memory_format=torch.channels_last)
    logits_NVC = logits_of(module(inputs_M)).float().unflatten(0, (len(labels_N), -1))
    sums_NKC = logits_NVC.cumsum(1)
    if glance is not None:
        first_N1C = glance(images_N3HW).float().unsqueeze(1)
        sums_NKC = torch.cat([sums_NKC, first_N1C, first_N1C + sums_NKC], 1)
    return (sums_NKC.argmax(2) == labels_N[:, None]).sum(0)
