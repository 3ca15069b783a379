"""Ordinary classifiers as a cascade: each member looks at its own view of the picture, and each is an exit.

    combine   logits of exit k
    last      those of member k alone
    mean      the mean of those of members 0..k

The views of a picture arrive side by side in one row; what travels on are the views that later members still need, and with
``mean`` the sum of the logits so far. Views are uint8; each member's mean and std are applied where it runs.

Shapes: N images, n survivors, C classes, H = W = side of a view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from anchornet.cascade.protocol import Cascade, Exit, Placement, Stage, Step
from anchornet.cascade.rows import IMAGE, Layout, pixel_layout
from anchornet.images.preprocess import CHANNELS, Geometry, Preprocessing, Views, join_views, length, split_views
from anchornet.images.tensors import normalise
from anchornet.models.macs import count_macs
from anchornet.systems.models.settings import ModelsSettings

LOGITS = "logits"


@dataclass(frozen=True)
class MembersState:
    """What n survivors carry."""

    views: Mapping[Geometry, Tensor]
    """(n, 3, H, W) uint8 each: the views that members still to come look at."""
    logits: Tensor
    """(n, C) float32: sum of the members' logits so far; (n, 0) where only the newest member counts."""

    def __len__(self) -> int:
        """Number of rows n."""
        return len(self.logits)


class ModelsCascade(Cascade[MembersState]):
    """A :class:`~anchornet.cascade.protocol.Cascade` over classifiers by name; ``settings`` are complete.

    only: positions of the members to ask, None for all; pixels are those of all members nevertheless. Costs are measured
    here, once, on the networks and shapes that will be run.
    """

    def __init__(
        self,
        settings: ModelsSettings,
        networks: Mapping[str, nn.Module],
        classes: Sequence[str],
        placement: Placement | None = None,
        *,
        only: Sequence[int] | None = None,
    ) -> None:
        placement = placement or Placement()
        self.classes = classes
        self.num_boxes = 0
        self._views = views_of(settings)
        self._device, self._precision = torch.device(placement.device), placement.precision
        self._sums = settings.combine == "mean"
        asked = list(range(len(settings.members)) if only is None else only)
        self._feeds = [self._views.networks[position] for position in asked]
        roles = [settings.members[position].role for position in asked]
        self.exits = [
            Exit(role, member_macs(networks[role], feed)) for role, feed in zip(roles, self._feeds, strict=True)
        ]
        self._networks = [self._ready(networks[role]) for role in roles]
        self.stages = self._stages(settings.stages == "one")

    def _ready(self, module: nn.Module) -> nn.Module:
        ready = module.to(device=self._device, dtype=self._precision).eval().requires_grad_(False)
        return ready.to(memory_format=torch.channels_last)

    def _stages(self, is_one: bool) -> list[Stage]:
        if is_one:
            return [Stage("members", 0, len(self.exits), pixel_layout(self._views.shape))]
        return [Stage(exit.name, k, k + 1, self._takes(k)) for k, exit in enumerate(self.exits)]

    def _takes(self, first: int) -> Layout:
        """What a row carries to the stage that starts at exit ``first``."""
        if not first:
            return pixel_layout(self._views.shape)
        layout = pixel_layout(self._shape(first))
        return {**layout, LOGITS: (np.dtype(np.float32), (len(self.classes),))} if self._sums else layout

    def _needed(self, first: int) -> tuple[Geometry, ...]:
        """Views that the members from exit ``first`` on look at; the first stage is given all there are."""
        wanted = {feed.geometry for feed in self._feeds[first:]}
        return tuple(view for view in self._views.geometries if view in wanted) if first else self._views.geometries

    def _shape(self, first: int) -> tuple[int, ...]:
        views = self._needed(first)
        return views[0].shape if len(views) == 1 else (length(views),)

    def start(self, images_NHW3: np.ndarray) -> MembersState:
        """State of N fresh images: (N, H, W, 3) uint8, or (N, D) where views differ."""
        assert images_NHW3.dtype == np.uint8 and images_NHW3.shape[1:] == self._views.shape, images_NHW3.shape
        return MembersState(self._tensors(images_NHW3, 0), self._no_logits(len(images_NHW3)))

    def _no_logits(self, num_images: int) -> Tensor:
        return torch.zeros(num_images, len(self.classes) if self._sums else 0, device=self._device)

    @torch.inference_mode()
    def advance(self, state: MembersState, exit_index: int) -> tuple[Step, MembersState]:
        """The member of this exit on its own view of every row of ``state``."""
        feed = self._feeds[exit_index]
        pixels = normalise(state.views[feed.geometry], feed).to(self._precision)
        logits = self._networks[exit_index](pixels.contiguous(memory_format=torch.channels_last)).float()
        total = state.logits + logits if self._sums else state.logits
        later = self._needed(exit_index + 1)
        after = MembersState({view: state.views[view] for view in later}, total)
        combined = total / (exit_index + 1) if self._sums else logits
        return Step(combined, np.full(len(state), self.exits[exit_index].macs, np.int64)), after

    def select(self, state: MembersState, rows: Tensor) -> MembersState:
        """The state of ``rows``, dense."""
        rows = rows.to(self._device)
        return MembersState({view: pixels[rows] for view, pixels in state.views.items()}, state.logits[rows])

    def pack(self, state: MembersState, stage_index: int) -> dict[str, np.ndarray]:
        """Columns ``image`` (n, D) or (n, H, W, 3) uint8, and with ``mean`` ``logits`` (n, C) float32."""
        first = self.stages[stage_index].first
        views = [state.views[view].permute(0, 2, 3, 1).cpu().numpy() for view in self._needed(first)]
        pixels = join_views(views).reshape(len(state), *self._shape(first))
        return {IMAGE: pixels, LOGITS: state.logits.cpu().numpy()} if self._sums else {IMAGE: pixels}

    def unpack(self, columns: Mapping[str, np.ndarray], stage_index: int) -> MembersState:
        """The state that ``pack`` gave, on this process's device."""
        first = self.stages[stage_index].first
        logits = torch.from_numpy(columns[LOGITS]) if self._sums else self._no_logits(len(columns[IMAGE]))
        return MembersState(self._tensors(columns[IMAGE], first), logits.to(self._device))

    def _tensors(self, rows: np.ndarray, first: int) -> dict[Geometry, Tensor]:
        views = self._needed(first)
        parts = zip(views, split_views(rows, views), strict=True)
        return {view: torch.from_numpy(part).to(self._device).permute(0, 3, 1, 2) for view, part in parts}


def member_macs(module: nn.Module, feed: Preprocessing) -> int:
    """Multiply-adds of a member on one image."""
    return count_macs(module, (1, CHANNELS, feed.crop, feed.crop))


def views_of(settings: ModelsSettings) -> Views:
    """What the members of complete settings see of a picture."""
    return Views(networks=tuple(member.preprocessing.on(None) for member in settings.members))
