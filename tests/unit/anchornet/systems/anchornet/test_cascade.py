"""The AnchorNet cascade on real (untrained) networks: equal to a naive reference, and its costs are those really computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from anchornet.cascade.run import run_all_exits, run_cascade
from anchornet.images import tensors
from anchornet.models.macs import MacsCounter
from anchornet.systems.anchornet.cascade import exit_names
from anchornet.systems.anchornet.network import class_activation_map
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.systems.looks import LooksCascade
from tests.tiny_bundle import tiny_cascade, tiny_networks

ORDERS = [
    ("anchor_first", ()),
    ("anchor_first", ("anchor",)),
    ("anchor_first", ("glance",)),
    ("glance_first", ("anchor",)),
    ("glance_first", ()),
]


def photographs(num_images: int, seed: int = 0) -> np.ndarray:
    """(N, 224, 224, 3) uint8 with structure, so that activation maps differ."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (num_images, 14, 14, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


def cascade(order: str, skip: tuple[str, ...], **options: object) -> LooksCascade:
    settings = AnchorNetSettings(order=order, skip=skip)  # type: ignore[arg-type]
    return tiny_cascade(settings, **options)


def median_thresholds(built: LooksCascade, pixels: np.ndarray) -> np.ndarray:
    """(N, K): about half of the images leave at each exit."""
    table = run_all_exits(built, pixels)
    limits = np.tile(np.median(table.confidence, axis=0), (len(pixels), 1)).astype(np.float32)
    limits[:, -1] = -np.inf
    return limits


@torch.inference_mode()
def naive_logits(
    networks: dict[str, nn.Module], pixels: np.ndarray, skip: tuple[str, ...] = ()
) -> list[tuple[str, torch.Tensor]]:
    """Every exit of one image, written down from the paper: (name, logits (C,)) in anchor-first order."""
    x = tensors.normalise(torch.from_numpy(pixels[None]).permute(0, 3, 1, 2))
    proposal = networks["anchornet"].eval()(x)
    chosen = proposal.logits.argmax(dim=1)
    cam = class_activation_map(proposal.features, networks["anchornet"].fc.weight, chosen)[0].numpy()
    order = np.argsort(-cam.ravel(), kind="stable")
    boxes: list[tuple[int, int]] = []
    for cell in order:
        top, left = 8 * (cell // 17), 8 * (cell % 17)
        if all(overlap(top, left, other) <= 0.3 for other in boxes) and len(boxes) < 4:
            boxes.append((top, left))
    glance = networks["glance"].eval()(tensors.shrink(x, 95))[0]
    exits, total = [("anchor", proposal.logits[0]), ("glance", glance)], 0 * glance if "glance" in skip else glance
    for i, (top, left) in enumerate(boxes):
        total = total + networks["patch"].eval()(x[:, :, top : top + 95, left : left + 95])[0]
        exits.append((f"patch{i + 1}", total))
    return exits


def overlap(top: int, left: int, other: tuple[int, int]) -> float:
    height, width = max(0, 95 - abs(top - other[0])), max(0, 95 - abs(left - other[1]))
    return height * width / (2 * 95 * 95 - height * width)


@pytest.mark.parametrize(("order", "skip"), ORDERS)
def test_every_exit_equals_the_naive_reference(order: str, skip: tuple[str, ...]) -> None:
    built, pixels = cascade(order, skip), photographs(3)
    table = run_all_exits(built, pixels)
    networks = tiny_networks()
    for i, image in enumerate(pixels):
        expected = dict(naive_logits(networks, image, skip))
        names = [exit.name for exit in built.exits]
        assert names == list(exit_names(AnchorNetSettings(order=order, skip=skip)))  # type: ignore[arg-type]
        for k, name in enumerate(names):
            probability = torch.softmax(expected[name], dim=0)
            assert table.confidence[i, k] == pytest.approx(float(probability.max()), abs=1e-5)
            assert table.prediction[i, k] == int(expected[name].argmax())


@pytest.mark.parametrize(("order", "skip"), ORDERS)
def test_costs_are_those_really_computed(order: str, skip: tuple[str, ...]) -> None:
    built, pixels = cascade(order, skip), photographs(6)
    limits = median_thresholds(built, pixels)
    with MacsCounter() as counter:
        result = run_cascade(built, pixels, limits)
    assert counter.macs == result.macs.sum()
    assert len(set(result.exit.tolist())) > 1


class LayerCounter:
    """Multiply-adds by hooks on the layers that ran: independent of ``anchornet.models.macs``, which watches functions."""

    def __init__(self) -> None:
        self.macs = 0

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            self.macs += result.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            self.macs += result.numel() * module.in_features


@pytest.mark.parametrize(("order", "skip"), ORDERS)
def test_hooks_on_the_layers_count_the_same(order: str, skip: tuple[str, ...]) -> None:
    built, pixels = cascade(order, skip), photographs(6)
    limits = median_thresholds(built, pixels)
    counter = LayerCounter()
    hook = register_module_forward_hook(counter)
    try:
        result = run_cascade(built, pixels, limits)
    finally:
        hook.remove()
    assert counter.macs == result.macs.sum() > 0


def test_cost_of_each_exit_is_that_of_its_networks() -> None:
    built = cascade("anchor_first", ())
    names = [exit.name for exit in built.exits]
    assert names == ["anchor", "glance", "patch1", "patch2", "patch3", "patch4"]
    assert built.exits[0].macs == 60_538_544 - 512 * (1000 - len(built.classes))
    assert len({exit.macs for exit in built.exits[2:]}) == 1
    first, second = built.exits[0].macs, built.exits[1].macs
    assert cascade("anchor_first", ("anchor",)).exits[0].macs == first + second
    assert cascade("glance_first", ("anchor",)).exits[1].macs == first + built.exits[2].macs


@pytest.mark.parametrize(("order", "skip"), ORDERS)
def test_batch_size_and_order_change_nothing(order: str, skip: tuple[str, ...]) -> None:
    built, pixels = cascade(order, skip), photographs(8)
    limits = median_thresholds(built, pixels) + 1e-4  # off the images' own values
    whole = run_cascade(built, pixels, limits)
    shuffled = np.array([5, 2, 7, 0, 1, 6, 3, 4])
    for rows in np.array_split(shuffled, 3):
        part = run_cascade(built, pixels[rows], limits[rows])
        for name in ("label_id", "exit", "macs", "boxes"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])
        np.testing.assert_allclose(part.score, whole.score[rows], atol=1e-5)


def test_state_survives_the_journey_between_stages() -> None:
    built, pixels = cascade("glance_first", ("anchor",)), photographs(4)
    state = built.start(pixels)
    _, state = built.advance(state, 0)
    packed = {name: array.copy() for name, array in built.pack(state, 1).items()}
    assert {name: (array.dtype, array.shape[1:]) for name, array in packed.items()} == built.stages[1].takes
    there, _ = built.advance(built.unpack(packed, 1), 1)
    here, _ = built.advance(state, 1)
    for after, before in zip(there.views, here.views, strict=True):
        torch.testing.assert_close(after, before)


def test_random_patches_obey_the_same_rule_and_repeat() -> None:
    pixels = photographs(5)
    built = cascade("anchor_first", (), random_patches_seed=3)
    first, chosen = run_all_exits(built, pixels), run_all_exits(cascade("anchor_first", ()), pixels)
    again = run_all_exits(built, pixels[[4, 0]])
    np.testing.assert_allclose(again.confidence, first.confidence[[4, 0]], atol=1e-5)
    np.testing.assert_allclose(first.confidence[:, :2], chosen.confidence[:, :2], atol=1e-5)
    assert not np.allclose(first.confidence[:, 2], chosen.confidence[:, 2], atol=1e-5)


def test_a_selection_that_can_fall_short_is_refused() -> None:
    with pytest.raises(ValueError, match="patches"):
        tiny_cascade(AnchorNetSettings(iou_threshold=0.1, num_patches=4))


def test_no_images_at_all() -> None:
    built = cascade("anchor_first", ())
    table = run_all_exits(built, photographs(0))
    assert table.confidence.shape == (0, 6)


@pytest.mark.parametrize("skip", [("patch1",), ("glance", "glance"), ("anchor", "glances")])
def test_only_anchor_and_glance_may_be_skipped(skip: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"system\.skip may name anchor and glance, each once, got {', '.join(skip)}"):
        AnchorNetSettings(skip=skip)
