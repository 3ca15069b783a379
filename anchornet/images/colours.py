"""Pictures of any mode -> RGB of 8 bits per channel: grey of more bits, transparency, everything else as Pillow has it.

All is done in bands of rows, so that beside a picture of Pillow and its RGB there is never a third one in memory.
Shapes: H x W pixels of a picture.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WHITE = 255
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE_VALUE = 258, 262, 281
"""Tags of a TIFF."""
_WHITE_IS_ZERO = 0
_USUAL_SCALES = (1.0, 255.0, 65535.0)
"""Full scales that numbers with a fraction are usually meant for."""
# Each byte of a gap fits one alternative alone: with \s+ in its place fifty spaces are tried in 2^50 ways.
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PGM_MAXIMUM = re.compile(rb"P[25]%b\d+%b\d+%b(\d+)" % (_GAP, _GAP, _GAP))
_MOST_SIGNIFICANT_BITS = 16
_BAND_PIXELS = 1 << 20
"""Pixels of a band, or a row where that is longer."""

Span: TypeAlias = tuple[float, float]
"""Lowest and highest value of a picture."""


def to_rgb(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """RGB (H, W, 3) of ``image``, loaded from the file ``data``; what is transparent lies over white.

    Grey of more than 8 bits is scaled by what the file says its full scale is, else by ``full_scale``; channels of colour
    of 16 bits keep their high byte. Colour profiles are ignored, as in training on ImageNet.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image, data)
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    depth, low = _depth(image, data), _low_bytes(image, data)
    for rows, band in _bands(image):
        if band.mode == "La":  # grey times its transparency
            band = band.convert("LA")
        if band.has_transparency_data:
            rgba = _with_alpha(band, depth, None if low is None else np.asarray(_rows_of(low, rows)))
            white = Image.new("RGBA", band.size, (_WHITE,) * 4)
            band = Image.alpha_composite(white, rgba)
        rgb[rows] = np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
    return rgb


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """The picture from top to bottom: rows, and the picture that they are."""
    step = max(1, _BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, step):
        rows = slice(top, min(top + step, image.height))
        yield rows, _rows_of(image, rows)


def _rows_of(image: Image.Image, rows: slice) -> Image.Image:
    return image if rows == slice(0, image.height) else image.crop((0, rows.start, image.width, rows.stop))


def full_scale(highest: int, stated: int | None) -> int:
    """The value that stands for white in grey of whole numbers whose highest is ``highest``.

    What the file states holds if no value is higher. Else it is the highest number of 1 to 8, 10, 12, 14, 16 or more bits
    that the values need: cameras write 10, 12 or 14 bits into 16, and such a picture must not come out black.
    """
    if stated is not None and highest <= stated:
        return stated
    bits = max(1, highest.bit_length())
    if 8 < bits < 16:
        bits += bits % 2
    return int(2**bits - 1)


def eight_bits(values: NDArray[Any], stated: int | None, span: Span | None = None) -> NDArray[np.uint8]:
    """Grey (N,) or (H, W) of whole numbers or of numbers with a fraction -> uint8 of the same shape.

    Whole numbers >= 0: see ``full_scale``; of a scale of 8 or more bits the upper 8 are kept. With negative ones the lowest
    becomes 0 and the highest 255. Fractions: 1, 255 or 65535 is white if the highest is above a quarter of it, else the
    highest. What is no number (NaN) is black. span: of the picture that ``values`` are a part of; None: they are all of it.
    """
    lowest, highest = span or _span(values) or (0, 0)
    if values.dtype.kind == "f":
        return _of_fractions(values, lowest, highest)
    values = values.astype(np.int64)
    if lowest < 0:
        values, highest = values - int(lowest), highest - lowest
        stated = int(highest)
    scale = full_scale(int(highest), stated)
    bits = (scale + 1).bit_length() - 1
    if bits >= 8 and scale == 2**bits - 1:
        return (values >> (bits - 8)).astype(np.uint8)
    return ((values * _WHITE + scale // 2) // scale).astype(np.uint8)


def _span(values: NDArray[Any]) -> Span | None:
    """Lowest and highest of the numbers; None of nothing."""
    if not values.size:
        return None
    if values.dtype.kind == "f":
        values = _numbers(values)
        return float(values.min()), float(values.max())
    return int(values.min()), int(values.max())


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _of_fractions(values: NDArray[Any], lowest: float, highest: float) -> NDArray[np.uint8]:
    values = _numbers(values) - min(0.0, lowest)
    highest -= min(0.0, lowest)
    scale = next((usual for usual in _USUAL_SCALES if usual / 4 < highest <= usual), highest) or 1.0
    return np.rint(values * (_WHITE / scale)).clip(0, _WHITE).astype(np.uint8)


def _deep_grey(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    key, stated = image.info.get("transparency"), _stated_maximum(image, data)
    upside_down = _tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    spans = [span for _, band in _bands(image) if (span := _span(_shown(band, key)[0])) is not None]
    span = (min(low for low, _ in spans), max(high for _, high in spans)) if spans else (0, 0)
    rgb = np.full((image.height, image.width, 3), _WHITE, np.uint8)
    for rows, band in _bands(image):
        values, shown = _shown(band, key)
        grey = eight_bits(values, stated, span)
        rgb[rows][shown] = (_WHITE - grey if upside_down else grey)[:, None]
    return rgb


def _shown(band: Image.Image, key: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The values (N,) that are not the transparent one, and where they are (H, W)."""
    values = np.asarray(band)
    shown = values != key if isinstance(key, int) else np.ones(values.shape, np.bool_)
    return values[shown], shown


def _stated_maximum(image: Image.Image, data: bytes) -> int | None:
    """The highest value that a sample can have, where the file says anything beyond the size of its numbers."""
    if image.format == "PNG":
        at = data.find(b"sBIT", 0, data.find(b"IDAT"))
        bits = data[at + 4] if at >= 0 else 0
        return int(2**bits - 1) if 0 < bits <= _MOST_SIGNIFICANT_BITS else None
    if image.format == "PPM":  # Pillow brings them to 16 bits
        found = _PGM_MAXIMUM.match(data)
        return 65535 if found and int(found[1]) != 65535 else None
    highest, bits = _tags(image).get(_MAX_SAMPLE_VALUE), _tags(image).get(_BITS_PER_SAMPLE)
    highest, bits = (each[0] if isinstance(each, tuple) and each else each for each in (highest, bits))
    if isinstance(highest, int) and highest > 0:
        return highest
    return int(2**bits - 1) if isinstance(bits, int) and 8 < bits < 16 else None


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _depth(image: Image.Image, data: bytes) -> int:
    """Bits per sample of a PNG, where Pillow's pixels may have others; 8 of any other file."""
    return data[24] if image.format == "PNG" else 8


def _with_alpha(band: Image.Image, depth: int, low: NDArray[np.uint8] | None) -> Image.Image:
    """``band`` as RGBA. The transparent colour of a PNG is given in the bits of the file, and Pillow's pixels have 8.

    low: the lower halves of 16 bits, where the colour is one of these (see ``_low_bytes``).
    """
    key = band.info.get("transparency")
    if depth < 8 and band.mode == "L" and isinstance(key, int):
        band.info["transparency"] = key * _WHITE // (2**depth - 1)
    if low is None:
        return band.convert("RGBA")
    high = np.asarray(band)
    hidden = ((high.astype(np.uint16) << 8 | low) == np.array(key, np.uint16)).all(axis=2)
    return Image.fromarray(np.dstack([high, np.where(hidden, 0, _WHITE).astype(np.uint8)]))


def _low_bytes(image: Image.Image, data: bytes) -> Image.Image | None:
    """A picture of the lower half of each channel of a PNG of 16 bits with a transparent colour, which Pillow leaves out: the
    same file taken for one of the other order of bytes. None of any other file."""
    if image.mode != "RGB" or _depth(image, data) < 16 or not isinstance(image.info.get("transparency"), tuple):
        return None
    with Image.open(io.BytesIO(data), formats=("PNG",)) as low:
        tiles: Any = [(*tile[:3], "RGB;16L") for tile in cast(Any, low).tile]
        cast(Any, low).tile = tiles
        low.load()
        return low
