"""AnchorNet, the 60-MFLOP network that says which patches of an image matter, and its class activation map.

Shapes: N images, C classes, F = 512 feature channels, h x w = the grid of candidate patches (17x17 at 224 px), H x W
pixels.
Source of every size: the published AnchorNet. No convolution has padding, so grid cell (i, j) sees exactly one square
of pixels; receptive_field.py derives its size and step from the module.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

STEM_CHANNELS = 16
FEATURE_CHANNELS = 512
SQUEEZE_RATIO = 0.25


class BlockShape(NamedTuple):
    """One row of the paper's architecture table: expansion ratio, channels out, stride; every kernel is 3x3."""

    expansion: float
    out_channels: int
    stride: int


BLOCKS = (
    BlockShape(1, 16, 2),
    BlockShape(3, 24, 2),
    BlockShape(4, 24, 1),
    BlockShape(4, 48, 1),
    BlockShape(2, 96, 1),
    BlockShape(1.5, 96, 1),
    BlockShape(1.5, 96, 1),
)


class Proposal(NamedTuple):
    """What AnchorNet says: features (N, F, h, w), one column per candidate patch, and logits (N, C)."""

    features: Tensor
    logits: Tensor


class SqueezeExcite(nn.Module):
    """Channel gate: the map (N, channels, h, w) times a factor in (0, 1) per channel, found from its global mean.

    The mean covers the whole map, so through this gate every cell depends weakly on all pixels: the receptive field
    is exact in geometry and modulated by context.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.se1 = nn.Conv2d(channels, hidden, 1)
        self.se2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The gated map, same shape as x."""
        squeezed = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.se2(functional.silu(self.se1(squeezed))))


class MBConv(nn.Module):
    """Inverted bottleneck without padding: (N, in, h, w) -> (N, out, h', w'), with h' = (h - 3) // stride + 1.

    An expansion of 1 has no expanding convolution. The residual, where shapes allow one, is the input's **top-left**
    part, as in the released weights.
    """

    def __init__(self, in_channels: int, shape: BlockShape) -> None:
        super().__init__()
        hidden = int(shape.expansion * in_channels)
        self.expands = shape.expansion != 1
        self.residual = shape.stride == 1 and in_channels == shape.out_channels
        if self.expands:
            self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, shape.stride, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.se = SqueezeExcite(hidden, int(SQUEEZE_RATIO * in_channels))
        self.conv3 = nn.Conv2d(hidden, shape.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(shape.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output map."""
        hidden = functional.silu(self.bn1(self.conv1(x))) if self.expands else x
        hidden = self.se(functional.silu(self.bn2(self.conv2(hidden))))
        out = cast(Tensor, self.bn3(self.conv3(hidden)))
        return out + x[..., : out.shape[-2], : out.shape[-1]] if self.residual else out


class AnchorNet(nn.Module):
    """The published proposer for any number of classes: 60,538,544 multiply-adds at 224x224 with 1000 classes.

    Parameter names are those of the released state dict, except that its never used `bneck.0.conv1` and `bneck.0.bn1`
    (288 values) do not exist here. num_classes: outputs of `fc`, at least 1. Raises ValueError if it is below 1.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(
                f"AnchorNet needs num_classes >= 1, got {num_classes}; give the number of labels in the data"
            )
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        inputs = (STEM_CHANNELS, *(shape.out_channels for shape in BLOCKS))
        self.bneck = nn.Sequential(*(MBConv(channels, shape) for channels, shape in zip(inputs, BLOCKS, strict=False)))
        self.exp_conv = nn.Conv2d(inputs[-1], FEATURE_CHANNELS, 1)
        self.fc = nn.Linear(FEATURE_CHANNELS, num_classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Proposal:
        """Proposal for normalised images x (N, 3, H, W), H and W at least the receptive field (95)."""
        x = functional.silu(self.bn1(self.conv1(x)))
        features = self.exp_conv(self.bneck(x))
        return Proposal(features, self.fc(features.mean((2, 3))))


def check_anchornet(network: nn.Module) -> None:
    """Returns only if ``network`` is an AnchorNet; raises ValueError otherwise."""
    if not isinstance(network, AnchorNet):
        raise ValueError(
            f"anchornet is a {type(network).__name__}; give the run of recipe anchornet.anchornet as anchornet"
        )


def class_activation_map(features: Tensor, fc_weight: Tensor, class_index: Tensor) -> Tensor:
    """How much each cell speaks for a class: (N, h, w), at least fp32 whatever the inputs' precision.

    features (N, F, h, w), fc_weight (C, F), class_index (N,) int64, one class per image. Mean over the channels of
    weight times feature (the paper's equation (2) divided by F), bias left out. Nothing lies between the features and
    `fc` but the mean, so logit[y] = bias[y] + F x (spatial mean of the map of y), exactly.
    """
    precision = torch.promote_types(features.dtype, torch.float32)
    weight_NF11 = fc_weight[class_index, :, None, None].to(precision)
    # Not a matrix product: its rounding depends on the batch, and so would near ties in the choice of patches.
    return (weight_NF11 * features).sum(1) / features.shape[1]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.001)
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)
