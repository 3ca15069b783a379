"""A cascade of looks: at each exit networks look at views of a picture, and each look adds the logits of its view.

A **look** is one network on one view:

    view     what the network sees
    whole    the picture as the network was trained to see it, by its own preprocessing
    anchor   the image of AnchorNet, which then has chosen the patches
    glance   AnchorNet's image shrunk to the size of a patch
    patch    a patch of AnchorNet's image, at its full resolution

In a sum or mean AnchorNet's own logits do not count: they label its own exit only (the authors' evaluation sums the
classifiers' raw logits).

The views of a picture arrive side by side in one row of uint8; what travels on are those that later looks still need. Mean
and std are each look's own, applied where its network runs.

Shapes: N images, n survivors, C classes, P patches, H = W = side of a view.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from anchornet.budget.combination import Rule, View
from anchornet.cascade.protocol import Cascade, Exit, Placement, Stage, Step, rule_of
from anchornet.cascade.rows import IMAGE, Layout, pixel_layout
from anchornet.images import tensors
from anchornet.images.preprocess import CHANNELS, Geometry, Preprocessing, join_views, length, split_views
from anchornet.models.head import Head
from anchornet.models.macs import count_macs
from anchornet.systems.anchornet.patches import crop_patches
from anchornet.systems.anchornet.proposer import Proposer

BOXES = "boxes"
Kind: TypeAlias = Literal["whole", "anchor", "glance", "patch"]


@dataclass(frozen=True)
class Look:
    """One network on one view."""

    role: str
    view: Kind
    feed: Preprocessing
    """Mean and std of the network, and the pixels it is given: its own, or AnchorNet's image to cut or shrink."""
    patch: int = 0
    """Which patch, best first; for view ``patch``."""


class LooksExit(NamedTuple):
    """An exit before its cost is known."""

    name: str
    stage: str
    """Consecutive exits that name the same one belong to one stage."""
    looks: tuple[Look, ...]


def without_skipped(exits: Sequence[LooksExit], skip: Collection[str]) -> list[LooksExit]:
    """The exits without those named, their looks not computed; AnchorNet's look moves to the next exit that is left."""
    kept: list[LooksExit] = []
    waiting: tuple[Look, ...] = ()
    for each in exits:
        if each.name in skip:
            waiting += tuple(look for look in each.looks if look.view == "anchor")
        else:
            kept.append(each._replace(looks=(*waiting, *each.looks)))
            waiting = ()
    return kept


@dataclass(frozen=True)
class LooksState:
    """What n survivors carry."""

    views: Mapping[Geometry, Tensor]
    """(n, 3, H, W) uint8 each: the views that looks still to come need."""
    boxes: Tensor
    """(n, P, 2) int64: top and left of each patch; -1 before AnchorNet has looked."""

    def __len__(self) -> int:
        """Number of rows n."""
        return len(self.boxes)


class LooksCascade(Cascade[LooksState]):
    """A :class:`~anchornet.cascade.protocol.Cascade` over networks by role.

    rule: how the views become answers unless calibration says otherwise. given: the views in the rows that the first stage
    takes, whether or not a look needs them. proposer: AnchorNet, where
    some look needs it. random_patches_seed replaces its choice by random patches: the reference of the paper's Table 3.
    Costs are measured here, once, on the networks and shapes that will be run.
    """

    def __init__(
        self,
        exits: Sequence[LooksExit],
        networks: Mapping[str, nn.Module],
        classes: Sequence[str],
        placement: Placement | None = None,
        *,
        rule: Rule,
        given: Sequence[Geometry],
        proposer: Proposer | None = None,
        random_patches_seed: int | None = None,
    ) -> None:
        placement = placement or Placement()
        self.classes = classes
        self._exits, self._given, self._proposer = tuple(exits), tuple(given), proposer
        self._random_patches_seed = random_patches_seed
        self.num_boxes = proposer.num_patches if proposer else 0
        self._device, self._precision = torch.device(placement.device), placement.precision
        heads = {}
        if placement.embedding:
            heads = {role: Head(networks[role], len(classes)) for role in self._roles()}
        self._heads = heads
        self.exits = [self._exit(networks, each) for each in self._exits]
        self.combination = rule_of(self, rule)
        self._networks = {role: self._ready(networks[role]) for role in self._roles()}
        self.stages = self._stages()

    def _roles(self) -> dict[str, None]:
        """Roles of the networks that look, in the order of their first look."""
        return dict.fromkeys(look.role for each in self._exits for look in each.looks)

    def _exit(self, networks: Mapping[str, nn.Module], each: LooksExit) -> Exit:
        """The exit with what it costs, and the size of the embedding of its newest look."""
        macs = sum(self._macs(networks, look) for look in each.looks)
        return Exit(each.name, macs, _views(each), self._heads[each.looks[-1].role].size if self._heads else 0)

    def _macs(self, networks: Mapping[str, nn.Module], look: Look) -> int:
        side = look.feed.crop if look.view in ("whole", "anchor") else self._patch_size
        return look_macs(networks[look.role], side)

    @property
    def _patch_size(self) -> int:
        assert self._proposer is not None
        return self._proposer.patch_size

    def _ready(self, module: nn.Module) -> nn.Module:
        ready = module.to(device=self._device, dtype=self._precision).eval().requires_grad_(False)
        return ready.to(memory_format=torch.channels_last)

    def _stages(self) -> list[Stage]:
        stages: list[Stage] = []
        for name, group in groupby(self._exits, key=lambda each: each.stage):
            first = stages[-1].stop if stages else 0
            stages.append(Stage(name, first, first + len(list(group)), self._takes(first)))
        return stages

    def _takes(self, first: int) -> Layout:
        """What a row carries to the stage that starts at exit ``first``."""
        layout = pixel_layout(self._shape(first))
        if not first:
            return layout
        return {**layout, BOXES: (np.dtype(np.int16), (self.num_boxes, 2))} if self.num_boxes else layout

    def _needed(self, first: int) -> tuple[Geometry, ...]:
        """Views that the looks from exit ``first`` on need; the first stage is given all there are."""
        wanted = {look.feed.geometry for each in self._exits[first:] for look in each.looks}
        return tuple(view for view in self._given if view in wanted) if first else self._given

    def _shape(self, first: int) -> tuple[int, ...]:
        views = self._needed(first)
        return views[0].shape if len(views) == 1 else (length(views),)

    def start(self, images_NHW3: np.ndarray) -> LooksState:
        """State of N fresh images: (N, H, W, 3) uint8, or (N, D) where views differ."""
        assert images_NHW3.dtype == np.uint8 and images_NHW3.shape[1:] == self._shape(0), images_NHW3.shape
        num_images = len(images_NHW3)
        boxes = torch.full((num_images, self.num_boxes, 2), -1, device=self._device)
        return LooksState(self._tensors(images_NHW3, 0), boxes)

    @torch.inference_mode()
    def advance(self, state: LooksState, exit_index: int) -> tuple[Step, LooksState]:
        """The looks of this exit, for every row of ``state``."""
        said, boxes = [], None
        for look in self._exits[exit_index].looks:
            if look.view == "anchor":
                logits, state = self._anchor(state, look)
                boxes = self._boxes(state)
            else:
                logits = self._see(state, look)
            said.append(logits)
        after = replace(state, views={view: state.views[view] for view in self._needed(exit_index + 1)})
        macs = np.full(len(state), self.exits[exit_index].macs, np.int64)
        embedding = self._heads[look.role].given if self._heads else None
        return Step(tuple(said), macs, boxes, embedding), after

    def select(self, state: LooksState, rows: Tensor) -> LooksState:
        """The state of ``rows``, dense."""
        rows = rows.to(self._device)
        views = {view: pixels[rows] for view, pixels in state.views.items()}
        return LooksState(views, state.boxes[rows])

    def pack(self, state: LooksState, stage_index: int) -> dict[str, np.ndarray]:
        """Columns ``image`` (n, H, W, 3) or (n, D) uint8, and where patches are chosen ``boxes`` (n, P, 2) int16."""
        first = self.stages[stage_index].first
        views = [state.views[view].permute(0, 2, 3, 1).cpu().numpy() for view in self._needed(first)]
        columns: dict[str, np.ndarray] = {
            IMAGE: join_views(views).reshape(len(state), *self._shape(first)),
            BOXES: state.boxes.cpu().numpy().astype(np.int16),
        }
        return {name: columns[name] for name in self.stages[stage_index].takes}

    def unpack(self, columns: Mapping[str, np.ndarray], stage_index: int) -> LooksState:
        """The state that ``pack`` gave, on this process's device."""
        num_rows = len(columns[IMAGE])
        boxes = columns.get(BOXES, np.zeros((num_rows, 0, 2), np.int16))
        return LooksState(
            self._tensors(columns[IMAGE], self.stages[stage_index].first),
            torch.from_numpy(boxes.astype(np.int64)).to(self._device),
        )

    def _tensors(self, rows: np.ndarray, first: int) -> dict[Geometry, Tensor]:
        views = self._needed(first)
        parts = zip(views, split_views(rows, views), strict=True)
        return {view: torch.from_numpy(part).to(self._device).permute(0, 3, 1, 2) for view, part in parts}

    def _anchor(self, state: LooksState, look: Look) -> tuple[Tensor, LooksState]:
        assert self._proposer is not None
        images = state.views[look.feed.geometry]
        logits, maps = self._proposer.look(self._normalised(images, look))
        if self._random_patches_seed is not None:
            maps = random_maps(images, maps, self._random_patches_seed)
        return logits, replace(state, boxes=self._proposer.choose(maps))

    def _see(self, state: LooksState, look: Look) -> Tensor:
        """Logits (n, C) of a network on its view."""
        images = state.views[look.feed.geometry]
        if look.view == "glance":
            # Shrunk in float32, rounded after: bicubic weights in bfloat16 would change the picture, not only its noise.
            pixels = tensors.shrink(tensors.normalise(images, look.feed), self._patch_size).to(self._precision)
        else:
            if look.view == "patch":
                images = crop_patches(images, state.boxes[:, look.patch], self._patch_size)
            pixels = self._normalised(images, look)
        logits: Tensor = self._networks[look.role](pixels.contiguous(memory_format=torch.channels_last))
        return logits.float()

    def _normalised(self, images: Tensor, look: Look) -> Tensor:
        pixels = tensors.normalise(images, look.feed).to(self._precision)
        return pixels.contiguous(memory_format=torch.channels_last)

    def _boxes(self, state: LooksState) -> np.ndarray:
        """(n, P, 3) int16: top, left, size in pixels of the image that AnchorNet saw."""
        corners = state.boxes.cpu().numpy().astype(np.int16)
        return np.concatenate([corners, np.full_like(corners[..., :1], self._patch_size)], axis=-1)


def _views(each: LooksExit) -> tuple[View, ...]:
    """AnchorNet's view is called like the network, the others like their exit."""
    return tuple(View(look.role, False) if look.view == "anchor" else View(each.name) for look in each.looks)


def look_macs(module: nn.Module, side: int) -> int:
    """Multiply-adds of a network on one view of ``side`` x ``side`` pixels."""
    return count_macs(module, (1, CHANNELS, side, side))


def random_maps(images: Tensor, like: Tensor, seed: int) -> Tensor:
    """A random map per image in place of the activation map; seeded by the pixels, so batching does not matter."""
    maps = []
    for image in images:
        of_image = int(image.sum(dtype=torch.int64)) + 7919 * seed
        maps.append(torch.rand(like.shape[1:], generator=torch.Generator().manual_seed(of_image)))
    return torch.stack(maps).to(like) if maps else like
