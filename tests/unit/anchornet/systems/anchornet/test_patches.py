"""Selection of patches against a plain scan, and crops against slicing."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional

from anchornet.systems.anchornet.patches import PatchSelector, crop_patches
from anchornet.systems.anchornet.receptive_field import ReceptiveField, candidate_boxes, iou_table

PAPER = ReceptiveField(95, 8)


@cache
def iou_matrix(grid: int, compat: bool) -> np.ndarray:
    return iou_table(grid, PAPER, compat).numpy()


def plain_scan(values: np.ndarray, grid: int, threshold: float, count: int, compat: bool = False) -> list[int]:
    """One pass: value descending, index ascending, accepted iff IoU with every accepted one is <= threshold."""
    iou = iou_matrix(grid, compat)
    order = sorted(range(grid * grid), key=lambda i: (-values[i] if not np.isnan(values[i]) else np.inf, i))
    accepted: list[int] = []
    for cell in order:
        if (compat and cell == 0) or all(iou[cell, other] <= threshold for other in accepted):
            accepted.append(cell)
    return accepted[:count]


def maps(kind: str, num_images: int, grid: int, seed: int) -> torch.Tensor:
    """Noise of three sorts: white, smooth as real maps are, and of few values so that most are equal."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "smooth":
        coarse = torch.randn(num_images, 1, 4, 4, generator=generator)
        return functional.interpolate(coarse, size=(grid, grid), mode="bilinear")[:, 0]
    noise = torch.randn(num_images, grid, grid, generator=generator)
    return noise if kind == "white" else noise.round()


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize(("threshold", "count", "grid"), [(0.3, 4, 17), (0.2, 4, 17), (0.5, 6, 17), (0.4, 3, 9)])
@pytest.mark.parametrize("kind", ["white", "smooth", "ties"])
def test_equals_the_plain_scan(kind: str, threshold: float, count: int, grid: int, compat: bool) -> None:
    selector = PatchSelector(grid, PAPER, threshold, count, compat)
    batch = maps(kind, 100, grid, seed=count + grid)
    if compat:
        batch[:50, 0, 0] += 2  # so that the corner is reached, where the released code goes its own way
    expected = [plain_scan(each.reshape(-1).numpy(), grid, threshold, count, compat) for each in batch]
    assert selector(batch).tolist() == expected


def test_the_authors_corner_bug_only_under_compat() -> None:
    """Cell 0 next to a better cell: suppressed by the rule, accepted by the released code."""
    values = torch.zeros(1, 17, 17)
    values[0, 0, 0], values[0, 0, 1] = 1, 2
    assert PatchSelector(17, PAPER, 0.3, 4)(values)[0, :2].tolist() == [1, 8]
    assert PatchSelector(17, PAPER, 0.3, 4, compat=True)(values)[0, :2].tolist() == [1, 0]


@pytest.mark.parametrize("fill", [float("nan"), float("-inf"), float("inf"), -3.4028234663852886e38])
def test_odd_values_still_give_a_whole_selection(fill: float) -> None:
    selector = PatchSelector(17, PAPER, 0.3, 4)
    whole = torch.full((1, 17, 17), fill)
    assert selector(whole).tolist() == selector(torch.zeros(1, 17, 17)).tolist()
    partly = torch.randn(1, 17, 17, generator=torch.Generator().manual_seed(0))
    partly[0, ::2] = fill
    assert selector(partly).tolist() == [plain_scan(partly.reshape(-1).numpy(), 17, 0.3, 4)]


def test_chosen_patches_never_overlap_more_than_allowed() -> None:
    cells = PatchSelector(17, PAPER, 0.3, 5)(maps("smooth", 300, 17, seed=0))
    iou = iou_table(17, PAPER)[cells[:, :, None], cells[:, None, :]]
    assert (iou <= 0.3).sum().item() == 300 * 5 * 4  # all but each patch with itself


def test_a_row_does_not_depend_on_the_batch() -> None:
    selector, batch = PatchSelector(17, PAPER, 0.3, 4), maps("ties", 20, 17, seed=3)
    assert torch.equal(selector(batch), torch.cat([selector(each[None]) for each in batch]))
    assert selector(batch[:0]).shape == (0, 4)


def test_the_input_is_left_alone() -> None:
    batch = maps("white", 2, 17, seed=0)
    before = batch.clone()
    PatchSelector(17, PAPER, 0.3, 4)(batch)
    assert torch.equal(batch, before)


def test_low_precision_maps_are_taken() -> None:
    batch = maps("white", 5, 17, seed=0).bfloat16()
    expected = [plain_scan(each.reshape(-1).float().numpy(), 17, 0.3, 4) for each in batch]
    assert PatchSelector(17, PAPER, 0.3, 4)(batch).tolist() == expected


def test_selection_that_can_fall_short_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="can fall short: only 2 are certain"):
        PatchSelector(17, PAPER, 0.1, 3)


@pytest.mark.parametrize("shape", [(2, 16, 17), (2, 289), (2, 1, 17, 17)])
def test_maps_of_another_grid_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit grid 17"):
        PatchSelector(17, PAPER, 0.3, 4)(torch.zeros(shape))


def test_boxes_of_cells() -> None:
    boxes = PatchSelector(17, PAPER, 0.3, 4).boxes(torch.tensor([[0, 1], [17, 288]]))
    assert boxes.tolist() == [[[0, 0], [0, 8]], [[8, 0], [128, 128]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crops_are_the_slices(dtype: torch.dtype, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    images = (255 * torch.rand(6, 3, 120, 110, generator=generator)).to(dtype).contiguous(memory_format=layout)
    top_left = torch.tensor([[0, 0], [25, 15], [3, 9], [25, 0], [0, 15], [7, 7]])
    crops = crop_patches(images, top_left, 95)
    assert torch.equal(
        crops, torch.stack([i[:, t : t + 95, s : s + 95] for i, (t, s) in zip(images, top_left.tolist(), strict=True)])
    )
    crops.zero_()
    assert images.any()


def test_every_candidate_fits_its_image() -> None:
    images = torch.arange(224.0 * 224).reshape(1, 1, 224, 224).expand(289, 1, -1, -1)
    boxes = candidate_boxes(17, PAPER)
    assert torch.equal(crop_patches(images, boxes, 95)[:, 0, 0, 0], 224.0 * boxes[:, 0] + boxes[:, 1])


def test_a_box_outside_its_image_is_an_error() -> None:
    with pytest.raises(IndexError):
        crop_patches(torch.zeros(1, 3, 100, 100), torch.tensor([[6, 0]]), 95)
