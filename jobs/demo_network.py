"""The demo's downstream classifier: a small residual network, as an example of an architecture of one's own.

A configuration names it ``jobs.demo_network:small_resnet``; any function that takes the number of classes will do.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (32, 72, 144)


class Block(nn.Module):
    """A 3x3 and a 1x1 convolution and a way around them; halves height and width: (N, a, H, W) -> (N, b, H/2, W/2)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, 2, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.around = nn.Conv2d(channels_in, channels_out, 1, 2, bias=False)
        self.around_norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Features of half the height and width."""
        inner = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(inner)) + self.around_norm(self.around(x)))


class SmallResNet(nn.Module):
    """Logits (N, C) of images (N, 3, H, W): a strided stem and two residual blocks, 0.040 GFLOPs at 95x95.

    A texture network: it looks at 17 pixels at a time and averages what it saw, so small tags all over an image can outvote
    the large one. In a patch around the large tag they cannot.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        first = WIDTHS[0]
        self.stem = nn.Sequential(nn.Conv2d(3, first, 5, 2, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in itertools.pairwise(WIDTHS)))
        self.fc = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C)."""
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def small_resnet(num_classes: int) -> nn.Module:
    """A fresh SmallResNet."""
    return SmallResNet(num_classes)
