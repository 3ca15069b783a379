"""Patches: which candidates of a map to take, and their pixels.

Shapes: N images, G = grid x grid candidates (row-major cells), P patches per image, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anchornet.systems.anchornet.receptive_field import ReceptiveField, candidate_boxes, check_selection, iou_table


class PatchSelector:
    """Callable: maps (N, grid, grid) -> chosen cells (N, num_patches) int64, best first.

    The choice of a single pass over the cells, value descending and index ascending among equal values, that accepts
    a cell iff its IoU with every accepted one is <= iou_threshold. Done for the whole batch at once by repeating:
    take the maximum, strike out what it suppresses. An image's cells never depend on the other images of the batch.
    grid, field: as in receptive_field.py. compat reproduces the released code: side 94 in the IoU, and cell 0 (top
    left) accepted without an IoU check whenever the pass reaches it.
    Raises ValueError if some map could yield fewer than num_patches (check_selection).
    """

    def __init__(
        self, grid: int, field: ReceptiveField, iou_threshold: float, num_patches: int, compat: bool = False
    ) -> None:
        check_selection(iou_threshold, num_patches, grid, field, compat)
        self.grid, self.field, self.num_patches = grid, field, num_patches
        suppressed_GG = iou_table(grid, field, compat) > iou_threshold
        if compat:
            suppressed_GG[1:, 0] = False
        self._suppressed_GG = suppressed_GG
        self._boxes_G2 = candidate_boxes(grid, field)

    def __call__(self, maps: Tensor) -> Tensor:
        """Cells (N, num_patches) int64 of maps (N, grid, grid); NaN counts as the lowest value, so NaN maps get cells
        too.

        Raises ValueError if the maps have another grid.
        """
        if maps.ndim != 3 or maps.shape[1:] != (self.grid, self.grid):
            raise ValueError(
                f"maps of shape {tuple(maps.shape)} do not fit grid {self.grid}; build the selector for this image size"
            )
        self._move_to(maps.device)
        score_NG = _finite(maps.flatten(1))
        chosen = []
        for _ in range(self.num_patches):
            cell_N = score_NG.argmax(1)  # torch documents that argmax gives the first of equal values
            chosen.append(cell_N)
            score_NG = score_NG.masked_fill(self._suppressed_GG[cell_N], -torch.inf)
        return torch.stack(chosen, 1)

    def boxes(self, cells: Tensor) -> Tensor:
        """Top-left pixel (row, column) of each cell: (..., ) int64 -> (..., 2) int64. The box's side is field.size."""
        self._move_to(cells.device)
        return self._boxes_G2[cells]

    def _move_to(self, device: torch.device) -> None:
        if self._boxes_G2.device != device:
            self._boxes_G2 = self._boxes_G2.to(device)
            self._suppressed_GG = self._suppressed_GG.to(device)


def crop_patches(images: Tensor, top_left: Tensor, size: int) -> Tensor:
    """The pixels images[n, :, top:top + size, left:left + size] of every image: (N, channels, size, size), a copy.

    images (N, channels, H, W) of any type; top_left (N, 2) int64, row first. One gather for the batch.
    Raises IndexError on CPU if a box leaves its image; boxes of a PatchSelector for this image size never do.
    """
    windows = images.unfold(2, size, 1).unfold(
        3, size, 1
    )  # a view (N, channels, H - size + 1, W - size + 1, size, size)
    rows = torch.arange(len(images), device=images.device)
    return windows[rows, :, top_left[:, 0], top_left[:, 1]]


def _finite(score_NG: Tensor) -> Tensor:
    """The scores with NaN and -inf as the lowest finite value, which leaves -inf to mean struck out."""
    lowest = torch.finfo(score_NG.dtype).min
    return score_NG.nan_to_num(nan=lowest, neginf=lowest, posinf=torch.inf)
