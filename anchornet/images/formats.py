"""What kind of file this is, by its first bytes and never by its name.

A reason why a file is not read (``ImageError``) is short and stable, so that a job can write it into a row and count it.
"""

from __future__ import annotations

import io
import re
import zlib
from functools import cache

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

FORMATS = {
    "JPEG": "JPEG",
    "PNG": "PNG",
    "WEBP": "WebP",
    "GIF": "GIF",
    "BMP": "BMP",
    "TIFF": "TIFF",
    "PPM": "PPM",
    "JPEG2000": "JPEG 2000",
    "AVIF": "AVIF",
}
"""What is read, by Pillow's name of it: the name for people."""
READ = f"{', '.join([*FORMATS.values()][:-1])} or {[*FORMATS.values()][-1]}"
"""The same as a list for messages."""

_CODECS = {"JPEG": "jpg", "PNG": "zlib", "WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}
"""Parts that a Pillow may have been built without."""
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG2000",
    b"\xffO\xffQ": "JPEG2000",
}
_BMP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}
"""Sizes of the second header of a BMP: two letters alone are too little to know one by."""
_PPM = re.compile(rb"P[1-6f][ \t\n\v\f\r#]")
_FOREIGN = {
    b"\0\0\1\0": "ICO",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "PSD",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"<svg": "SVG",
    b"DDS ": "DDS",
    b"v/1\1": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"qoif": "QOI",
    b"P7\n": "PAM",
    b"PF\n": "PFM in colour",
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC"}
"""Kinds of files that begin with a box ``ftyp``; the first of these that a file names decides."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_NO_FRAME = {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG between those of frames that begin no frame."""
_FRAMES = {0xC3: "lossless", 0xC9: "arithmetic coding", 0xCA: "arithmetic coding", 0xCB: "lossless", 0xF7: "JPEG-LS"}
_FRAMES |= dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _TILES = 256, 257, 258, 259, 262, 273, 324
"""Tags of a TIFF."""
_RARE_COMPRESSIONS = {34712, 34887, 34925, 50000, 50001}
"""JPEG 2000, LERC, LZMA, Zstandard, WebP: a libtiff may have been built without them."""
MOST_SCANS = 500
"""Passes over the pixels of a JPEG that are still decoded; encoders write some ten. libjpeg-turbo's own bound where it is
given files that may be meant badly (``fuzz/``)."""
_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_NEXT_MARKER = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")
"""In coded pixels: 0 after FF stands for FF itself, D0 to D7 are restarts."""
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


class ImageError(ValueError):
    """These bytes are no image we label; the text is the reason, short and the same for the same kind of fault.

    Reasons: "empty file"; "not an image (JPEG, PNG, ... or AVIF)"; "not an image but a Git LFS pointer; ..."; "format HEIC
    is not supported (JPEG, ...)"; "format AVIF is not read by the installed Pillow; ..."; "unsupported kind of JPEG: 12 bits
    per sample" and the like of TIFF and BMP; "truncated or damaged JPEG"; "too many pixels: 12000 x 10000 > 80000000" (past
    Pillow's own limit: "too many pixels: more than 178956970"); "too many pixels: tiles of 30000 x 30000 > 80000000"; "too many
    scans: more than 500".
    """


def format_of(data: bytes) -> str:
    """Pillow's name of the format (a key of FORMATS). Raises ImageError for any other, by its name where it is known."""
    if not data:
        raise ImageError("empty file")
    name = _known(data)
    if name is None:
        foreign = _foreign(data)
        if foreign is None and data.startswith(_LFS_POINTER):
            raise ImageError("not an image but a Git LFS pointer; fetch the files with git lfs pull")
        raise ImageError(f"not an image ({READ})" if foreign is None else not_supported(foreign))
    if not _is_read(name):
        raise ImageError(
            f"format {FORMATS[name]} is not read by the installed Pillow; install one that has it built in"
        )
    return name


def not_supported(name: str) -> str:
    """The reason for a file whose format we know and do not read."""
    return f"format {name} is not supported ({READ})"


def damaged(name: str) -> str:
    """The reason for a file that is of this format (Pillow's name) and cannot be decoded."""
    return f"truncated or damaged {FORMATS[name]}"


def reason_of(data: bytes, name: str, error: Exception) -> str:
    """The reason for a file that cannot be decoded: damaged, or whole and of a kind of its format that is not read."""
    kind = None
    if name == "JPEG" and "truncated" not in str(error):
        kind = unusual_jpeg(data)
    elif name == "TIFF":
        kind = _unusual_tiff(data, of_any_compression=isinstance(error, UnidentifiedImageError))
    elif str(error).startswith("Unsupported BMP"):
        kind = str(error).removeprefix("Unsupported BMP ")
    return damaged(name) if kind is None else f"unsupported kind of {FORMATS[name]}: {kind}"


def _known(data: bytes) -> str | None:
    for magic, name in _MAGIC.items():
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    if _PPM.match(data):
        return "PPM"
    return "AVIF" if _brand(data) == "AVIF" else None


def _foreign(data: bytes) -> str | None:
    """The name of a format that we know and do not read."""
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<?xml") and b"<svg" in text:
        return "SVG"
    for magic, name in _FOREIGN.items():
        if data.startswith(magic) or text.startswith(magic):
            return name
    return _brand(data)


def _brand(data: bytes) -> str | None:
    """The kind of a file that begins with a box ``ftyp``: its own brand, else the first that it is compatible with."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]
    exact = [brand for brand in brands if brand in (b"avif", b"avis", b"heic", b"heix")]  # mif1 is of both families
    return next((_BRANDS[brand] for brand in [*exact, *brands] if brand in _BRANDS), None)


@cache
def _is_read(name: str) -> bool:
    """Whether the installed Pillow has the reader and the library behind it."""
    if name not in Image.OPEN:
        Image.init()
    return name in Image.OPEN and (name not in _CODECS or bool(features.check(_CODECS[name])))


def unusual_jpeg(data: bytes) -> str | None:
    """What makes this JPEG one of the kinds that are rarely decoded, such as "12 bits per sample"; None for a usual one.

    Source: ITU-T T.81, tables B.1 and B.2: the marker of the frame says the process, its first byte the precision.
    """
    at = 2
    while at + 4 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes before a marker
            at += 1
        elif marker == 0xDA:
            return None
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME):
            if marker in _FRAMES:
                return _FRAMES[marker]
            return None if data[at + 4] == 8 else f"{data[at + 4]} bits per sample"
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def too_many_scans(data: bytes) -> bool:
    """Whether the first picture of a JPEG has more than MOST_SCANS scans: ten bytes may be one, and a pass over all pixels."""
    if data.count(b"\xff\xda") <= MOST_SCANS:
        return False
    at, scans = 2, 0
    while scans <= MOST_SCANS and (found := _NEXT_MARKER.search(data, at)):
        marker, at = data[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            break
        scans += marker == _SCAN
        at += int.from_bytes(data[at : at + 2], "big")
    return scans > MOST_SCANS


def _unusual_tiff(data: bytes, *, of_any_compression: bool) -> str | None:
    """Bits, colours and compression of a TIFF that lists its pixels in good order; None for one that does not.

    of_any_compression: also of one whose compression is a usual one.
    """
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        offsets = tags.get(_STRIPS) or tags.get(_TILES)
        if not (offsets and min(tags[_WIDTH], tags[_HEIGHT]) > 0 and max(offsets) < len(data)):
            return None
        bits, compression = tags.get(_BITS, (1,)), tags.get(_COMPRESSION, 1)
    except Exception:  # damaged in any way
        return None
    if not of_any_compression and compression not in _RARE_COMPRESSIONS:
        return None
    shape = ", ".join(str(each) for each in bits)
    return f"{shape} bits per sample, photometric {tags.get(_PHOTOMETRIC)}, compression {compression}"


def bare_png(data: bytes) -> bytes:
    """The chunks of a PNG that its pixels, and its orientation where that is whole, are made of; text and the like left out."""
    parts, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        chunk = data[at:end]
        orientation = chunk[4:8] == b"eXIf" and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if chunk[4:8] in _PNG_PIXELS or orientation:
            parts.append(chunk)
        at = end
    return b"".join(parts)
