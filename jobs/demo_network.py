"""The demo's downstream classifier: a small residual network, as an example of an architecture of one's own.

A configuration names it ``jobs.demo_network:small_resnet``; any function that takes the number of classes will do.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

WIDTHS = (32, 64, 128, 192)


class SmallResNet(nn.Module):
    """Logits (N, C) of images (N, 3, H, W): a strided stem and three residual blocks, 0.092 GFLOPs at 95x95."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        first = WIDTHS[0]
        self.stem = nn.Sequential(nn.Conv2d(3, first, 5, 2, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        pairs = itertools.pairwise(WIDTHS)
        self.blocks = nn.Sequential(*(BasicBlock(a, b, 2, _shortcut(a, b)) for a, b in pairs))
        self.fc = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C)."""
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def _shortcut(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, 2, bias=False), nn.BatchNorm2d(channels_out))


def small_resnet(num_classes: int) -> nn.Module:
    """A fresh SmallResNet."""
    return SmallResNet(num_classes)
