"""Generated images for the demo and the tests: photograph-like clutter in which one large tag says the class.

A **tag** is a disc in one of the colours of ``COLOURS``, printed with bars or with rungs; colour and pattern together name
a class. Every image has one large tag, a fifth of the image wide, which says its class, and ten small ones of any class,
the **decoys**: all of them together cover more than the large one, so that counting what is where decides little. On an
**easy** image the large tag's pattern is coarse and survives shrinking to 95x95; on a **hard** one its period is about 3
pixels and its phase jumps every few pixels, which shrinking turns into noise: full resolution has to tell.
An image depends on (seed, index) and on nothing else. Lengths called "seen" are pixels after the preprocessing for the
networks (short side to 256, central 224); all tags lie inside that centre.
Shapes: H x W pixels of an image, D = side in pixels of the square around a tag.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from anchornet.images.preprocess import CROP, RESIZE

Floats = NDArray[np.float32]

SHORT_SIDE = (228, 256)
"""Shortest and longest short side of an image in pixels."""
LONG_SIDE_MAX = 304
"""Longest long side in pixels."""
NUM_DECOYS = 10
"""Small tags of any class."""
TAG_SEEN = (46.0, 56.0)
"""Smallest and largest diameter of the large tag in seen pixels; a patch of 95 holds it whole."""
DECOY_SEEN = (24.0, 32.0)
"""Of a decoy; at most 0.7 times the large one."""
DIFFICULTIES = ("easy", "hard")
"""Whether the pattern survives shrinking to 95x95 or not."""
PERIOD_SEEN = {"easy": (10.0, 13.0), "hard": (3.0, 3.4)}
"""Range of a pattern's period in seen pixels. Shrinking 224 to 95 takes a sample every 2.4 pixels."""
PHASE_BLOCK = {"easy": 9.0, "hard": 1.6}
"""Periods after which a pattern's phase jumps; an easy one of 9 periods is wider than a tag, so it never does."""
CONTRAST = {"easy": (40.0, 75.0), "hard": (20.0, 50.0)}
"""Range of a pattern's amplitude in grey levels."""
COLOURS = {"blue": (60, 110, 205), "orange": (205, 120, 50)}
"""Of the tags, by the names that classes have."""
COLOUR_JITTER = 20
"""A tag's colour differs from its name's by up to so many levels in each channel."""
JPEG_QUALITY = 90
"""High enough for a period of 3 pixels to survive."""

_NUM_SHAPES = 24
_BASE_CELLS = 5
_GRAIN_CELLS = 40
_CLUTTER_SATURATION = 0.5
_NOISE = 8


class SyntheticImage(NamedTuple):
    """A generated image: pixels (H, W, 3) uint8, label (index into the classes), difficulty ("easy" or "hard")."""

    pixels: NDArray[np.uint8]
    label: int
    difficulty: str


def _bars(y: Floats, x: Floats, wave: float, phases: Floats) -> Floats:
    return cast(Floats, np.sin(wave * x + phases[:, None]) + 0 * y)


def _rungs(y: Floats, x: Floats, wave: float, phases: Floats) -> Floats:
    return cast(Floats, np.sin(wave * y + phases[None]) + 0 * x)


_PATTERNS: dict[str, Callable[[Floats, Floats, float, Floats], Floats]] = {"bars": _bars, "rungs": _rungs}
"""(y (D, 1), x (1, D), radians per pixel, phases (D,) that jump along the stripes) -> (D, D). Each pattern is its own mirror
image, so flipping never changes a label."""
CLASSES = tuple(f"{colour}-{pattern}" for colour, pattern in itertools.product(sorted(COLOURS), sorted(_PATTERNS)))
"""Names of the classes, sorted."""


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
    for number, (top, left, side) in enumerate(_places(rng, height, width)):
        name, kind = (
            (classes[label], difficulty) if number == 0 else (_one_of(rng, CLASSES), _one_of(rng, DIFFICULTIES))
        )
        colour, pattern = name.split("-")
        period = rng.uniform(*PERIOD_SEEN[kind]) * scale
        print_DD = rng.uniform(*CONTRAST[kind]) * _pattern(rng, pattern, side, period, PHASE_BLOCK[kind])
        _stamp(pixels[top : top + side, left : left + side], _jittered(rng, COLOURS[colour]), print_DD)
    pixels += rng.integers(-_NOISE, _NOISE + 1, (height, width, 1), dtype=np.int8)  # the sensor's noise
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
    unknown = [name for name in classes if name not in CLASSES]
    if unknown or not classes:
        raise ValueError(
            f"synthetic classes must be some of {', '.join(CLASSES)}, got {list(classes)}; name at least one"
        )


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """(height, width), upright as often as lying."""
    short = int(rng.integers(*SHORT_SIDE, endpoint=True))
    long = int(rng.integers(short, LONG_SIDE_MAX, endpoint=True))
    return (short, long) if rng.random() < 0.5 else (long, short)


def _places(rng: np.random.Generator, height: int, width: int) -> list[tuple[int, int, int]]:
    """(top, left, side) of the large disc and the decoys, none touching another, inside the centre that preprocessing keeps."""
    scale = min(height, width) / RESIZE
    places: list[tuple[int, int, int]] = []
    tries = 0
    while len(places) <= NUM_DECOYS:
        tries += 1
        if tries % 100 == 0:
            places.clear()  # those placed so far have left no room
        side = int(rng.uniform(*(DECOY_SEEN if places else TAG_SEEN)) * scale)
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


def _one_of(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _jittered(rng: np.random.Generator, colour: tuple[int, int, int]) -> Floats:
    return (colour + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, 3)).astype(np.float32)


def _pattern(rng: np.random.Generator, name: str, side: int, period: float, phase_block: float) -> Floats:
    """Pattern ``name`` in [-1, 1], (D, D); period in pixels, phase_block in periods."""
    axis = np.arange(side, dtype=np.float32)
    block = (axis / (phase_block * period)).astype(np.intp)
    phases = rng.uniform(0, 2 * np.pi, block[-1] + 1).astype(np.float32)
    return np.clip(1.5 * _PATTERNS[name](axis[:, None], axis[None], 2 * np.pi / period, phases[block]), -1, 1)


def _stamp(square: NDArray[np.int16], colour: Floats, print_DD: Floats) -> None:
    """Write a round tag, ``colour`` (3,) plus ``print_DD`` grey levels, over the pixels ``square`` (D, D, 3), in place."""
    side = len(print_DD)
    axis = np.arange(side, dtype=np.float32) - (side - 1) / 2
    inside_DD = np.clip(side / 2 - np.sqrt(axis[:, None] ** 2 + axis**2), 0, 1)[..., None]
    square += ((colour + print_DD[..., None] - square) * inside_DD).astype(np.int16)


def _clutter(rng: np.random.Generator, height: int, width: int) -> NDArray[np.int16]:
    """(H, W, 3): smooth pale colours, ellipses, triangles and lines, and a grain over all of it."""
    base = Image.fromarray(rng.integers(30, 226, (_BASE_CELLS, _BASE_CELLS, 3), dtype=np.uint8))
    image = base.resize((width, height), Image.Resampling.BICUBIC)
    _draw_shapes(rng, image)
    levels = rng.normal(128, 12, (_GRAIN_CELLS, _GRAIN_CELLS)).clip(0, 255).astype(np.uint8)
    grain = np.asarray(Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR)).astype(np.int16)
    paler = ImageEnhance.Color(image).enhance(_CLUTTER_SATURATION)
    return np.asarray(paler) + (grain - 128)[..., None]


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
