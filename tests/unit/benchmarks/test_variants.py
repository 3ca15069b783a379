"""The losses of the variants: what is added to that of each patch by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anchornet.systems.anchornet.training import PatchView
from benchmarks.variants import loss_of
from tests.tiny_bundle import tiny_networks

LABELS = torch.tensor([0, 2, 1])


@pytest.fixture(scope="module")
def world() -> Any:
    networks = tiny_networks()
    images = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    view = PatchView(networks["anchornet"], 2, 0.3, 224)
    return SimpleNamespace(bundle=SimpleNamespace(networks=networks), images=images, view=view, patch=networks["patch"])


def loss(world: Any, variant: str, weights: Any) -> Tensor:
    return loss_of(variant, world.patch, world.bundle, world.view, world.images, LABELS, weights, 0.0)


def test_alone_is_the_mean_over_all_patches(world: Any) -> None:
    said = world.patch(world.view(world.images))
    expected = functional.cross_entropy(said, LABELS.repeat_interleave(2))
    torch.testing.assert_close(loss(world, "alone", ()), expected)


def test_the_fitted_sum_adds_the_loss_of_what_is_said_after_each_patch(world: Any) -> None:
    said = world.patch(world.view(world.images)).unflatten(0, (3, 2))
    only_newest = ((1.0,), (0.0, 1.0), (0.0, 0.0, 2.0), (0.0, 0.0, 0.0, 3.0))
    after = [functional.cross_entropy(factor * said[:, k], LABELS) for k, factor in enumerate((2.0, 3.0))]
    expected = loss(world, "alone", ()) + torch.stack(after).mean()
    torch.testing.assert_close(loss(world, "fitted sum", only_newest), expected)
