"""Upright RGB -> the square of uint8 pixels that the networks see (224x224 unless set).

Shapes: H x W pixels of a picture, C = 3 channels in the order red, green, blue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet, of values in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation, likewise."""
RESIZE = 256
"""Pixels of the short side before the crop (the papers' test preprocessing)."""
CROP = 224
"""Pixels of either side of the central crop."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a picture to pixels, as the networks were trained; sides in pixels, mean and std of values in [0, 1]."""

    resize: int = RESIZE
    """Short side before the crop."""
    crop: int = CROP
    """Either side of the central crop."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Refuse what this version does not do."""
        if not 0 < self.crop <= self.resize:
            raise ValueError(
                f"preprocessing.crop must be 1 .. resize ({self.resize}) pixels, got {self.crop}; raise resize"
            )
        if (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD):
            raise ValueError(
                f"preprocessing with mean {self.mean} and std {self.std} is not what this version gives "
                f"({IMAGENET_MEAN}, {IMAGENET_STD}); use the version that made it"
            )

    @classmethod
    def of_size(cls, crop: int) -> Preprocessing:
        """For images of ``crop`` pixels, with the papers' margin: 256 before 224."""
        return cls(resize=round(crop * RESIZE / CROP), crop=crop)

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pixels (crop, crop, C) uint8 of rgb (H, W, C); mean and std are applied where the network runs."""
        return preprocess(rgb, self.resize, self.crop)


def preprocess(rgb: NDArray[np.uint8], resize: int = RESIZE, crop: int = CROP) -> NDArray[np.uint8]:
    """Central (crop, crop, C) uint8 of rgb (H, W, C) uint8 after its short side was brought to `resize` pixels.

    Bilinear with antialias on uint8, the papers' test preprocessing: torchvision's Resize and CenterCrop on PIL,
    to one grey level. Raises ValueError if crop exceeds resize.
    """
    return _resize_crop(Image.fromarray(rgb), resize, crop)


def _resize_crop(image: Image.Image, resize: int, crop: int) -> NDArray[np.uint8]:
    """Resize and central crop in one step: only pixels of the crop are computed, so a 1 x 80,000,000 strip is no bomb.

    Sides and offsets are rounded as torchvision does; `box` is the crop's square in coordinates of the unscaled image.
    """
    if not 0 < crop <= resize:
        raise ValueError(f"crop must be 1 .. resize ({resize}) pixels, got {crop}; lower the crop or raise resize")
    width, height = image.size
    short = min(width, height)
    scaled = (int(resize * width / short), int(resize * height / short))
    left, top = (round((side - crop) / 2) for side in scaled)
    step_x, step_y = width / scaled[0], height / scaled[1]
    box = (left * step_x, top * step_y, (left + crop) * step_x, (top + crop) * step_y)
    return np.array(image.resize((crop, crop), Image.Resampling.BILINEAR, box=box))
