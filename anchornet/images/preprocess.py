"""Upright RGB -> the 224x224 uint8 pixels that the networks see.

Shapes: H x W pixels of a picture, C = 3 channels in the order red, green, blue.
"""

from __future__ import annotations

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
