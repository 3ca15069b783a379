"""The AnchorNet cascade: a glance at the shrunken image, then the patches that AnchorNet chose, one by one.

Exits are put together from three operations:

    anchor   AnchorNet looks at the whole image: patches for later, and logits of its own
    glance   the classifier for shrunken images looks at the whole image, shrunk to the size of a patch
    patch    the classifier for patches looks at the next patch

Logits of ``glance`` and ``patch`` exits are the running **sum** over everything the classifiers have seen (paper: the
authors' evaluation sums raw logits); those of an ``anchor`` exit are AnchorNet's own. The two orders:

    order         anchor_exit   exits (stage 1 | stage 2)
    anchor_first  on            anchor | glance, patch1..P
    anchor_first  off           glance (AnchorNet's cost included) | patch1..P
    glance_first  off           glance | patch1 (AnchorNet's cost included), patch2..P      the paper's order
    glance_first  on            glance | anchor, patch1..P

Shapes: N images, n survivors, P patches, C classes, H = W = side of the images (224 unless set), patches 95x95 (derived
from AnchorNet).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anchornet.cascade.protocol import Cascade, Exit, Placement, Stage, Step
from anchornet.cascade.rows import image_layout
from anchornet.images import tensors
from anchornet.models.macs import count_macs
from anchornet.systems.anchornet.network import class_activation_map
from anchornet.systems.anchornet.patches import PatchSelector, crop_patches
from anchornet.systems.anchornet.receptive_field import grid_size, receptive_field
from anchornet.systems.anchornet.settings import AnchorNetSettings

CHANNELS = 3


class _ExitLayout(NamedTuple):
    """One exit: its name, the operations it computes, and whether it belongs to stage 2."""

    name: str
    operations: tuple[str, ...]
    second_stage: bool


def exit_layouts(settings: AnchorNetSettings) -> list[_ExitLayout]:
    """The exits of an order, in order; see the table on top of this file."""
    patches = [_ExitLayout(f"patch{i + 1}", ("patch",), True) for i in range(settings.num_patches)]
    anchor, glance = _ExitLayout("anchor", ("anchor",), False), _ExitLayout("glance", ("glance",), False)
    if settings.order == "anchor_first":
        if settings.anchor_exit:
            return [anchor, glance._replace(second_stage=True), *patches]
        return [glance._replace(operations=("anchor", "glance")), *patches]
    if settings.anchor_exit:
        return [glance, anchor._replace(second_stage=True), *patches]
    return [glance, patches[0]._replace(operations=("anchor", "patch")), *patches[1:]]


def exit_names(settings: AnchorNetSettings) -> tuple[str, ...]:
    """Names of the exits of an order, in order."""
    return tuple(plan.name for plan in exit_layouts(settings))


@dataclass(frozen=True)
class AnchorState:
    """What n survivors carry."""

    images: Tensor
    """(n, 3, H, W) uint8."""
    logits: Tensor
    """(n, C) float32: running sum of the classifiers' logits."""
    boxes: Tensor
    """(n, P, 2) int64: top and left of each patch; -1 before AnchorNet has run."""
    patches_seen: int
    """Patches computed so far, the same for all rows of a batch."""

    def __len__(self) -> int:
        """Number of rows n."""
        return len(self.images)


class AnchorCascade(Cascade[AnchorState]):
    """A :class:`~anchornet.cascade.protocol.Cascade` over the networks ``anchornet``, ``glance`` and ``patch``.

    Raises ValueError when (IoU threshold, number of patches, grid) cannot always be met. Costs are measured here, once,
    on the networks and shapes that will be run.
    """

    def __init__(
        self,
        settings: AnchorNetSettings,
        networks: Mapping[str, nn.Module],
        classes: Sequence[str],
        placement: Placement | None = None,
        *,
        random_patches_seed: int | None = None,
    ) -> None:
        """``random_patches_seed`` replaces AnchorNet's choice by random patches: the reference of the paper's Table 3."""
        placement = placement or Placement()
        self.settings = settings
        self.classes = classes
        self.device, self.precision = torch.device(placement.device), placement.precision
        self.random_patches_seed = random_patches_seed
        self.image_size = settings.image_size
        field = receptive_field(networks["anchornet"])
        self.patch_size = field.size
        self._selector = PatchSelector(  # refuses a (threshold, count, grid) that can fall short
            grid_size(self.image_size, field),
            field,
            settings.iou_threshold,
            settings.num_patches,
            compat=settings.compat,
        )
        self.num_boxes = settings.num_patches
        self._layouts = exit_layouts(settings)
        self._macs = self._measure(networks)
        self._networks = {role: self._ready(module) for role, module in networks.items()}
        self.exits = [Exit(plan.name, sum(self._macs[op] for op in plan.operations)) for plan in self._layouts]
        self.stages = self._stages()

    def _stages(self) -> tuple[Stage, Stage]:
        second = [plan.second_stage for plan in self._layouts].index(True)
        state = {
            **image_layout(self.image_size),
            "logits": (np.dtype(np.float32), (len(self.classes),)),
            "boxes": (np.dtype(np.int16), (self.num_boxes, 2)),
        }
        return (
            Stage(self._layouts[0].name, 0, second, image_layout(self.image_size)),
            Stage("patches", second, len(self.exits), state),
        )

    def _measure(self, networks: Mapping[str, nn.Module]) -> dict[str, int]:
        """Multiply-adds of each operation on one image."""
        whole, small = (1, CHANNELS, self.image_size, self.image_size), (1, CHANNELS, self.patch_size, self.patch_size)
        return {
            "anchor": count_macs(networks["anchornet"], whole),
            "glance": count_macs(networks["glance"], small),
            "patch": count_macs(networks["patch"], small),
        }

    def _ready(self, module: nn.Module) -> nn.Module:
        ready = module.to(device=self.device, dtype=self.precision).eval().requires_grad_(False)
        return ready.to(memory_format=torch.channels_last)

    def start(self, images_NHW3: np.ndarray) -> AnchorState:
        """State of N fresh images, (N, H, W, 3) uint8."""
        expected = (self.image_size, self.image_size, CHANNELS)
        assert images_NHW3.dtype == np.uint8 and images_NHW3.shape[1:] == expected, images_NHW3.shape
        num_images = len(images_NHW3)
        return AnchorState(
            images=torch.from_numpy(images_NHW3).to(self.device).permute(0, 3, 1, 2),
            logits=torch.zeros(num_images, len(self.classes), device=self.device),
            boxes=torch.full((num_images, self.settings.num_patches, 2), -1, device=self.device),
            patches_seen=0,
        )

    @torch.inference_mode()
    def advance(self, state: AnchorState, exit_index: int) -> tuple[Step, AnchorState]:
        """Compute the operations of an exit for every row of ``state``."""
        plan = self._layouts[exit_index]
        logits = state.logits
        for operation in plan.operations:
            logits, state = getattr(self, f"_{operation}")(state)
        macs = np.full(len(state), self.exits[exit_index].macs, np.int64)
        boxes = self._boxes(state) if "anchor" in plan.operations else None
        return Step(logits, macs, boxes), state

    def select(self, state: AnchorState, rows: Tensor) -> AnchorState:
        """The state of ``rows``, dense."""
        rows = rows.to(self.device)
        return replace(state, images=state.images[rows], logits=state.logits[rows], boxes=state.boxes[rows])

    def pack(self, state: AnchorState, stage_index: int) -> dict[str, np.ndarray]:
        """Columns ``image`` (n, H, W, 3) uint8, ``logits`` (n, C) float32, ``boxes`` (n, P, 2) int16.

        Between stages no patch has been seen yet, so that number need not travel.
        """
        assert state.patches_seen == 0 or not len(state)
        return {
            "image": state.images.permute(0, 2, 3, 1).cpu().numpy(),
            "logits": state.logits.cpu().numpy(),
            "boxes": state.boxes.cpu().numpy().astype(np.int16),
        }

    def unpack(self, columns: Mapping[str, np.ndarray], stage_index: int) -> AnchorState:
        """The state that ``pack`` gave, on this process's device."""
        return AnchorState(
            images=torch.from_numpy(columns["image"]).to(self.device).permute(0, 3, 1, 2),
            logits=torch.from_numpy(columns["logits"]).to(self.device),
            boxes=torch.from_numpy(columns["boxes"].astype(np.int64)).to(self.device),
            patches_seen=0,
        )

    def _boxes(self, state: AnchorState) -> np.ndarray:
        """(n, P, 3) int16: top, left, size in pixels of the image that AnchorNet saw."""
        corners = state.boxes.cpu().numpy().astype(np.int16)
        return np.concatenate([corners, np.full_like(corners[..., :1], self.patch_size)], axis=-1)

    def _normalised(self, images_n3HW: Tensor) -> Tensor:
        return tensors.normalise(images_n3HW).to(self.precision).contiguous(memory_format=torch.channels_last)

    def _anchor(self, state: AnchorState) -> tuple[Tensor, AnchorState]:
        network = self._networks["anchornet"]
        proposal = network(self._normalised(state.images))
        logits = proposal.logits.float()
        assert isinstance(network.fc, nn.Linear)
        cam = class_activation_map(proposal.features, network.fc.weight, logits.argmax(dim=1))
        if self.random_patches_seed is not None:
            cam = self._random_map(state, cam)
        return logits, replace(state, boxes=self._selector.boxes(self._selector(cam)))

    def _glance(self, state: AnchorState) -> tuple[Tensor, AnchorState]:
        # Shrunk in float32, rounded after: bicubic weights in bfloat16 would change the picture, not only its noise.
        small = tensors.shrink(tensors.normalise(state.images), self.patch_size).to(self.precision)
        return self._add(state, "glance", small)

    def _patch(self, state: AnchorState) -> tuple[Tensor, AnchorState]:
        crops = crop_patches(state.images, state.boxes[:, state.patches_seen], self.patch_size)
        return self._add(replace(state, patches_seen=state.patches_seen + 1), "patch", self._normalised(crops))

    def _add(self, state: AnchorState, network: str, views: Tensor) -> tuple[Tensor, AnchorState]:
        logits = state.logits + self._networks[network](views.contiguous(memory_format=torch.channels_last)).float()
        return logits, replace(state, logits=logits)

    def _random_map(self, state: AnchorState, like: Tensor) -> Tensor:
        """A random map per image in place of the activation map; seeded by the pixels, so batching does not matter."""
        maps = []
        for image in state.images:
            seed = int(image.sum(dtype=torch.int64)) + 7919 * int(self.random_patches_seed or 0)
            maps.append(torch.rand(like.shape[1:], generator=torch.Generator().manual_seed(seed)))
        return torch.stack(maps).to(like) if maps else like
