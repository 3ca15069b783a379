"""Upright RGB -> the square of uint8 pixels that a network sees, exactly as torchvision and timm make it.

Preprocessing belongs to each network. A picture is decoded once; each network that wants other pixels than those before it
gets a **view** of its own, resized from the decoded picture. That happens where the picture is read, and the views travel:
decoded pictures differ in size and may hold 80 million pixels, views have one shape and some 0.2 MB; and a small view
resized from a larger one would not be the pixels that the network was trained on. Mean and std are applied where a network
runs, because uint8 travels at a quarter of the size.

Shapes: H x W pixels of a picture, N pictures, C = 3 channels in the order red, green, blue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CHANNELS = 3
IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet, of values in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation, likewise."""
RESIZE = 256
"""Pixels of the short side before the crop (the papers' test preprocessing)."""
CROP = 224
"""Pixels of either side of the central crop."""
LARGEST_RESIZED = 16_000_000
"""Pixels of a resized picture that is still computed as a whole: a side 244 times the other, at a short side of 256."""

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
"""Filters by the names that torchvision and timm give them; all but ``nearest`` average over what is made smaller."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Which pixels of a picture a network sees, and how large: its view; sides in pixels.

    The pixels equal torchvision's Resize and CenterCrop on PIL pictures. One exception: of a strip whose resized picture
    would have more than LARGEST_RESIZED pixels only the crop is computed, which differs by a grey level here and there.
    """

    resize: int = RESIZE
    """Short side before the crop."""
    crop: int = CROP
    """Either side of the central crop."""
    interpolation: Interpolation = "bilinear"
    """Filter of the resizing."""
    keep_aspect: bool = True
    """False: both sides are brought to ``resize``, whatever the shape of the picture (timm's ``squash``)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        if not 0 < self.crop <= self.resize:
            raise ValueError(
                f"preprocessing.crop must be 1 .. resize ({self.resize}) pixels, got {self.crop}; raise resize"
            )
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(
                f"preprocessing.interpolation must be one of {', '.join(get_args(Interpolation))}, "
                f"got {self.interpolation!r}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the pixels: (crop, crop, C)."""
        return self.crop, self.crop, CHANNELS

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pixels (crop, crop, C) uint8 of rgb (H, W, C) uint8; mean and std are applied where the network runs."""
        image = Image.fromarray(rgb)
        width, height = self._resized(*image.size)
        # Python's round, as torchvision does: halves go to the even neighbour.
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        if width * height > LARGEST_RESIZED:
            return self._cut_out(image, (width, height), left, top)
        resized = image if image.size == (width, height) else image.resize((width, height), self._filter)
        return np.array(resized.crop((left, top, left + self.crop, top + self.crop)))

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing, cut to whole pixels as torchvision does."""
        if not self.keep_aspect:
            return self.resize, self.resize
        short = min(width, height)
        return int(self.resize * width / short), int(self.resize * height / short)

    def _cut_out(self, image: Image.Image, size: tuple[int, int], left: int, top: int) -> NDArray[np.uint8]:
        """Resize and crop in one step: only pixels of the crop are computed, so a 1 x 80,000,000 strip is no bomb."""
        step_x, step_y = image.width / size[0], image.height / size[1]
        box = (left * step_x, top * step_y, (left + self.crop) * step_x, (top + self.crop) * step_y)
        return np.array(image.resize((self.crop, self.crop), self._filter, box=box))


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Geometry):
    """From a picture to what a network is fed, as it was trained: its view, and mean and std of values in [0, 1]."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    """Taken off each channel."""
    std: tuple[float, ...] = IMAGENET_STD
    """What each channel is then divided by."""

    def __post_init__(self) -> None:
        """Refuse what no picture of three channels can be given."""
        super().__post_init__()
        for name, values in ("mean", self.mean), ("std", self.std):
            if len(values) != CHANNELS or not all(math.isfinite(value) for value in values):
                raise ValueError(
                    f"preprocessing.{name} must be {CHANNELS} numbers, one per channel, got {list(values)}"
                )
        if min(self.std) <= 0:
            raise ValueError(f"preprocessing.std must be > 0 for every channel, got {list(self.std)}")

    @classmethod
    def of_size(cls, crop: int) -> Preprocessing:
        """For images of ``crop`` pixels, with the papers' margin: 256 before 224."""
        return cls(resize=round(crop * RESIZE / CROP), crop=crop)

    @property
    def geometry(self) -> Geometry:
        """The view alone: networks with the same one share its pixels."""
        return Geometry(**{each.name: getattr(self, each.name) for each in fields(Geometry)})


@dataclass(frozen=True, kw_only=True)
class Views:
    """Several networks' preprocessing of one decoded picture: every view that differs, one after the other in one row.

    Raises ValueError for no network at all.
    """

    networks: tuple[Preprocessing, ...]
    """Of each network, in order."""

    def __post_init__(self) -> None:
        """Refuse a row of nothing."""
        if not self.networks:
            raise ValueError("views need the preprocessing of at least one network, got none")

    @cached_property
    def geometries(self) -> tuple[Geometry, ...]:
        """The views that differ, in order of the first network that wants each."""
        return tuple(dict.fromkeys(each.geometry for each in self.networks))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the pixels: one view's own, or the length of all of them in a row."""
        return self.geometries[0].shape if len(self.geometries) == 1 else (length(self.geometries),)

    def view_of(self, network: int) -> int:
        """Position among the views of the one that a network sees."""
        return self.geometries.index(self.networks[network].geometry)

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pixels of all views, uint8 of ``shape``."""
        return np.concatenate([view(rgb).reshape(-1) for view in self.geometries]).reshape(self.shape)


Shaping: TypeAlias = Preprocessing | Views
"""What the first stage of a cascade takes of a picture: ``shape``, and pixels of that shape when called."""


def length(geometries: Sequence[Geometry]) -> int:
    """Values of all these views of a picture together."""
    return sum(math.prod(geometry.shape) for geometry in geometries)


def split_views(rows_ND: NDArray[np.uint8], geometries: Sequence[Geometry]) -> list[NDArray[np.uint8]]:
    """The pixels (N, crop, crop, C) of each view, from rows that hold one view after the other."""
    flat = rows_ND.reshape(len(rows_ND), length(geometries))
    ends = np.cumsum([math.prod(geometry.shape) for geometry in geometries])
    parts = np.split(flat, ends[:-1], axis=1)
    return [part.reshape(-1, *view.shape) for part, view in zip(parts, geometries, strict=True)]


def join_views(views: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What :func:`split_views` takes apart again: rows (N, D) of one view after the other."""
    return np.concatenate([view.reshape(len(view), -1) for view in views], axis=1)


def preprocess(rgb: NDArray[np.uint8], resize: int = RESIZE, crop: int = CROP) -> NDArray[np.uint8]:
    """Central (crop, crop, C) uint8 of rgb (H, W, C) uint8 after its short side was brought to `resize` pixels, bilinear."""
    return Geometry(resize=resize, crop=crop)(rgb)
