"""Networks of a user's own, as train jobs take them by ``module:function``: quick, and one that breaks on demand."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from anchornet.images import tensors

CLASSES = 3
"""Classes of ``tiny_network`` and ``coloured_images``."""


def quick(num_classes: int) -> nn.Module:
    """A network of two layers."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 7),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )


class Breaking(nn.Module):
    """``quick``, that fails at its third training step while the file ``break`` lies in ANCHORNET_TEST_FOLDER."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.network = quick(num_classes)
        self.steps = 0

    def forward(self, images: Tensor) -> Tensor:
        """The logits, or RuntimeError."""
        self.steps += self.training
        if self.steps == 3 and Path(os.environ["ANCHORNET_TEST_FOLDER"], "break").exists():
            raise RuntimeError("broken on demand")
        return self.network(images)


def breaking(num_classes: int) -> nn.Module:
    """A ``Breaking`` network."""
    return Breaking(num_classes)


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def coloured_images(count: int, size: int = 224) -> tuple[Tensor, Tensor]:
    """Normalised images (count, 3, size, size) whose strongest channel is their label."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(0, 120, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(count), labels] += 100
    return tensors.normalise(pixels), labels
