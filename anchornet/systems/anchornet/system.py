"""AnchorNet as a system: which networks it has, how they become a cascade, what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from anchornet.cascade.protocol import Placement
from anchornet.images.preprocess import Preprocessing
from anchornet.models.card import ModelCard
from anchornet.models.classifiers import check_input
from anchornet.systems.anchornet.cascade import anchor_cascade, exit_names, image_of
from anchornet.systems.anchornet.network import check_anchornet
from anchornet.systems.anchornet.official import import_weights
from anchornet.systems.anchornet.receptive_field import check_selection, grid_size, receptive_field
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.systems.looks import LooksCascade
from anchornet.systems.system import Networks, Reference, Trained

ROLES = ("anchornet", "glance", "patch")
_RANDOM_PATCHES_SEED = 1


class AnchorNetSystem:
    """See :class:`anchornet.systems.system.System`."""

    def roles(self, settings: AnchorNetSettings) -> tuple[str, ...]:
        """AnchorNet and two classifiers."""
        return ROLES

    def trained_as(self, settings: AnchorNetSettings) -> dict[str, str]:
        """Each for its own role."""
        return {role: role for role in ROLES}

    def complete(self, settings: AnchorNetSettings, cards: Mapping[str, ModelCard]) -> AnchorNetSettings:
        """Nothing is left open."""
        return settings

    def preprocessing(self, settings: AnchorNetSettings) -> Preprocessing:
        """The image that AnchorNet sees; everything else is cut from it."""
        return image_of(settings)

    def check(self, settings: AnchorNetSettings, networks: Networks, num_classes: int) -> None:
        """AnchorNet is one, the classifiers take its patches, and its selection of patches never falls short."""
        anchornet = networks["anchornet"]
        check_anchornet(anchornet)
        field = receptive_field(anchornet)
        grid = grid_size(settings.image_size, field)
        check_selection(settings.iou_threshold, settings.num_patches, grid, field, settings.compat)
        for role in ("glance", "patch"):
            check_input(networks[role], field.size, num_classes)

    def cascade(
        self, settings: AnchorNetSettings, networks: Networks, classes: Sequence[str], placement: Placement
    ) -> LooksCascade:
        """The cascade in the order that ``settings`` say."""
        return anchor_cascade(settings, networks, classes, placement)

    def fewer_exits(self, settings: AnchorNetSettings) -> dict[str, AnchorNetSettings]:
        """Without the glance, where AnchorNet comes before it."""
        later = exit_names(settings)[1:]
        return {"glance": replace(settings, skip=(*settings.skip, "glance"))} if "glance" in later else {}

    def references(
        self, settings: AnchorNetSettings, networks: Networks, classes: Sequence[str], placement: Placement
    ) -> list[Reference]:
        """The glance by itself; patches alone, AnchorNet's and random ones (the paper's Table 3)."""
        glance_first = replace(settings, order="glance_first", skip=("anchor",))
        glance = anchor_cascade(glance_first, networks, classes, placement)
        alone = {**networks, "glance": NoGlance(len(classes))}
        chosen = anchor_cascade(settings, alone, classes, placement)
        random = anchor_cascade(settings, alone, classes, placement, random_patches_seed=_RANDOM_PATCHES_SEED)
        patches = tuple(f"patch{i + 1}" for i in range(settings.num_patches))
        return [
            Reference(GLANCE_ALONE, glance, ("glance",)),
            Reference(PATCHES_ALONE, chosen, patches),
            Reference(RANDOM_PATCHES, random, patches),
        ]

    def import_weights(
        self,
        settings: AnchorNetSettings,
        files: Mapping[str, str],
        architectures: Mapping[str, str],
        classes: Sequence[str],
    ) -> dict[str, Trained]:
        """The authors' released files."""
        return import_weights(files, architectures, classes)


class NoGlance(nn.Module):
    """Logits of zero at no cost: with it in place of the glance network, a cascade sums patches alone."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C) zeros."""
        return x.new_zeros(len(x), self.num_classes)


GLANCE_ALONE, PATCHES_ALONE, RANDOM_PATCHES = "glance alone", "AnchorNet's patches alone", "random patches alone"
SYSTEM = AnchorNetSystem()
