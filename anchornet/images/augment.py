"""Random views of a training image: random-resized crop and horizontal flip, on decoded uint8 pixels.

The recipe of the paper (torchvision's defaults): a crop of 8-100 % of the area and aspect 3/4-4/3, scaled to 224 and
flipped half the time. Randomness comes from the caller's generator, so a view can be drawn again from its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anchornet.files.ranges import LARGEST_SIDE, check_number

_TRIES = 10
_MOST_ASPECT = 1000


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """How a training image is cut out and mirrored."""

    size: int = 224
    """Side of the view in pixels."""
    min_area_fraction: float = 0.08
    """Smallest share of the image's area that a crop covers."""
    max_area_fraction: float = 1.0
    """Largest share."""
    min_aspect: float = 3 / 4
    """Smallest width / height of a crop before it is scaled to a square."""
    max_aspect: float = 4 / 3
    """Largest."""
    flip_fraction: float = 0.5
    """Share of the views that are mirrored left to right."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        areas, aspects = (self.min_area_fraction, self.max_area_fraction), (self.min_aspect, self.max_aspect)
        if self.size < 1:
            raise ValueError(f"crop size must be >= 1 pixel, got {self.size}")
        check_number("crop size", self.size, most=LARGEST_SIDE)
        if not 0 < areas[0] <= areas[1] <= 1:
            raise ValueError(
                f"crop.min_area_fraction and crop.max_area_fraction must satisfy 0 < min <= max <= 1, "
                f"got {areas[0]} and {areas[1]}"
            )
        if not 0 < aspects[0] <= aspects[1] <= _MOST_ASPECT:
            raise ValueError(
                f"crop.min_aspect and crop.max_aspect must satisfy 0 < min <= max <= {_MOST_ASPECT}, "
                f"got {aspects[0]} and {aspects[1]}"
            )
        if not 0 <= self.flip_fraction <= 1:
            raise ValueError(f"crop flip_fraction must be in [0, 1], got {self.flip_fraction}")


def random_view(rgb: NDArray[np.uint8], settings: CropSettings, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random crop of rgb (H, W, 3), scaled to (size, size, 3) by antialiased bilinear filtering, perhaps mirrored."""
    top, left, height, width = random_box(rgb.shape[0], rgb.shape[1], settings, rng)
    crop = Image.fromarray(np.ascontiguousarray(rgb[top : top + height, left : left + width]))
    view = np.asarray(crop.resize((settings.size, settings.size), Image.Resampling.BILINEAR))
    mirrored = rng.random() < settings.flip_fraction
    return np.ascontiguousarray(view[:, ::-1] if mirrored else view)


def random_box(height: int, width: int, settings: CropSettings, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop, inside an image of height x width pixels.

    Area uniform, aspect log-uniform in the settings' ranges; after ten draws that do not fit, the largest centred crop
    of an allowed aspect. Source: torchvision's RandomResizedCrop, whose distribution this is.
    """
    for _ in range(_TRIES):
        area = height * width * rng.uniform(settings.min_area_fraction, settings.max_area_fraction)
        aspect = math.exp(rng.uniform(math.log(settings.min_aspect), math.log(settings.max_aspect)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(0, height - box_height + 1))
            left = int(rng.integers(0, width - box_width + 1))
            return top, left, box_height, box_width
    return _largest_centred_box(height, width, settings)


def _largest_centred_box(height: int, width: int, settings: CropSettings) -> tuple[int, int, int, int]:
    aspect = min(max(width / height, settings.min_aspect), settings.max_aspect)
    box_height = max(1, min(height, round(width / aspect)))
    box_width = max(1, min(width, round(height * aspect)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
