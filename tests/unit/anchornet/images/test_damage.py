"""What is damaged, truncated or unusual about a file, and what is only text beside the pixels."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

from anchornet.images.decode import ImageError, decode, read_picture
from anchornet.images.formats import bare_png, unusual_jpeg

ROOT = Path(__file__).resolve().parents[4]
CASES = Path(os.environ.get("ANCHORNET_SHARED_DATA", ROOT.parent / "shared" / "data")) / "cases"
RNG = np.random.default_rng(7)
PICTURE = RNG.integers(0, 256, (64, 48, 3), dtype=np.uint8)


def encoded(pixels: NDArray[np.uint8], format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_name, **options)
    return file.getvalue()


def chunk(name: bytes, body: bytes, *, whole: bool = True) -> bytes:
    check = zlib.crc32(name + body) ^ (0 if whole else 1)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)


def with_chunk(data: bytes, extra: bytes, before: bytes = b"IDAT") -> bytes:
    at = data.index(before) - 4
    return data[:at] + extra + data[at:]


BOMB = zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1))


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"parameters\0\0" + BOMB),
        chunk(b"iTXt", b"parameters\0\1\0\0\0" + BOMB),
        chunk(b"tEXt", b"parameters\0" + b"x" * 100, whole=False),
        chunk(b"iCCP", b"profile\0\1" + b"not zero"),
        chunk(b"gAMA", b""),
        chunk(b"pHYs", b"\0"),
        b"".join(chunk(b"tEXt", b"a%d\0" % n + bytes(3 * 2**20)) for n in range(22)),  # more than Pillow's 64 MB in all
    ],
    ids=["zTXt", "iTXt", "wrong sum", "profile", "gamma", "size", "much text"],
)
def test_what_stands_beside_the_pixels_of_a_png_does_not_make_it_damaged(extra: bytes, before: bytes) -> None:
    np.testing.assert_array_equal(decode(with_chunk(encoded(PICTURE, "PNG"), extra, before)), PICTURE)


@pytest.mark.parametrize("whole", [True, False])
def test_a_png_read_without_its_text_keeps_its_orientation_if_that_is_whole(whole: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    orientation = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"), whole=whole)
    data = with_chunk(encoded(PICTURE, "PNG"), orientation + chunk(b"zTXt", b"a\0\0" + BOMB))
    np.testing.assert_array_equal(decode(data), PICTURE[::-1, ::-1] if whole else PICTURE)


def test_damaged_pixels_are_damaged_whatever_stands_beside_them() -> None:
    data = with_chunk(encoded(PICTURE, "PNG"), chunk(b"zTXt", b"a\0\0" + BOMB))
    at = data.index(b"IDAT") + 100
    with pytest.raises(ImageError, match=r"^truncated or damaged PNG$"):
        decode(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])


def test_the_bare_png_has_every_chunk_of_the_pixels() -> None:
    data = encoded(PICTURE, "PNG")
    assert bare_png(with_chunk(data, chunk(b"tEXt", b"a\0b"))) == bare_png(data)
    palette = Image.fromarray(PICTURE).quantize(8)
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=3)
    assert bare_png(file.getvalue()) == file.getvalue()
    assert bare_png(data[:-3])[-9:] == data[:-3][-9:]


def jpeg_header(marker: int, precision: int) -> bytes:
    frame = struct.pack(">BHHB", precision, 8, 8, 1) + b"\1\x11\0"
    extra = b"\xff\xe0\0\x04ab" + b"\xff" * 3 + b"\xff\xc4\0\x03\0"
    return b"\xff\xd8" + extra + struct.pack(">BBH", 255, marker, len(frame) + 2) + frame + b"\xff\xda\0\x02"


@pytest.mark.parametrize(
    ("marker", "precision", "kind"),
    [
        (0xC0, 8, None),
        (0xC2, 8, None),
        (0xC1, 12, "12 bits per sample"),
        (0xC3, 8, "lossless"),
        (0xC5, 8, "hierarchical"),
        (0xC9, 8, "arithmetic coding"),
        (0xF7, 8, "JPEG-LS"),
    ],
)
def test_a_kind_of_jpeg_is_known_by_its_frame(marker: int, precision: int, kind: str | None) -> None:
    assert unusual_jpeg(jpeg_header(marker, precision)) == kind


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff", b"\xff\xd8\xff\xda\0\x02", b"\xff\xd8\xff\xe0\xff\xff", b"\xff\xd8ab"]
)
def test_a_jpeg_without_a_frame_is_of_no_kind(data: bytes) -> None:
    assert unusual_jpeg(data) is None


def test_a_jpeg_of_12_bits_is_called_unsupported_and_not_damaged() -> None:
    data = encoded(PICTURE, "JPEG")
    at = data.index(b"\xff\xc0") + 4
    with pytest.raises(ImageError, match=r"^unsupported kind of JPEG: 12 bits per sample$"):
        decode(data[:at] + b"\x0c" + data[at + 1 :])


def changed(tiff: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag that holds one short."""
    entry = struct.pack("<HHI", tag, 3, 1)
    assert tiff.count(entry) == 1
    at = tiff.index(entry) + len(entry)
    return tiff[:at] + struct.pack("<HH", value, 0) + tiff[at + 4 :]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("tag", "value", "kind"),
    [
        (258, 64, "64 bits per sample, photometric 1, compression 1"),
        (259, 50001, "8 bits per sample, photometric 1, compression 50001"),
        (262, 32803, "8 bits per sample, photometric 32803, compression 1"),
    ],
)
def test_a_whole_tiff_of_a_kind_that_is_not_read_is_called_so(tag: int, value: int, kind: str, big: bool) -> None:
    file = io.BytesIO()
    Image.fromarray(PICTURE[..., 0]).save(file, "TIFF", big_tiff=big)
    data = file.getvalue()
    if big and data[2:4] != b"+\0":
        pytest.skip("this Pillow writes no BigTIFF")
    if big:  # its counts have 8 bytes
        entry = struct.pack("<HHQ", tag, 3, 1)
        at = data.index(entry) + len(entry)
        data = data[:at] + struct.pack("<Q", value) + data[at + 8 :]
    else:
        data = changed(data, tag, value)
    with pytest.raises(ImageError, match=rf"^unsupported kind of TIFF: {kind}$"):
        decode(data)


@pytest.mark.parametrize("data", [b"II*\0", b"MM\0*\0\0\0\x08\0\0", b"II*\0\xff\xff\xff\xff"])
def test_a_tiff_without_pixels_is_damaged(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"^truncated or damaged TIFF$"):
        decode(data)


def test_a_bmp_of_a_kind_that_is_not_read_is_called_so() -> None:
    data = encoded(PICTURE, "BMP")
    with pytest.raises(ImageError, match=r"^unsupported kind of BMP: pixel depth \(2\)$"):
        decode(data[:28] + b"\2\0" + data[30:])


TRUNCATED = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("TIFF", {}),
]


@pytest.mark.parametrize(("format_name", "options"), TRUNCATED)
def test_a_file_without_its_tail_is_accepted_when_that_was_set(format_name: str, options: dict[str, object]) -> None:
    data = encoded(PICTURE, format_name, **options)
    whole, part = decode(data), data[: int(len(data) * 0.8)]
    with pytest.raises(ImageError, match=rf"^truncated or damaged {format_name}$"):
        decode(part)
    rgb, note = read_picture(part, accept_truncated=True)
    assert note == f"truncated {format_name}: its tail is missing"
    assert rgb.shape == whole.shape
    if not options:
        first, last = (slice(-16, None), slice(0, 16)) if format_name == "BMP" else (slice(0, 16), slice(-4, None))
        np.testing.assert_array_equal(rgb[first], whole[first])
        assert not (rgb[last] == whole[last]).all()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_jpeg_that_lacks_only_its_end_marker_has_all_its_pixels() -> None:
    data = encoded(PICTURE, "JPEG")
    rgb, note = read_picture(data[:-2], accept_truncated=True)
    np.testing.assert_array_equal(rgb, decode(data))
    assert note == "truncated JPEG: its tail is missing"


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_a_whole_file_gives_the_same_pixels_whether_truncated_ones_are_accepted(format_name: str) -> None:
    data = encoded(PICTURE, format_name)
    rgb, note = read_picture(data, accept_truncated=True)
    np.testing.assert_array_equal(rgb, decode(data))
    assert note is None


@pytest.mark.parametrize(("format_name", "name"), [("JPEG", "JPEG"), ("PNG", "PNG"), ("BMP", "BMP"), ("WEBP", "WebP")])
def test_a_file_of_which_no_pixel_is_there_is_refused_all_the_same(format_name: str, name: str) -> None:
    data = encoded(PICTURE, format_name)
    end = {"JPEG": data.find(b"\xff\xda") + 14, "PNG": data.find(b"IDAT") + 4}.get(format_name, 54)
    with pytest.raises(ImageError, match=rf"^truncated or damaged {name}$"):
        read_picture(data[:end], accept_truncated=True)


def test_a_hole_in_the_middle_is_no_missing_tail() -> None:
    data = encoded(PICTURE, "PNG")
    at = data.index(b"IDAT") + 1000
    with pytest.raises(ImageError, match=r"^truncated or damaged PNG$"):
        read_picture(data[:at] + bytes(50) + data[at + 50 :], accept_truncated=True)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_the_size_is_checked_of_truncated_files_too(format_name: str) -> None:
    data = encoded(PICTURE, format_name)
    with pytest.raises(ImageError, match=r"^too many pixels: 48 x 64 > 100$"):
        read_picture(data[:-200], 100, accept_truncated=True)


def test_the_thumbnail_of_a_raw_file_is_not_taken_for_the_photograph() -> None:
    tiff = encoded(PICTURE, "TIFF")
    with pytest.raises(ImageError, match=r"^format camera raw is not supported"):
        decode(tagged(tiff, 50706))


def tagged(tiff: bytes, tag: int) -> bytes:
    """A TIFF whose PlanarConfiguration, which may be left out, is another tag."""
    entry = struct.pack("<HHI", 284, 3, 1)
    assert tiff.count(entry) == 1
    return tiff.replace(entry, struct.pack("<HHI", tag, 3, 1))


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not there")
def test_the_cases_that_people_stumbled_over() -> None:
    grey = decode((CASES / "grey12in16.png").read_bytes())
    assert grey.max() == 255
    with pytest.raises(ImageError, match=r"^unsupported kind of JPEG: 12 bits per sample$"):
        decode((CASES / "jpeg_precision12.jpg").read_bytes())
    cut = (CASES / "truncated_two_bytes.jpg").read_bytes()
    with pytest.raises(ImageError, match=r"^truncated or damaged JPEG$"):
        decode(cut)
    rgb, note = read_picture(cut, accept_truncated=True)
    np.testing.assert_array_equal(rgb, decode(cut + b"\xff\xd9"))
    assert note == "truncated JPEG: its tail is missing"


def test_reading_pictures_needs_no_torch() -> None:
    program = "import anchornet.images.decode, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
