"""Bytes of an image file -> checked, upright RGB.

Everything that is not a whole picture of a format that is read (``formats.FORMATS``) and within the pixel limit is refused
by ImageError, whose text is short and stable so that a job can write it into a row and count it. Pillow does all reading:
torchvision's JPEG decoder is about a third faster per core, but another contract (CMYK, damaged files), and two decoders
would be two sets of pixels.
Shapes: H x W pixels of a file, N images, C = 3 channels in the order red, green, blue.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from anchornet.images.colours import to_rgb
from anchornet.images.formats import (
    FORMATS,
    MOST_SCANS,
    ImageError,
    bare_png,
    damaged,
    format_of,
    not_supported,
    reason_of,
    too_many_scans,
)

__all__ = [
    "BYTES_PER_PIXEL",
    "MAX_PIXELS",
    "MOST_BYTES_PER_PIXEL",
    "ImageError",
    "Picture",
    "decode",
    "read_picture",
]

MAX_PIXELS = 80_000_000
"""Default limit of W x H. Pillow itself refuses more than 178,956,970."""
BYTES_PER_PIXEL = 8
"""Memory per pixel while a picture is decoded: 4 of Pillow's, 3 of RGB, and a few bands of rows."""
MOST_BYTES_PER_PIXEL = 20
"""The same of the kinds whose decoders keep more: JPEG 2000 20, WebP 16, progressive JPEG up to 12 (its coefficients), colour of
16 bits with a transparent one 12, AVIF 10."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.swapaxes(0, 1),
    6: lambda rgb: rgb[::-1].swapaxes(0, 1),
    7: lambda rgb: rgb[::-1, ::-1].swapaxes(0, 1),
    8: lambda rgb: rgb[:, ::-1].swapaxes(0, 1),
}
"""What undoes each orientation of EXIF, as a view."""
_DNG_VERSION, _SUBFILE_TYPE, _SUB_IFDS, _TILE_WIDTH, _TILE_LENGTH = 50706, 254, 330, 322, 323
"""Tags of a TIFF."""
_GREY, _MOSTLY_GREY = 128, 0.9
"""What a JPEG decoder makes of blocks that are missing, and the share of it at which a picture counts as missing."""
_ONE_AT_A_TIME = threading.Lock()
"""Pillow's switch for truncated files is one for the process."""


class Picture(NamedTuple):
    """What a file holds."""

    rgb: NDArray[np.uint8]
    """(H, W, C), upright."""
    note: str | None
    """What a user should know of it; None for a whole file."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Upright RGB pixels (H, W, C) uint8 of a whole file; see ``read_picture``."""
    return read_picture(data, max_pixels).rgb


def read_picture(data: bytes, max_pixels: int = MAX_PIXELS, *, accept_truncated: bool = False) -> Picture:
    """Upright RGB pixels of a file of any format in ``formats.FORMATS`` and of any mode.

    The EXIF orientation is applied (an unreadable one counts as upright); of an animation or a file of several pictures the
    first is taken; modes become RGB as ``colours.to_rgb`` says. Damaged text and other additions of a PNG are no reason to
    lose a picture. max_pixels: most W x H, read from the header before a pixel is decoded. accept_truncated: a file that
    ends too early gives the pixels that are there, the rest in one colour, and a note; a whole file gives the same pixels
    either way. Raises ImageError, and nothing else, for bytes that are no such image.
    """
    name = format_of(data)
    try:
        return Picture(_upright(data, name, max_pixels), None)
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"too many pixels: more than {2 * (Image.MAX_IMAGE_PIXELS or 0)}") from error
    except (
        Exception
    ) as error:  # on damaged bytes Pillow raises nearly anything: OSError, SyntaxError, struct.error, ...
        bare = bare_png(data) if name == "PNG" else data
        if len(bare) < len(data):
            return read_picture(bare, max_pixels, accept_truncated=accept_truncated)
        if accept_truncated and "truncated" in str(error).lower():
            return Picture(_beginning(data, name, max_pixels), f"truncated {FORMATS[name]}: its tail is missing")
        raise ImageError(reason_of(data, name, error)) from error


def _upright(data: bytes, name: str, max_pixels: int) -> NDArray[np.uint8]:
    rgb, orientation = _as_stored(data, name, max_pixels)
    return np.ascontiguousarray(_UPRIGHT[orientation](rgb)) if orientation in _UPRIGHT else rgb


def _as_stored(data: bytes, name: str, max_pixels: int) -> tuple[NDArray[np.uint8], int]:
    """RGB as it lies in the file, and its EXIF orientation; Pillow's own copy of the pixels is gone when this returns."""
    with Image.open(io.BytesIO(data), formats=(name,)) as image:
        _check_size(image, max_pixels)
        _refuse_raw(image)
        _refuse_endless(image, data, name, max_pixels)
        image.load()
        return to_rgb(image, data), _orientation(image)


def _beginning(data: bytes, name: str, max_pixels: int) -> NDArray[np.uint8]:
    """What is there of a truncated file. Raises ImageError when that is nothing but the colour of what is missing."""
    try:
        with _truncated_accepted():
            rgb = _upright(data, name, max_pixels)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(damaged(name)) from error
    filled = (rgb == rgb[-1, -1]).all(axis=2).mean()
    if filled > _MOSTLY_GREY and (rgb[-1, -1] == _GREY).all() if name == "JPEG" else filled == 1.0:
        raise ImageError(damaged(name))
    return rgb


@contextlib.contextmanager
def _truncated_accepted() -> Iterator[None]:
    with _ONE_AT_A_TIME:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"too many pixels: {width} x {height} > {max_pixels}")


def _refuse_endless(image: Image.Image, data: bytes, name: str, max_pixels: int) -> None:
    """Refuse what takes far longer, or far more memory, than its pixels: a few bytes more are another pass over them all."""
    if name == "JPEG" and too_many_scans(data):
        raise ImageError(f"too many scans: more than {MOST_SCANS}")
    if name == "TIFF":
        width, height = (_number(image, tag) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        if width * height > max_pixels:
            raise ImageError(f"too many pixels: tiles of {width} x {height} > {max_pixels}")


def _number(image: Image.Image, tag: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, 0)
    return value if isinstance(value, int) else 0


def _refuse_raw(image: Image.Image) -> None:
    """Refuse a camera's raw file: it begins like a TIFF, and what Pillow would show of it is its thumbnail."""
    tags = getattr(image, "tag_v2", {})
    subfile = tags.get(_SUBFILE_TYPE, 0)
    thumbnail = isinstance(subfile, int) and subfile & 1 and _SUB_IFDS in tags
    if image.format == "TIFF" and (_DNG_VERSION in tags or thumbnail):
        raise ImageError(not_supported("camera raw"))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # the pixels are whole: damaged metadata is no reason to lose an image
        return 1
