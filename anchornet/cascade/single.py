"""A single network as a cascade of one stage and one exit: the reference that every other cascade is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from anchornet.cascade.protocol import Cascade, Exit, Placement, Stage, Step, rule_of
from anchornet.cascade.rows import IMAGE, image_layout
from anchornet.images.tensors import normalise
from anchornet.models.macs import count_macs


@dataclass(frozen=True)
class ImageState:
    """Nothing but images."""

    images: Tensor
    """(n, 3, H, W) uint8."""

    def __len__(self) -> int:
        """Number of rows n."""
        return len(self.images)


class SingleNetwork(Cascade[ImageState]):
    """Every image leaves at the one exit; see :func:`single_network`."""

    def __init__(self, module: nn.Module, classes: Sequence[str], image_size: int, placement: Placement, name: str):
        self.classes = classes
        self.num_boxes = 0
        self.exits = [Exit(name, count_macs(module, (1, 3, image_size, image_size)))]
        self.stages = [Stage(name, 0, 1, image_layout(image_size))]
        self.combination = rule_of(self, "last")
        self._placement = placement
        ready = module.to(device=placement.device, dtype=placement.precision).eval().requires_grad_(False)
        self._module = ready.to(memory_format=torch.channels_last)

    def start(self, images_NHW3: np.ndarray) -> ImageState:
        """State of N fresh images, (N, H, W, 3) uint8."""
        return ImageState(torch.from_numpy(images_NHW3).to(self._placement.device).permute(0, 3, 1, 2))

    @torch.inference_mode()
    def advance(self, state: ImageState, exit_index: int) -> tuple[Step, ImageState]:
        """The network on every row of ``state``."""
        pixels = normalise(state.images).to(self._placement.precision)
        logits = self._module(pixels.contiguous(memory_format=torch.channels_last)).float()
        return Step((logits,), np.full(len(state), self.exits[0].macs, np.int64)), state

    def select(self, state: ImageState, rows: Tensor) -> ImageState:
        """The state of ``rows``, dense."""
        return ImageState(state.images[rows.to(state.images.device)])

    def pack(self, state: ImageState, stage_index: int) -> dict[str, np.ndarray]:
        """The images; there is no second stage to take them."""
        return {IMAGE: state.images.permute(0, 2, 3, 1).cpu().numpy()}

    def unpack(self, columns: Mapping[str, np.ndarray], stage_index: int) -> ImageState:
        """The images that ``pack`` gave."""
        return self.start(columns[IMAGE])


def single_network(
    module: nn.Module, classes: Sequence[str], image_size: int, placement: Placement | None = None, *, name: str
) -> SingleNetwork:
    """A network that takes whole normalised images of ``image_size`` pixels, as a cascade with the exit ``name``."""
    return SingleNetwork(module, classes, image_size, placement or Placement(), name)
