"""Bytes of an image file -> checked, upright RGB.

Everything that is not a whole JPEG, PNG or WebP within the pixel limit is refused by ImageError, whose text is short
and stable so that a job can write it into a row and count it. Pillow does all reading: torchvision's JPEG decoder is
about a third faster per core, but another contract (CMYK, damaged files), and two decoders would be two sets of pixels.
Shapes: H x W pixels of a file, N images, C = 3 channels in the order red, green, blue.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 80_000_000
"""Default limit of W x H: about 320 MB while an image is decoded. Pillow itself refuses more than 178,956,970."""

_SUPPORTED = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
_FOREIGN = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"\0\0\1\0": "ICO",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xffO\xffQ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "PSD",
    b"%PDF": "PDF",
    b"<svg": "SVG",
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC"}
_NOT_AN_IMAGE = "not an image (JPEG, PNG or WebP)"
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


class ImageError(ValueError):
    """These bytes are no image we label; the text is the reason, short and the same for the same kind of fault.

    Reasons: "empty file"; "not an image (JPEG, PNG or WebP)"; "format GIF is not supported (JPEG, PNG or WebP)";
    "truncated or damaged JPEG"; "too many pixels: 12000 x 10000 > 80000000" (past Pillow's own limit: "too many
    pixels: more than 178956970").
    """


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Upright RGB pixels (H, W, C) uint8 of a JPEG, PNG or WebP file of any mode.

    The EXIF orientation is applied (an unreadable one counts as upright); of an animation or a multi-picture file the
    first frame is taken; transparent pixels are laid over white; 16-bit channels keep their high byte; colour profiles
    are ignored, as in training on ImageNet. max_pixels: most W x H, read from the header before a pixel is decoded.
    Raises ImageError, and nothing else, for bytes that are no such image.
    """
    return np.array(_decode_upright(data, max_pixels))


def _decode_upright(data: bytes, max_pixels: int) -> Image.Image:
    format_name = _check_format(data)
    try:
        with Image.open(io.BytesIO(data), formats=(format_name,)) as image:
            _check_size(image, max_pixels)
            image.load()
            orientation = _orientation(image)
            rgb = _to_rgb(image)
            return rgb.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else rgb
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"too many pixels: more than {2 * (Image.MAX_IMAGE_PIXELS or 0)}") from error
    except (
        Exception
    ) as error:  # on damaged bytes Pillow raises nearly anything: OSError, SyntaxError, struct.error, ...
        raise ImageError(f"truncated or damaged {format_name.replace('WEBP', 'WebP')}") from error


def _check_format(data: bytes) -> str:
    """Pillow's name of the format, by the first bytes and never by the file's name. Raises ImageError for any other."""
    if not data:
        raise ImageError("empty file")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for magic, name in _SUPPORTED.items():
        if data.startswith(magic):
            return name
    foreign = _BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<?xml") and b"<svg" in text:
        foreign = "SVG"
    for magic, name in _FOREIGN.items():
        foreign = foreign or (name if data.startswith(magic) or text.startswith(magic) else None)
    raise ImageError(_NOT_AN_IMAGE if foreign is None else f"format {foreign} is not supported (JPEG, PNG or WebP)")


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"too many pixels: {width} x {height} > {max_pixels}")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # the pixels are whole: damaged metadata is no reason to lose an image
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: the high byte, as Pillow does for 16-bit colour
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
