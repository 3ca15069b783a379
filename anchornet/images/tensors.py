"""uint8 pixels of images -> what the networks are fed. Tensors only; pictures become pixels in ``preprocess.py``.

Shapes: N images, C = 3 channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from anchornet.images.preprocess import Preprocessing

_IMAGENET = Preprocessing()


def normalise(images: Tensor, preprocessing: Preprocessing = _IMAGENET) -> Tensor:
    """(pixels / 255 - mean) / std, float32, for uint8 images (N, C, H, W) or (C, H, W); mean and std of ImageNet unless given.

    The memory format is kept: `torch.from_numpy(images_NHWC).permute(0, 3, 1, 2)` goes in without a copy and comes out
    channels-last. Raises ValueError unless images is uint8 with three channels third from the end.
    """
    if images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(
            f"normalise needs uint8 images (N, 3, H, W), got {images.dtype} {tuple(images.shape)}; permute them first"
        )
    mean = torch.tensor(preprocessing.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(3, 1, 1)
    return images.float().div_(255).sub_(mean).div_(std)


def shrink(images: Tensor, size: int) -> Tensor:
    """Glance at images (N, C, H, W) float, normalised: the whole image as (N, C, size, size).

    Bicubic with corner alignment and **without** antialias, as the published networks were trained: fine detail does
    not average out, it aliases.
    """
    return functional.interpolate(images, size=(size, size), mode="bicubic", align_corners=True)
