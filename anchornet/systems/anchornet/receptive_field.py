"""What one cell of a proposer sees, the grid of candidate patches, and how many patches are certain.

Everything follows from the module's own layers by the paper's equation (1); nothing here is typed in. For AnchorNet
at 224 px it gives size 95, stride 8 and 17 x 17 = 289 candidates.
Shapes: G = grid x grid candidates, row-major: candidate i lies in row i // grid, column i % grid. V = children of a
search node.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

SEARCH_LIMIT = 8_000
"""Search nodes (0.1 to 0.5 ms each at 17x17) after which guaranteed_patches stops and returns what it has proved."""

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class ReceptiveField(NamedTuple):
    """Cell (i, j) sees the pixels of rows stride*i .. stride*i + size - 1, and columns likewise with j."""

    size: int
    stride: int


def receptive_field(module: nn.Module) -> ReceptiveField:
    """What one cell sees, by RF <- RF + (k - 1) S and S <- S s over the module's convolutions and poolings, in order.

    The layers must form a chain in order of registration; 1x1 layers of stride 1 (squeeze-excite) change nothing.
    Global poolings and linear layers, which come after the map, are passed over.
    Raises ValueError for padding, oblong kernels or strides, upsampling, or a module without convolutions.
    """
    size, stride, num_layers = 1, 1, 0
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.ConvTranspose2d, nn.Upsample)):
            kind = type(layer).__name__
            raise ValueError(f"receptive field: {name} ({kind}) enlarges the map; use convolutions and poolings")
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            kernel, step = _kernel_and_stride(name, layer)
            size, stride, num_layers = size + (kernel - 1) * stride, stride * step, num_layers + 1
    if not num_layers:
        kind = type(module).__name__
        raise ValueError(f"receptive field: {kind} has no 2-d convolution or pooling; give a convolutional network")
    return ReceptiveField(size, stride)


def grid_size(image_size: int, field: ReceptiveField) -> int:
    """Candidates along one side of a square image: floor((image_size - size) / stride) + 1.

    Raises ValueError if the image is smaller than the receptive field.
    """
    if image_size < field.size:
        raise ValueError(f"image of {image_size} px is smaller than the receptive field; use at least {field.size} px")
    return (image_size - field.size) // field.stride + 1


def candidate_boxes(grid: int, field: ReceptiveField) -> Tensor:
    """Top-left pixel (row, column) of every candidate, (G, 2) int64; each box is field.size pixels high and wide."""
    start = torch.arange(grid) * field.stride
    return torch.cartesian_prod(start, start)


def iou_table(grid: int, field: ReceptiveField, compat: bool = False) -> Tensor:
    """Intersection over union of every two candidates, (G, G) float64.

    compat: the authors' formula, which takes a side as last minus first pixel (94 for boxes of 95). It differs in a
    decision only at threshold 0.2 (offset of 5 x 5 cells: 0.198 instead of 0.201).
    """
    side = field.size - 1 if compat else field.size
    start = np.arange(grid) * field.stride
    overlap = np.maximum(side - np.abs(start[:, None] - start), 0).astype(np.float64)
    intersection = np.einsum("ab,cd->acbd", overlap, overlap).reshape(grid * grid, grid * grid)
    return torch.from_numpy(intersection / (2.0 * side * side - intersection))


@lru_cache(maxsize=256)
def guaranteed_patches(
    iou_threshold: float, grid: int, field: ReceptiveField, at_most: int, compat: bool = False
) -> int:
    """The smallest number of patches that any map can end with, or at_most if that is smaller.

    What a scan accepts is a set of candidates of which no two conflict (IoU > threshold) while every candidate left
    conflicts with one of it; each such set comes from some map. So the answer is the size of the smallest independent
    dominating set of the conflict graph, found by exhaustive search with a bound. A search longer than SEARCH_LIMIT
    nodes ends with the count proved so far, which is never too high. compat as in PatchSelector: candidate 0 is
    accepted without an IoU check.
    Raises ValueError if the IoU threshold lies outside [0, 1) or at_most is below 1.
    """
    _check_threshold(iou_threshold)
    if at_most < 1:
        raise ValueError(f"at_most must be >= 1, got {at_most}; ask for the number of patches the cascade takes")
    conflicts = (iou_table(grid, field, compat) > iou_threshold).numpy()
    search = _DominatingSetSearch(conflicts, grid)
    for count in range(1, min(at_most, grid * grid)):
        if search.proves_possible(count, compat):
            return count
    return min(at_most, grid * grid)


def check_selection(
    iou_threshold: float, num_patches: int, grid: int, field: ReceptiveField, compat: bool = False
) -> None:
    """Returns only if every map yields num_patches patches under this IoU threshold and grid.

    Raises ValueError with the count that is certain if some map would yield fewer, or if num_patches is below 1.
    """
    if num_patches < 1:
        raise ValueError(f"num_patches must be >= 1, got {num_patches}; the cascade looks at one patch or more")
    certain = guaranteed_patches(iou_threshold, grid, field, num_patches, compat)
    if certain < num_patches:
        raise ValueError(
            f"num_patches {num_patches} with iou_threshold {iou_threshold} on a {grid}x{grid} grid of {field.size} px "
            f"patches can fall short: only {certain} are certain; raise iou_threshold or ask for at most {certain}"
        )


def _check_threshold(iou_threshold: float) -> None:
    if not 0 <= iou_threshold < 1:
        raise ValueError(f"iou_threshold must be in [0, 1), got {iou_threshold}; the paper uses 0.3")


def _kernel_and_stride(name: str, layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> tuple[int, int]:
    """The layer's effective kernel side (dilation included) and stride; refuses what equation (1) does not cover."""
    kernel, stride, padding = _pair(layer.kernel_size), _pair(layer.stride), layer.padding
    dilation = (1, 1) if isinstance(layer, nn.AvgPool2d) else _pair(layer.dilation)
    if padding == "same" or (not isinstance(padding, str) and _pair(padding) != (0, 0)):
        raise ValueError(f"receptive field: {name} has padding {padding}, so border cells see less; use padding 0")
    if any(a != b for a, b in (kernel, stride, dilation)) or getattr(layer, "ceil_mode", False):
        raise ValueError(
            f"receptive field: {name} is oblong (kernel {kernel}, stride {stride}) or has ceil_mode; "
            f"use equal sides and ceil_mode=False"
        )
    return dilation[0] * (kernel[0] - 1) + 1, stride[0]


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _DominatingSetSearch:
    """Exhaustive search for independent dominating sets of a given size in a graph on a square grid.

    conflicts (G, G) bool, symmetric, true on the diagonal. A node has a set of candidates that may still be chosen
    and a set not yet dominated. It takes the undominated candidate with the fewest possible dominators and tries each
    of these; a dominator that was tried is forbidden to its later siblings, so no set is visited twice.
    """

    def __init__(self, conflicts: Bools, grid: int) -> None:
        self.conflicts = conflicts
        self.weights: Floats = conflicts.astype(np.float32)
        self.mirrored = np.arange(grid * grid).reshape(grid, grid).T.reshape(-1)
        self.num_nodes = 0

    def proves_possible(self, count: int, compat: bool) -> bool:
        """True if a set of count candidates exists, or the search limit was hit before the opposite was proved."""
        free = np.ones(len(self.conflicts), dtype=bool)
        undominated = free.copy()
        if compat:  # candidate 0 is always in the set, and what came before it may conflict with it
            free[0] = False
            undominated &= ~self.conflicts[0]
            count -= 1
        if not undominated.any():
            return True
        if count == 0:
            return False
        if count == 1:
            return bool((free & ((self.weights @ undominated) == undominated.sum())).any())
        return self._extend(free, undominated, count, is_root=True)

    def _extend(self, free: Bools, undominated: Bools, count: int, is_root: bool = False) -> bool:
        """True if `count` >= 2 more free candidates, pairwise without conflict, can dominate all of `undominated`."""
        self.num_nodes += 1
        if self.num_nodes > SEARCH_LIMIT:
            return True
        children = self._dominators(free, undominated, is_root)
        free_VG = free & ~self.conflicts[children]
        for position, child in enumerate(children):  # forbidden to later siblings; at the root its mirror image too
            free_VG[position + 1 :, child] = False
            if is_root:
                free_VG[position + 1 :, self.mirrored[child]] = False
        undominated_VG = undominated & ~self.conflicts[children]
        left_V = undominated_VG.sum(1)
        gain_VG = np.where(free_VG, undominated_VG @ self.weights, 0)
        if (left_V == 0).any():
            return True
        if count == 2:
            return bool((gain_VG.max(1) == left_V).any())
        best_V = np.partition(gain_VG, 1 - count, axis=1)[:, 1 - count :].sum(1)
        return any(self._extend(free_VG[v], undominated_VG[v], count - 1) for v in np.flatnonzero(best_V >= left_V))

    def _dominators(self, free: Bools, undominated: Bools, is_root: bool) -> npt.NDArray[np.intp]:
        """Free candidates that dominate the hardest undominated one, best first; at the root one per mirrored pair."""
        options = self.weights @ free
        hardest = np.where(undominated, options, np.inf).argmin()
        if is_root:
            hardest = np.where(undominated & (self.mirrored == np.arange(len(free))), options, np.inf).argmin()
        children = np.flatnonzero(self.conflicts[hardest] & free)
        if is_root:
            children = children[children <= self.mirrored[children]]
        return children[np.argsort(-(self.weights[children] @ undominated), kind="stable")]
