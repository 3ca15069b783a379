"""A corpus of files that are not what their names say, too large, cut off or strange: name, bytes, and what becomes of each.

Everything follows from a seed, and nothing here needs more memory than a picture of MAX_PIXELS.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

MAX_PIXELS = 20_000_000
"""The limit that the corpus is made for (``input.max_pixels``): its largest pictures are as large, or just larger."""
LARGE = (5000, 4000)
"""Width and height of a picture at the limit."""
TOO_MANY, NO_IMAGE = "too many pixels: ", "not an image"
_BLOCK_BYTES = 1 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
"""Kinds of a PNG's pixels."""


class Case(NamedTuple):
    """A file of the corpus."""

    name: str
    content: bytes
    reason: str | None = None
    """How ``error`` begins when the file is ``unreadable``; None: the file is ``ok`` and there is no reason."""
    either: bool = False
    """Reading it and refusing it for this reason are both right: it depends on the library that decodes."""

    def fits(self, status: str, error: str | None) -> bool:
        """Whether a row says of this file what it should."""
        read, refused = status == "ok" and error is None, status == "unreadable" and bool(error)
        if self.reason is None:
            return read
        return (refused and str(error).startswith(self.reason)) or (self.either and read)


def corpus(seed: int = 0) -> list[Case]:
    """Every case, in no order that means anything; names are unique and can be those of files."""
    found = [*truncated(seed), *foreign(seed), *shapes(), *bombs(), *kinds(seed), *metadata(seed), *misnamed(seed)]
    found += [Case(f"large-{name}", content) for name, content in large().items()]
    assert len({case.name for case in found}) == len(found)
    return found


def photo(seed: int, width: int = 240, height: int = 180) -> Image.Image:
    """A photograph-like picture: soft colours with the noise of a camera."""
    random = np.random.default_rng(seed)
    soft = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noisy = np.asarray(soft) + random.normal(0, 6, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    """The file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def zeros(count: int) -> bytes:
    """A zlib stream of ``count`` zero bytes, a thousandth as long, and made without them: one block again and again.

    Source: RFC 1950; a block that was flushed fully refers to nothing before it, and Adler's sum of zeros is their number.
    """
    whole, rest = divmod(count, _BLOCK_BYTES)
    block, last = (zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS) for _ in range(2))
    blocks = (block.compress(bytes(_BLOCK_BYTES)) + block.flush(zlib.Z_FULL_FLUSH)) * whole
    return b"\x78\xda" + blocks + last.compress(bytes(rest)) + last.flush() + struct.pack(">I", count % 65521 << 16 | 1)


def black_png(width: int, height: int, kind: int = RGB, depth: int = 8, extra: bytes = b"") -> bytes:
    """A whole PNG in which every sample is 0, as small as they get. extra: chunks before the pixels."""
    samples = {GREY: 1, RGB: 3, GREY_ALPHA: 2, RGBA: 4}[kind]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    pixels = zeros(height * (1 + (width * samples * depth + 7) // 8))
    return _PNG + header + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_chunk(png: bytes, extra: bytes) -> bytes:
    """A PNG with more chunks after its header."""
    return png[:33] + extra + png[33:]


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """A JPEG with more segments (marker, content) before those it has."""
    lengths = (each[:2] + struct.pack(">H", len(each)) + each[2:] for each in segments)
    return jpeg[:2] + b"".join(lengths) + jpeg[2:]


def of_jpeg_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame claims another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def tiff(width: int, height: int, tags: dict[int, int], pixels: bytes) -> bytes:
    """A little-endian TIFF of 8-bit grey, one piece deflated; tags: where and how large that is, and anything else."""
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, **tags}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def truncated(seed: int) -> Iterator[Case]:
    """Files of every common format that end at each tenth of their length."""
    options = {"JPEG": {}, "JPEG progressive": {"progressive": True}, "TIFF": {"compression": "tiff_lzw"}}
    for kind in (*options, "PNG", "GIF", "BMP", "WebP"):
        name = kind.split()[0]
        whole = encoded(photo(seed), name.upper(), **options.get(kind, {}))
        for tenths in range(10):
            reason = f"truncated or damaged {name}" if tenths else "empty file"
            yield Case(f"{kind} cut at {tenths} tenths.{name.lower()}", whole[: len(whole) * tenths // 10], reason)


def foreign(seed: int) -> Iterator[Case]:
    """What lies under the name of an image and is none."""
    random = np.random.default_rng(seed)
    bodies = {
        "page.jpg": b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body/></html>\n",
        "denied.png": b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
        "answer.jpeg": json.dumps({"message": "rate limit", "status": 429}).encode(),
        "list.webp": b"path,label\na.jpg,1\n" * 1000,
        "text.gif": "ein Bild, das keines ist\n".encode("utf-16"),
        "letters.bmp": b"BMW is no bitmap, but begins like one " * 9,
        "zeros.jpg": bytes(1_000_000),
        "ones.png": b"\xff" * 1_000_000,
        "noise.jpg": b"\x01" + random.bytes(1_000_000),
        "archive.png": b"PK\x03\x04" + random.bytes(5000),
        "film.jpg": b"\0\0\0\x20ftypisom" + random.bytes(5000),
        "sound.webp": b"RIFF\x24\0\0\0WAVEfmt " + random.bytes(5000),
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
    }
    for name, body in bodies.items():
        yield Case(name, body, NO_IMAGE)
    for name, kind, body in (
        ("drawing.png", "SVG", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("paper.jpg", "PDF", b"%PDF-1.7\n" + random.bytes(5000)),
        ("phone.jpg", "HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + random.bytes(5000)),
    ):
        yield Case(name, body, f"format {kind} is not supported")
    for name, start in (("jpeg", b"\xff\xd8\xff\xe0"), ("PNG", _PNG), ("WebP", b"RIFF\xff\xff\xff\x7fWEBPVP8 ")):
        yield Case(f"only the start of a {name}", start, "truncated or damaged")
        yield Case(f"noise that starts like a {name}", start + random.bytes(100_000), "truncated or damaged")


def shapes() -> Iterator[Case]:
    """The smallest, the longest and the empty."""
    for name in ("JPEG", "PNG", "GIF", "WebP", "BMP", "TIFF"):
        yield Case(f"one pixel.{name}", encoded(Image.new("RGB", (1, 1), "red"), name.upper()))
    for width, height in ((1, 30000), (30000, 1), (2, 30000), (30000, 2), (1, MAX_PIXELS), (MAX_PIXELS, 1)):
        yield Case(f"{width}x{height}.png", black_png(width, height))
        if max(width, height) <= 65500:
            yield Case(f"{width}x{height}.jpg", encoded(Image.new("RGB", (width, height)), "JPEG"))
    for width, height in ((0, 0), (0, 5), (5, 0)):
        yield Case(f"{width}x{height}.png", black_png(width, height), "truncated or damaged PNG")
    yield Case("0x0.jpg", of_jpeg_size(encoded(photo(0), "JPEG"), 0, 0), "truncated or damaged JPEG")


def bombs() -> Iterator[Case]:
    """Small files that ask for much memory or much time."""
    small, png = encoded(photo(1), "JPEG"), encoded(photo(1), "PNG")
    yield Case("30000x30000.png", black_png(30000, 30000), TOO_MANY)
    yield Case("5000x4001.png", black_png(5000, 4001), TOO_MANY + f"5000 x 4001 > {MAX_PIXELS}")
    yield Case("65535x65535.jpg", of_jpeg_size(small, 65535, 65535), TOO_MANY)
    gif = encoded(photo(1), "GIF")
    yield Case("65535x65535.gif", gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:], TOO_MANY)
    bmp = encoded(photo(1), "BMP")
    yield Case("65535x65535.bmp", bmp[:18] + struct.pack("<II", 65535, 65535) + bmp[26:], TOO_MANY)
    yield Case("99999x99999.ppm", b"P6 99999 99999 255\n", TOO_MANY)
    at = {"entry": 8 + 2 + 12 * 8 + 4, "tile": 8 + 2 + 12 * 10 + 4}
    grey = zeros(900_000_000)
    strips = {273: at["entry"], 279: len(grey)}
    yield Case("30000x30000.tif", tiff(30000, 30000, strips, grey), TOO_MANY)
    tiles = {322: 30000, 323: 30000, 324: at["tile"], 325: len(grey)}
    yield Case("64x64 in a tile of 30000x30000.tif", tiff(64, 64, tiles, grey), TOO_MANY + "tiles of 30000 x 30000")
    yield Case("claims 4000x4000.jpg", of_jpeg_size(small, 4000, 4000), "truncated or damaged JPEG", either=True)
    gigabyte = zeros(1 << 30)
    yield Case("zTXt of a gigabyte.png", with_chunk(png, chunk(b"zTXt", b"a\0\0" + gigabyte)))
    yield Case("iTXt of a gigabyte.png", with_chunk(png, chunk(b"iTXt", b"a\0\1\0\0\0" + gigabyte)))
    yield Case("iCCP of a gigabyte.png", with_chunk(png, chunk(b"iCCP", b"a\0\0" + gigabyte)))
    yield Case("60 texts of a megabyte.png", with_chunk(png, chunk(b"zTXt", b"a\0\0" + zeros(1 << 20)) * 60))
    progressive = encoded(Image.new("L", LARGE), "JPEG", progressive=True)
    scan = b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0"
    yield Case("100000 scans.jpg", progressive[:-2] + scan * 100_000 + progressive[-2:], "too many scans")
    yield Case("spaces.pgm", b"P5" + b" " * 500 + b"#\r2 2 65535 " + bytes(8))
    yield Case("chunks.png", with_chunk(png, chunk(b"tEXt", b"a\0b") * 50_000))
    yield Case("fill bytes.jpg", small[:2] + b"\xff" * 2_000_000 + small[2:])


def kinds(seed: int) -> Iterator[Case]:
    """Whole pictures of every mode and of many frames."""
    picture, random = photo(seed), np.random.default_rng(seed)
    deep = random.integers(0, 65536, (50, 60), dtype=np.uint16)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield Case(f"{mode.replace(';', '')}.png", encoded(_of_mode(picture, mode, deep), "PNG"))
    for mode in ("L", "CMYK", "YCbCr"):
        yield Case(f"{mode}.jpg", encoded(picture.convert(mode), "JPEG"))
    for mode in ("1", "L", "P", "RGBA", "CMYK", "I;16", "I", "F"):
        yield Case(f"{mode.replace(';', '')}.tif", encoded(_of_mode(picture, mode, deep), "TIFF"))
    for kind in (RGB, GREY_ALPHA, RGBA):
        yield Case(f"16 bits of kind {kind}.png", black_png(60, 50, kind, 16))
    yield Case("16 bits with a key.png", black_png(60, 50, RGB, 16, chunk(b"tRNS", bytes(6))))
    yield Case("16 bits of which 255 count.png", black_png(60, 50, GREY, 16, chunk(b"sBIT", b"\xff")))
    yield Case("16 bits of which none counts.png", black_png(60, 50, GREY, 16, chunk(b"sBIT", b"\0")))
    yield Case("not a number.tif", encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"))
    frames = [photo(seed + shift).convert("P") for shift in range(5)]
    for name in ("GIF", "PNG", "WebP", "TIFF"):
        yield Case(f"5 frames.{name}", encoded(frames[0], name.upper(), save_all=True, append_images=frames[1:]))
    at = (jpeg := encoded(picture, "JPEG")).index(b"\xff\xc0")
    yield Case(
        "12 bits.jpg", jpeg[: at + 4] + b"\x0c" + jpeg[at + 5 :], "unsupported kind of JPEG: 12 bits", either=True
    )
    yield Case("arithmetic.jpg", jpeg[: at + 1] + b"\xc9" + jpeg[at + 2 :], "unsupported kind of JPEG", either=True)
    if features.check("avif"):
        yield Case("picture.avif", encoded(picture, "AVIF", speed=10))
    yield Case("picture.jp2", encoded(picture, "JPEG2000"))


def _of_mode(picture: Image.Image, mode: str, deep: NDArray[np.uint16]) -> Image.Image:
    types = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    return Image.fromarray(deep.astype(types[mode])) if mode in types else picture.convert(mode)


def metadata(seed: int) -> Iterator[Case]:
    """Pictures that are whole, with much or broken text, profiles and EXIF beside them."""
    picture, random = photo(seed), np.random.default_rng(seed)
    jpeg, png, full = encoded(picture, "JPEG"), encoded(picture, "PNG"), random.bytes(65_000)
    yield Case("6 MB of comments.jpg", with_segments(jpeg, *[b"\xff\xfe" + full] * 100))
    yield Case("13 MB of EXIF.jpg", with_segments(jpeg, *[b"\xff\xe1Exif\0\0" + full] * 200))
    yield Case("8 MB of profile.jpg", encoded(picture, "JPEG", icc_profile=random.bytes(8_000_000)))
    yield Case("a profile that says nothing.jpg", encoded(picture, "JPEG", icc_profile=b"nothing"))
    yield Case("32 MB of text.png", with_chunk(png, chunk(b"tEXt", b"a\0" + random.bytes(32_000_000))))
    yield Case("a bad sum of text.png", with_chunk(png, chunk(b"tEXt", b"a\0b")[:-1] + b"\0"))
    for name in ("JPEG", "PNG", "WebP"):
        for value in (*range(1, 9), 0, 77):
            exif = Image.Exif()
            exif[0x0112] = value
            yield Case(f"orientation {value}.{name}", encoded(picture, name.upper(), exif=exif))
    loop = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    yield Case("EXIF that goes in a circle.jpg", encoded(picture, "JPEG", exif=loop))
    many = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 3, 0xFFFFFFFF, 8)
    yield Case("EXIF of 4 billion orientations.jpg", encoded(picture, "JPEG", exif=many))
    yield Case("a film behind the picture.jpg", jpeg + b"\0\0\0\x20ftypisom" + random.bytes(3_000_000))
    yield Case("a line before the picture.jpg", b"\n" + jpeg, NO_IMAGE)


def misnamed(seed: int) -> Iterator[Case]:
    """Pictures under the names of others, and under names that are hard to write."""
    names = {"PNG": "a PNG.jpg", "JPEG": "a JPEG.png", "GIF": "a GIF.JPEG", "WebP": "a WebP.txt", "TIFF": "no ending"}
    for format_name, name in names.items():
        yield Case(name, encoded(photo(seed), format_name.upper()))
    for name in ("Bäume & 木.jpg", "100% #1?.jpg", "a=b.jpg", "'quoted'.jpg", "many.dots.in.a.name.jpg"):
        yield Case(name, encoded(photo(seed), "JPEG"))


def large() -> dict[str, bytes]:
    """Pictures of MAX_PIXELS in the formats, modes and shapes that need the most memory while they are decoded or resized."""
    colour, key = Image.new("RGB", LARGE, "teal"), chunk(b"tRNS", bytes(6))
    return {
        "RGB.jpg": encoded(colour, "JPEG"),
        "turned.jpg": encoded(
            colour, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + bytes(4)
        ),
        "progressive.jpg": encoded(colour, "JPEG", progressive=True),
        "RGB.png": black_png(*LARGE),
        "RGBA.png": black_png(*LARGE, RGBA),
        "strip.png": black_png(69_800, 286),
        "grey of 16 bits.png": black_png(*LARGE, GREY, 16),
        "16 bits with a key.png": black_png(*LARGE, RGB, 16, key),
        "P.gif": encoded(Image.new("P", LARGE), "GIF"),
        "F.tif": encoded(Image.new("F", LARGE), "TIFF", compression="tiff_adobe_deflate"),
        "progressive CMYK.jpg": encoded(Image.new("CMYK", LARGE), "JPEG", progressive=True),
        "RGBA.webp": encoded(Image.new("RGBA", LARGE), "WEBP"),
        "RGB.jp2": encoded(colour, "JPEG2000"),
    }
