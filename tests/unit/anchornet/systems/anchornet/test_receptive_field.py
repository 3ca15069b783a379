"""The receptive field by equation (1), on pixels, and the counts of patches that are certain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from anchornet.systems.anchornet import receptive_field as rf
from anchornet.systems.anchornet.network import AnchorNet, SqueezeExcite
from anchornet.systems.anchornet.receptive_field import ReceptiveField

PAPER = ReceptiveField(95, 8)


@pytest.fixture(scope="module")
def without_gates() -> AnchorNet:
    """AnchorNet with squeeze-excite replaced by identity, its only way to see beyond the receptive field."""
    torch.manual_seed(0)
    network = AnchorNet(3).eval()
    for block in network.bneck:
        block.se = nn.Identity()
    return network


def test_anchornets_own_layers_give_95_and_8() -> None:
    assert rf.receptive_field(AnchorNet(10)) == PAPER


@pytest.mark.parametrize(
    ("image", "grid"), [(95, 1), (96, 1), (160, 9), (192, 13), (223, 17), (224, 17), (230, 17), (231, 18), (256, 21)]
)
def test_grid_of_an_image(image: int, grid: int) -> None:
    assert rf.grid_size(image, PAPER) == grid


@pytest.mark.parametrize("image", [95, 110, 224])
def test_grid_is_the_networks_own(image: int, without_gates: AnchorNet) -> None:
    with torch.no_grad():
        features = without_gates(torch.zeros(1, 3, image, image)).features
    assert features.shape[2:] == (rf.grid_size(image, PAPER),) * 2


@pytest.mark.parametrize("cell", [(0, 0), (8, 5), (16, 16)])
def test_a_cell_sees_its_square_of_pixels_and_nothing_else(cell: tuple[int, int], without_gates: AnchorNet) -> None:
    torch.manual_seed(1)
    image = torch.randn(1, 3, 224, 224)
    (top, left), size = (8 * cell[0], 8 * cell[1]), 95
    inside = torch.zeros(224, 224, dtype=torch.bool)
    inside[top : top + size, left : left + size] = True
    outside = torch.where(inside, image, torch.randn_like(image))
    edges = [torch.where(inside, image, image) for _ in range(4)]
    for edge, (row, column) in zip(edges, ((0, 47), (94, 47), (47, 0), (47, 94)), strict=True):
        edge[..., top + row, left + column] += 100.0
    with torch.no_grad():
        features = without_gates(torch.cat([image, outside, *edges])).features[:, :, cell[0], cell[1]]
    assert torch.equal(features[0], features[1])
    assert all(not torch.equal(features[0], changed) for changed in features[2:])


def test_squeeze_excite_lets_a_cell_see_more() -> None:
    """Why the test above removes the gates: the field is exact in geometry, modulated by context."""
    torch.manual_seed(2)
    network, image = AnchorNet(3).eval(), torch.randn(1, 3, 224, 224)
    assert any(isinstance(each, SqueezeExcite) for each in network.modules())
    other = image.clone()
    other[..., 95:, 95:] = 0
    with torch.no_grad():
        features = network(torch.cat([image, other])).features[:, :, 0, 0]
    assert not torch.equal(features[0], features[1])


def test_other_networks_have_other_fields() -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 5, 2),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
    )
    assert rf.receptive_field(layers) == ReceptiveField(1 + 4 + 2 * 2 + 4 * 4 + 4 * 1, 8)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(3, 3, 3, padding=1), "has padding .*, so border cells see less"),
        (nn.Conv2d(3, 3, 3, padding="same"), "has padding same, so border cells see less"),
        (nn.Conv2d(3, 3, (3, 1)), "is oblong"),
        (nn.MaxPool2d(2, 2, ceil_mode=True), "or has ceil_mode; use equal sides"),
        (nn.ConvTranspose2d(3, 3, 2), "enlarges the map"),
        (nn.Linear(3, 3), "no 2-d convolution"),
    ],
)
def test_what_the_equation_does_not_cover_is_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rf.receptive_field(nn.Sequential(layer))


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="is smaller than the receptive field; use at least 95 px"):
        rf.grid_size(94, PAPER)


def test_boxes_lie_row_by_row() -> None:
    boxes = rf.candidate_boxes(17, PAPER)
    assert boxes.shape == (289, 2)
    assert boxes[[0, 1, 17, 288]].tolist() == [[0, 0], [0, 8], [8, 0], [128, 128]]


def test_iou_counts_pixels() -> None:
    table, boxes = rf.iou_table(17, PAPER), rf.candidate_boxes(17, PAPER)
    for first, second in [(0, 0), (0, 1), (5, 90), (100, 188), (0, 288)]:
        masks = np.zeros((2, 224, 224), bool)
        for mask, (top, left) in zip(masks, boxes[[first, second]].tolist(), strict=True):
            mask[top : top + 95, left : left + 95] = True
        assert table[first, second] == pytest.approx(
            (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum(), abs=1e-12
        )
    assert torch.equal(table, table.T)


def test_the_authors_iou_at_straight_and_diagonal_shifts() -> None:
    """systems.md 1.3: their table of shifts by 0 to 11 cells, printed to three digits (one of them rounded up)."""
    table = rf.iou_table(17, PAPER, compat=True)
    straight = [1, 0.843, 0.709, 0.593, 0.492, 0.403, 0.324, 0.253, 0.190, 0.133, 0.081, 0.033, 0]
    diagonal = [1, 0.720, 0.525, 0.384, 0.278, 0.198, 0.136, 0.089, 0.054, 0.028, 0.011, 0.002, 0]
    assert table[0, range(13)].tolist() == pytest.approx(straight, abs=6e-4)
    assert table[0, range(0, 13 * 18, 18)].tolist() == pytest.approx(diagonal, abs=6e-4)


def test_both_ious_decide_alike_but_for_one_offset() -> None:
    exact, authors = rf.iou_table(17, PAPER), rf.iou_table(17, PAPER, compat=True)
    for threshold in (0.1, 0.3, 0.4, 0.5, 0.6, 0.7):
        assert torch.equal(exact > threshold, authors > threshold)
    differing = {tuple(sorted(divmod(int(b), 17))) for b in ((exact > 0.2) != (authors > 0.2))[0].nonzero()}
    assert differing == {(5, 5)}


@pytest.mark.parametrize(
    ("iou_threshold", "certain"),
    [(0, 1), (0.05, 1), (0.1, 2), (0.15, 3), (0.2, 4), (0.25, 4), (0.3, 5), (0.35, 6), (0.4, 7), (0.5, 8)],
)
def test_certain_counts_are_those_of_the_sheet(iou_threshold: float, certain: int) -> None:
    """systems.md 1.3; the sheet says "> 7" at 0.5."""
    assert rf.guaranteed_patches(iou_threshold, 17, PAPER, 8) == certain


def _smallest_set(grid: int, field: ReceptiveField, threshold: float, compat: bool) -> int:
    """By trying every set of candidates: no two conflict, and all others conflict with one of them."""
    num_candidates = grid * grid
    conflicts = (rf.iou_table(grid, field, compat) > threshold).numpy()
    subsets = (np.arange(1, 2**num_candidates)[:, None] >> np.arange(num_candidates)) & 1
    dominating = (subsets @ conflicts > 0).all(1)
    clashes = conflicts & ~np.eye(num_candidates, dtype=bool)
    if compat:  # candidate 0 is always accepted, whatever it conflicts with
        clashes[0, :] = clashes[:, 0] = False
        dominating &= subsets[:, 0] == 1
    independent = ((subsets @ clashes) * subsets == 0).all(1)
    return int(subsets.sum(1)[dominating & independent].min())


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("field", [ReceptiveField(5, 2), ReceptiveField(9, 3), ReceptiveField(3, 2)])
def test_the_search_agrees_with_trying_everything(field: ReceptiveField, compat: bool) -> None:
    for threshold in (0, 0.1, 0.2, 0.35, 0.5):
        expected = min(6, _smallest_set(4, field, threshold, compat))
        assert rf.guaranteed_patches(threshold, 4, field, 6, compat) == expected, threshold


def test_a_search_cut_short_claims_less_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rf, "SEARCH_LIMIT", 1)
    assert 1 <= rf.guaranteed_patches.__wrapped__(0.35, 17, PAPER, 8) < 6


def test_a_selection_that_can_fall_short_is_refused() -> None:
    rf.check_selection(0.3, 5, 17, PAPER)
    with pytest.raises(ValueError, match=r"num_patches 4 with iou_threshold 0.1 on a 17x17 grid .* only 2 are certain"):
        rf.check_selection(0.1, 4, 17, PAPER)
    with pytest.raises(ValueError, match="only 1 are certain"):
        rf.check_selection(0.3, 2, 1, PAPER)


@pytest.mark.parametrize("iou_threshold", [-0.1, 1.0, float("nan")])
def test_thresholds_out_of_range_are_refused(iou_threshold: float) -> None:
    with pytest.raises(ValueError, match=r"iou_threshold must be in \[0, 1\), got .*; the paper uses 0\.3"):
        rf.guaranteed_patches(iou_threshold, 17, PAPER, 4)


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="num_patches must be >= 1, got 0; the cascade looks at one patch or more"):
        rf.check_selection(0.3, 0, 17, PAPER)
    with pytest.raises(ValueError, match="at_most must be >= 1, got 0"):
        rf.guaranteed_patches(0.3, 17, PAPER, 0)
