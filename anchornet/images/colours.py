"""Pictures of any mode -> RGB of 8 bits per channel: grey of more bits, transparency, everything else as Pillow has it.

Shapes: H x W pixels of a picture.
"""

from __future__ import annotations

import io
import re
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WHITE = 255
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE_VALUE = 258, 262, 281
"""Tags of a TIFF."""
_WHITE_IS_ZERO = 0
_USUAL_SCALES = (1.0, 255.0, 65535.0)
"""Full scales that numbers with a fraction are usually meant for."""
_PGM_MAXIMUM = re.compile(rb"P[25](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)")


def to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """``image``, loaded from the file ``data``, as RGB; what is transparent lies over white.

    Grey of more than 8 bits is scaled by what the file says its full scale is, else by ``full_scale``; channels of colour
    of 16 bits keep their high byte. Colour profiles are ignored, as in training on ImageNet.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image, data)
    if image.mode == "La":  # grey times its transparency
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = _with_alpha(image, data)
    white = Image.new("RGBA", image.size, (_WHITE,) * 4)
    return Image.alpha_composite(white, rgba).convert("RGB")


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


def eight_bits(values: NDArray[Any], stated: int | None) -> NDArray[np.uint8]:
    """Grey (N,) or (H, W) of whole numbers or of numbers with a fraction -> uint8 of the same shape.

    Whole numbers >= 0: see ``full_scale``; of a scale of 8 or more bits the upper 8 are kept. With negative ones the lowest
    becomes 0 and the highest 255. Fractions: 1, 255 or 65535 is white if the highest is above a quarter of it, else the
    highest. What is no number (NaN) is black.
    """
    if values.dtype.kind == "f":
        return _of_fractions(values)
    values = values.astype(np.int64)
    lowest = int(values.min(initial=0))
    if lowest < 0:
        values, stated = values - lowest, int(values.max()) - lowest
    scale = full_scale(int(values.max(initial=0)), stated)
    bits = (scale + 1).bit_length() - 1
    if bits >= 8 and scale == 2**bits - 1:
        return (values >> (bits - 8)).astype(np.uint8)
    return ((values * _WHITE + scale // 2) // scale).astype(np.uint8)


def _of_fractions(values: NDArray[Any]) -> NDArray[np.uint8]:
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    values = values - min(0.0, float(values.min(initial=0.0)))
    highest = float(values.max(initial=0.0))
    scale = next((usual for usual in _USUAL_SCALES if usual / 4 < highest <= usual), highest) or 1.0
    return np.rint(values * (_WHITE / scale)).clip(0, _WHITE).astype(np.uint8)


def _deep_grey(image: Image.Image, data: bytes) -> Image.Image:
    values = np.asarray(image)
    key = image.info.get("transparency")
    hidden = values == key if isinstance(key, int) else np.zeros(values.shape, bool)
    grey = np.full(values.shape, _WHITE, np.uint8)
    shown = eight_bits(values[~hidden], _stated_maximum(image, data))
    grey[~hidden] = _WHITE - shown if _tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO else shown
    return Image.fromarray(grey).convert("RGB")


def _stated_maximum(image: Image.Image, data: bytes) -> int | None:
    """The highest value that a sample can have, where the file says anything beyond the size of its numbers."""
    if image.format == "PNG":
        at = data.find(b"sBIT", 0, data.find(b"IDAT"))
        return None if at < 0 else int(2 ** data[at + 4] - 1)
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


def _with_alpha(image: Image.Image, data: bytes) -> Image.Image:
    """``image`` as RGBA. The transparent colour of a PNG is given in the bits of the file, and Pillow's pixels have 8."""
    key, depth = image.info.get("transparency"), data[24] if image.format == "PNG" else 8
    if depth < 8 and image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key * _WHITE // (2**depth - 1)
    if depth < 16 or image.mode != "RGB" or not isinstance(key, tuple):
        return image.convert("RGBA")
    high = np.asarray(image)
    hidden = ((high.astype(np.uint16) << 8 | _low_bytes(data)) == np.array(key, np.uint16)).all(axis=2)
    return Image.fromarray(np.dstack([high, np.where(hidden, 0, _WHITE).astype(np.uint8)]))


def _low_bytes(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3): the lower half of each channel of a PNG of 16 bits, which Pillow leaves out; the same file taken for one of
    the other order of bytes."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        tiles: Any = [(*tile[:3], "RGB;16L") for tile in cast(Any, image).tile]
        cast(Any, image).tile = tiles
        image.load()
        return np.array(image)
