"""How AnchorNet and the classifiers that follow it learn: what each is fed, and how it is validated.

N images, P patches per image, C classes. Source of the recipes: the published training code of AnchorNet (stage I and II).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from anchornet.images import tensors
from anchornet.models.card import ModelCard, load_model
from anchornet.models.classifiers import check_input
from anchornet.models.training import (
    Recipe,
    Teacher,
    View,
    correct_counts,
    logits_of,
    plain_recipe,
    sums_correct,
    view_logits,
    whole_view,
)
from anchornet.systems.anchornet.network import AnchorNet
from anchornet.systems.anchornet.patches import crop_patches
from anchornet.systems.anchornet.proposer import Proposer
from anchornet.systems.anchornet.receptive_field import receptive_field
from anchornet.systems.anchornet.settings import AnchorNetRecipe, GlanceRecipe, PatchRecipe


class PatchView:
    """The crops that a frozen AnchorNet chooses: (N, 3, H, W) -> (N * P, 3, size, size), best patch of an image first.

    sample: of the ``num_patches`` crops take only this many, drawn at random for each image (cheaper training); None takes
    all. Raises ValueError if ``num_patches`` boxes at ``iou_threshold`` cannot always be found, or ``sample`` is not among
    1..num_patches.
    """

    def __init__(
        self,
        proposer: AnchorNet,
        num_patches: int,
        iou_threshold: float,
        image_size: int,
        sample: int | None = None,
    ) -> None:
        if sample is not None and not 1 <= sample <= num_patches:
            raise ValueError(f"patches per image in training must be in 1..{num_patches} or null, got {sample}")
        self.proposer = Proposer(proposer.eval().requires_grad_(False), num_patches, iou_threshold, image_size)
        self.num_patches = sample or num_patches
        self.size = self.proposer.patch_size

    @torch.no_grad()
    def __call__(self, images_N3HW: Tensor) -> Tensor:
        """The crops, those of one image side by side."""
        _, corners_NP2 = self.proposer(images_N3HW)
        if self.num_patches < self.proposer.num_patches:
            order_NP = torch.rand(corners_NP2.shape[:2], device=corners_NP2.device).argsort(1)[:, : self.num_patches]
            corners_NP2 = corners_NP2.take_along_dim(order_NP[:, :, None], 1)
        crops = [crop_patches(images_N3HW, corners_NP2[:, i], self.size) for i in range(self.num_patches)]
        return torch.stack(crops, 1).flatten(0, 1)


def glance_view(images_N3HW: Tensor) -> Tensor:
    """The whole image shrunk to the size of a patch (95 pixels, AnchorNet's receptive field)."""
    return tensors.shrink(images_N3HW, patch_size())


@cache
def patch_size() -> int:
    """Side of a patch in pixels, derived from AnchorNet's layers."""
    with torch.device("meta"):
        return receptive_field(AnchorNet(1)).size


def check_recipe(recipe: AnchorNetRecipe | GlanceRecipe | PatchRecipe, crop_size: int) -> tuple[str, ...] | None:
    """The classes that the frozen networks know, None without any; raises ValueError when networks do not fit together."""
    if isinstance(recipe, AnchorNetRecipe):
        return _check_teacher(recipe.teacher, crop_size)
    if isinstance(recipe, GlanceRecipe):
        return None
    proposer, card = _load_anchornet(recipe.anchornet)
    PatchView(proposer, recipe.num_patches, recipe.iou_threshold, crop_size, recipe.training_patches)
    if recipe.glance is not None:
        _, glance = load_model(recipe.glance)
        if glance.classes != card.classes:
            raise ValueError(
                f"glance {recipe.glance} knows {len(glance.classes)} classes and anchornet {recipe.anchornet} "
                f"{len(card.classes)}, not the same or not in the same order; train both on the same data"
            )
    return card.classes


def open_recipe(
    recipe: AnchorNetRecipe | GlanceRecipe | PatchRecipe, crop_size: int, image_size: int, device: torch.device
) -> Recipe:
    """The recipe on a worker: views of ``crop_size`` in training, of ``image_size`` in validation."""
    if isinstance(recipe, AnchorNetRecipe):
        return replace(plain_recipe(whole_view), teacher=_teacher(recipe, device))
    if isinstance(recipe, GlanceRecipe):
        return plain_recipe(glance_view)
    proposer = _load_anchornet(recipe.anchornet)[0].to(device).to(memory_format=torch.channels_last)
    chosen = (proposer, recipe.num_patches, recipe.iou_threshold)
    seen = PatchView(*chosen, image_size)
    count = partial(correct_counts, view=seen)
    if recipe.glance is not None:
        network = load_model(recipe.glance)[0].to(device).to(memory_format=torch.channels_last)
        count = partial(glance_and_patches_correct, view=seen, glance=network)
    names = accuracy_names(recipe.num_patches, recipe.glance is not None)
    return Recipe(
        view=PatchView(*chosen, crop_size, recipe.training_patches),
        accuracy_names=names,
        count_correct=lambda module, images_N3HW, labels_N: count(module, images_N3HW=images_N3HW, labels_N=labels_N),
    )


def accuracy_names(num_patches: int, with_glance: bool) -> tuple[str, ...]:
    """What is counted of a patch network, in order: patches alone, then the glance and patches after it."""
    patches = tuple(f"accuracy_patches_{k}" for k in range(1, num_patches + 1))
    glance = tuple(f"accuracy_glance_patches_{k}" for k in range(1, num_patches + 1))
    return (*patches, "accuracy_glance", *glance) if with_glance else patches


@torch.no_grad()
def glance_and_patches_correct(
    module: nn.Module, images_N3HW: Tensor, labels_N: Tensor, view: View, glance: nn.Module
) -> Tensor:
    """How many images are right by P patches alone, by the glance, and by glance and patches: int64 (2 P + 1,)."""
    patches_NPC = view_logits(module, view, images_N3HW)
    first_N1C = logits_of(glance(glance_view(images_N3HW))).float().unsqueeze(1)
    alone, after = sums_correct(patches_NPC, labels_N), sums_correct(torch.cat([first_N1C, patches_NPC], 1), labels_N)
    return torch.cat([alone, after])


def _check_teacher(folder: str | None, crop_size: int) -> tuple[str, ...] | None:
    """The teacher's classes; raises ValueError when it cannot be asked about training images of this size."""
    if folder is None:
        return None
    network, card = load_model(folder)
    if card.preprocessing is None:
        raise ValueError(
            f"recipe.teacher {folder} was trained as {card.role}, which does not see whole images; give a run of recipe "
            f"classifier"
        )
    check_input(network, crop_size, len(card.classes))
    return card.classes


def _teacher(recipe: AnchorNetRecipe, device: torch.device) -> Teacher | None:
    """The recipe's teacher on a device, None without one."""
    if recipe.teacher is None:
        return None
    network = load_model(recipe.teacher)[0].to(device).to(memory_format=torch.channels_last).requires_grad_(False)
    return Teacher(lambda images: logits_of(network(images)), recipe.teacher_weight, recipe.temperature)


def _load_anchornet(folder: str) -> tuple[AnchorNet, ModelCard]:
    """Raises ValueError when the folder holds some other network."""
    module, card = load_model(folder)
    if not isinstance(module, AnchorNet):
        raise ValueError(f"recipe.anchornet {folder} holds a {card.architecture}; give a run that trained AnchorNet")
    return module, card
