"""Generated images for the demo and the tests: photograph-like clutter in which small tags decide the class.

A **tag** is a disc, about a fifth of the image wide, printed with one of the patterns of ``CLASSES``. Every image has
two tags of its class and some **decoys**, discs with blotches instead of a pattern, so that a disc alone decides
nothing. On an **easy** image the pattern is coarse and survives shrinking to 95x95; on a **hard** one its period is
about 3 pixels and its phase jumps every few pixels, which shrinking turns into noise: full resolution has to tell.
An image depends on (seed, index) and on nothing else. Lengths called "seen" are pixels after the preprocessing for the
networks (short side to 256, central 224); all tags lie inside that centre.
Shapes: H x W pixels of an image, D = side in pixels of the square around a tag.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anchornet.images.preprocess import CROP, RESIZE

Floats = NDArray[np.float32]

SHORT_SIDE = (240, 288)
"""Shortest and longest short side of an image in pixels."""
LONG_SIDE_MAX = 352
"""Longest long side in pixels."""
NUM_TAGS = (2, 2)
"""Fewest and most tags that carry the class."""
NUM_DECOYS = (1, 2)
"""Fewest and most tags that carry blotches."""
TAG_SEEN = (42.0, 54.0)
"""Smallest and largest diameter of a tag in seen pixels; a patch of 95 holds it whole."""
DIFFICULTIES = ("easy", "hard")
"""Whether the pattern survives shrinking to 95x95 or not."""
PERIOD_SEEN = {"easy": (10.0, 13.0), "hard": (3.0, 3.6)}
"""Range of a pattern's period in seen pixels. Shrinking 224 to 95 takes a sample every 2.4 pixels."""
PHASE_BLOCK = {"easy": 9.0, "hard": 1.6}
"""Periods after which a pattern's phase jumps; an easy one of 9 periods is wider than a tag, so it never does."""
CONTRAST = (35.0, 75.0)
"""Range of a tag's amplitude in grey levels."""
JPEG_QUALITY = 92
"""High enough for a period of 3 pixels to survive."""

_NUM_SHAPES = 30
_BASE_CELLS = 5
_GRAIN_CELLS = 40


class SyntheticImage(NamedTuple):
    """A generated image: pixels (H, W, 3) uint8, label (index into the classes), difficulty ("easy" or "hard")."""

    pixels: NDArray[np.uint8]
    label: int
    difficulty: str


class _Paper(NamedTuple):
    """What a pattern is printed on: coordinates from 0, the waves per pixel times 2 pi, and phases that jump (radians).

    y (D, 1), x (1, D), row_phase (D, 1), column_phase (1, D), block_phase (D, D).
    """

    y: Floats
    x: Floats
    wave: float
    row_phase: Floats
    column_phase: Floats
    block_phase: Floats


def _bars(on: _Paper) -> Floats:
    return cast(Floats, np.sin(on.wave * on.x + on.row_phase))


def _rungs(on: _Paper) -> Floats:
    return cast(Floats, np.sin(on.wave * on.y + on.column_phase))


def _checks(on: _Paper) -> Floats:
    """A chessboard, somewhat coarser along each axis than bars: it is finest along its diagonal."""
    wave = on.wave / 1.2
    return cast(Floats, 1.6 * np.sin(wave * on.x + on.block_phase) * np.sin(wave * on.y + on.block_phase.T))


def _zigzag(on: _Paper) -> Floats:
    """Rungs that go up and down by a right angle every period and a half."""
    fold = 3 * np.pi / on.wave
    height = np.abs((on.x / fold + on.row_phase) % 2 - 1) * fold
    return cast(Floats, np.sin(0.8 * on.wave * (on.y + height) + 7 * on.row_phase))


_PATTERNS: dict[str, Callable[[_Paper], Floats]] = {
    "bars": _bars,
    "checks": _checks,
    "rungs": _rungs,
    "zigzag": _zigzag,
}
CLASSES = tuple(_PATTERNS)
"""Names of the patterns, sorted. Each is its own mirror image, so flipping never changes a label."""


def make_image(seed: int, index: int, classes: Sequence[str] = CLASSES) -> SyntheticImage:
    """Image number ``index`` of the endless series ``seed``; labels take turns, and so do easy and hard.

    Of 2 C images in a row, C the number of classes, every class has one easy and one hard one.
    Raises ValueError for a class that is not in ``CLASSES``, for none at all, and for a negative seed or index.
    """
    _check(seed, index, classes)
    rng = np.random.default_rng((seed, index))
    label = index % len(classes)
    difficulty = DIFFICULTIES[index // len(classes) % 2]
    height, width = _size(rng)
    pixels = _clutter(rng, height, width)
    scale = min(height, width) / RESIZE
    num_tags, num_decoys = (int(rng.integers(*range_, endpoint=True)) for range_ in (NUM_TAGS, NUM_DECOYS))
    for number, (top, left, side) in enumerate(_places(rng, height, width, num_tags + num_decoys)):
        name = classes[label] if number < num_tags else None
        kind = difficulty if number < num_tags else DIFFICULTIES[rng.integers(2)]
        period = rng.uniform(*PERIOD_SEEN[kind]) * scale
        print_DD = (
            _blotches(rng, side, period) if name is None else _pattern(rng, name, side, period, PHASE_BLOCK[kind])
        )
        _stamp(rng, pixels[top : top + side, left : left + side], print_DD)
    pixels += rng.integers(-6, 7, (height, width, 1), dtype=np.int8)  # the sensor's noise
    return SyntheticImage(pixels.clip(0, 255).astype(np.uint8), label, difficulty)


def write_dataset(folder: str | Path, num_images: int, seed: int, classes: Sequence[str] = CLASSES) -> list[Path]:
    """The files of images 0 .. num_images - 1 of series ``seed``: ``folder/CLASS/000012-hard.jpg``, in order of index.

    Every class gets its folder, even without an image. Files of that name are overwritten, others are left alone.
    Raises ValueError as ``make_image`` does, and for a negative num_images.
    """
    if num_images < 0:
        raise ValueError(f"num_images must be >= 0, got {num_images}; say how many images to write")
    _check(seed, 0, classes)
    for name in classes:
        Path(folder, name).mkdir(parents=True, exist_ok=True)
    return [write_image(folder, seed, index, classes) for index in range(num_images)]


def write_image(folder: str | Path, seed: int, index: int, classes: Sequence[str] = CLASSES) -> Path:
    """The JPEG file of one image, below an existing class folder. Raises ValueError as ``make_image`` does."""
    image = make_image(seed, index, classes)
    path = Path(folder, classes[image.label], f"{index:06d}-{image.difficulty}.jpg")
    Image.fromarray(image.pixels).save(path, "JPEG", quality=JPEG_QUALITY)
    return path


def _check(seed: int, index: int, classes: Sequence[str]) -> None:
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be >= 0, got {seed} and {index}; choose other numbers")
    unknown = [name for name in classes if name not in _PATTERNS]
    if unknown or not classes:
        raise ValueError(
            f"synthetic classes must be some of {', '.join(CLASSES)}, got {list(classes)}; name at least one"
        )


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """(height, width), upright as often as lying."""
    short = int(rng.integers(*SHORT_SIDE, endpoint=True))
    long = int(rng.integers(short, LONG_SIDE_MAX, endpoint=True))
    return (short, long) if rng.random() < 0.5 else (long, short)


def _places(rng: np.random.Generator, height: int, width: int, count: int) -> list[tuple[int, int, int]]:
    """(top, left, side) of ``count`` discs that do not touch, inside the centre that preprocessing keeps."""
    scale = min(height, width) / RESIZE
    places: list[tuple[int, int, int]] = []
    tries = 0
    while len(places) < count:
        tries += 1
        if tries % 100 == 0:
            places.clear()  # those placed so far have left no room
        side = int(rng.uniform(*TAG_SEEN) * scale)
        reach = (CROP * scale - side) / 2 - 3
        top, left = (int((length - side) / 2 + rng.uniform(-reach, reach)) for length in (height, width))
        disc = (top, left, side)
        if all(_gap(disc, other) > 2 for other in places):
            places.append(disc)
    return places


def _gap(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """Pixels between the rims of two discs (top, left, side); negative if they overlap."""
    down, right = (a[axis] - b[axis] + (a[2] - b[2]) / 2 for axis in (0, 1))
    return math.hypot(down, right) - (a[2] + b[2]) / 2


def _pattern(rng: np.random.Generator, name: str, side: int, period: float, phase_block: float) -> Floats:
    """Pattern ``name`` in [-1.6, 1.6], (D, D); period in pixels, phase_block in periods."""
    axis = np.arange(side, dtype=np.float32)
    block = (axis / (phase_block * period)).astype(np.intp)
    phases = rng.uniform(0, 2 * np.pi, (block[-1] + 1, block[-1] + 1)).astype(np.float32)
    along = phases[block]
    wave = 2 * np.pi / period
    paper = _Paper(axis[:, None], axis[None], wave, along[:, :1], along[:, :1].T, along[:, block])
    return _PATTERNS[name](paper)


def _blotches(rng: np.random.Generator, side: int, period: float) -> Floats:
    """Smooth noise, (D, D), with about the period of a pattern and none of its order."""
    cells = max(2, round(2 * side / period))
    noise = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))


def _stamp(rng: np.random.Generator, square: NDArray[np.int16], print_DD: Floats) -> None:
    """Write a round tag of random colour and contrast over the pixels ``square`` (D, D, 3), in place."""
    side = len(print_DD)
    axis = np.arange(side, dtype=np.float32) - (side - 1) / 2
    inside_DD = np.clip(side / 2 - np.sqrt(axis[:, None] ** 2 + axis**2), 0, 1)[..., None]
    colour = rng.uniform(95, 160, 3).astype(np.float32)
    ink = colour + np.float32(rng.uniform(*CONTRAST)) * np.clip(1.5 * print_DD, -1, 1)[..., None]
    square += ((ink - square) * inside_DD).astype(np.int16)


def _clutter(rng: np.random.Generator, height: int, width: int) -> NDArray[np.int16]:
    """(H, W, 3): smooth colours, ellipses, triangles and lines, and a grain over all of it."""
    base = Image.fromarray(rng.integers(30, 226, (_BASE_CELLS, _BASE_CELLS, 3), dtype=np.uint8))
    image = base.resize((width, height), Image.Resampling.BICUBIC)
    _draw_shapes(rng, image)
    levels = rng.normal(128, 12, (_GRAIN_CELLS, _GRAIN_CELLS)).clip(0, 255).astype(np.uint8)
    grain = np.asarray(Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR)).astype(np.int16)
    return np.asarray(image) + (grain - 128)[..., None]


def _draw_shapes(rng: np.random.Generator, image: Image.Image) -> None:
    draw = ImageDraw.Draw(image)
    corners = (rng.uniform(-0.1, 1.1, (_NUM_SHAPES, 2)) * image.size).tolist()
    sizes = rng.uniform(4, 60, (_NUM_SHAPES, 2)).tolist()
    colours = rng.integers(20, 236, (_NUM_SHAPES, 3)).tolist()
    for number, ((x, y), (w, h), colour) in enumerate(zip(corners, sizes, colours, strict=True)):
        fill = tuple(colour)
        if number % 3 == 0:
            draw.ellipse((x, y, x + w, y + h), fill=fill)
        elif number % 3 == 1:
            draw.polygon([(x, y), (x + w, y + h / 3), (x + w / 2, y + h)], fill=fill)
        else:
            draw.line((x, y, x + w, y + h), fill=fill, width=int(1 + w / 20))
