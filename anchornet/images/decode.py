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
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from anchornet.images.colours import to_rgb
from anchornet.images.formats import FORMATS, ImageError, bare_png, damaged, format_of, not_supported, reason_of

__all__ = ["MAX_PIXELS", "ImageError", "Picture", "decode", "read_picture"]

MAX_PIXELS = 80_000_000
"""Default limit of W x H: about 320 MB while an image is decoded. Pillow itself refuses more than 178,956,970."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DNG_VERSION, _SUBFILE_TYPE, _SUB_IFDS = 50706, 254, 330
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
    with Image.open(io.BytesIO(data), formats=(name,)) as image:
        _check_size(image, max_pixels)
        _refuse_raw(image)
        image.load()
        orientation = _orientation(image)
        rgb = to_rgb(image, data)
        return np.array(rgb.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else rgb)


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
