"""Grey of more than 8 bits and transparency of more than 8 bits come out as bright as they are, never near-black."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from anchornet.images.colours import eight_bits, full_scale
from anchornet.images.decode import decode


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(kind: int, depth: int, rows: bytes, size: tuple[int, int], *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def png16(samples: NDArray[np.uint16], kind: int, *extra: bytes) -> bytes:
    """One row of 16-bit samples (W,) or (W, C)."""
    return png(kind, 16, b"\0" + samples.astype(">u2").tobytes(), (len(samples), 1), *extra)


def grey_of(data: bytes) -> list[int]:
    """The first row; the three channels must be equal."""
    rgb = decode(data)
    assert (np.ptp(rgb, axis=2) == 0).all()
    return [int(value) for value in rgb[0, :, 0]]


def ramp(*values: int) -> NDArray[np.uint16]:
    return np.array(values, np.uint16)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 2048, 4095), [0, 128, 255]),  # 12 bits in 16
        ((0, 512, 1023), [0, 128, 255]),  # 10
        ((0, 8192, 16383), [0, 128, 255]),  # 14
        ((0, 128, 255), [0, 128, 255]),  # 8
        ((0, 1, 3), [0, 85, 255]),  # 2: a map of classes
        ((0, 1100), [0, 68]),  # of 12 bits, and dark
        ((0, 255, 256, 32768, 65535), [0, 0, 1, 128, 255]),
        ((0, 0), [0, 0]),
    ],
)
def test_grey_of_16_bits_is_scaled_by_the_bits_it_uses(values: tuple[int, ...], expected: list[int]) -> None:
    assert grey_of(png16(ramp(*values), 0)) == expected
    assert grey_of(encoded(Image.fromarray(ramp(*values)[None]), "TIFF")) == expected


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_no_grey_of_whole_numbers_is_near_black_or_changes_its_order(values: list[int]) -> None:
    out = eight_bits(np.array(values), None)
    assert out.max() >= 64 or max(values) == 0
    order = np.argsort(values, kind="stable")
    assert (np.diff(out[order].astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("highest", "stated", "scale"),
    [
        *((0, None, 1), (255, None, 255), (256, None, 1023), (1024, None, 4095), (4096, None, 16383)),
        *((16384, None, 65535), (65536, None, 2**17 - 1)),
        *((1000, 4095, 4095), (4096, 4095, 16383), (1000, 65535, 65535)),
    ],
)
def test_what_the_file_states_holds_unless_a_value_is_higher(highest: int, stated: int | None, scale: int) -> None:
    assert full_scale(highest, stated) == scale


def test_a_png_that_states_its_significant_bits_is_scaled_by_them() -> None:
    assert grey_of(png16(ramp(0, 1000), 0, chunk(b"sBIT", b"\x0c"))) == [0, 62]
    assert grey_of(png16(ramp(0, 1000), 0)) == [0, 250]


def test_a_tiff_that_states_its_highest_value_is_scaled_by_it() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 3000
    assert grey_of(encoded(Image.fromarray(ramp(0, 1500, 3000)[None]), "TIFF", tiffinfo=tags)) == [0, 128, 255]


def test_a_tiff_whose_zero_is_white_is_turned_around() -> None:
    data = encoded(Image.fromarray(ramp(0, 65535)[None]), "TIFF")
    entry = struct.pack("<HHI", 262, 3, 1)  # PhotometricInterpretation, one short
    at = data.index(entry) + len(entry)
    assert grey_of(data) == [0, 255]
    assert grey_of(data[:at] + b"\0\0" + data[at + 2 :]) == [255, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"P2\n3 1\n4095\n0 1000 4095\n", [0, 62, 255]),
        (b"P2\n# of a camera\n2 1 # wide\n1023\n0 500\n", [0, 125]),
        (b"P2\n3 1\n65535\n0 2048 4095\n", [0, 128, 255]),
    ],
)
def test_a_pgm_is_scaled_by_its_maximum_and_one_of_16_bits_by_what_it_uses(text: bytes, expected: list[int]) -> None:
    assert grey_of(text) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.0, 0.5, 1.0), [0, 128, 255]),
        ((0.0, 0.25), [0, 255]),
        ((0.0, 0.4), [0, 102]),
        ((0.0, 0.1), [0, 255]),
        ((0.0, 100.0, 200.0), [0, 100, 200]),
        ((0.0, 1e6), [0, 255]),
        ((-1.0, 0.0, 1.0), [0, 128, 255]),
        ((float("nan"), float("inf"), 1.0), [0, 0, 255]),
        ((0.0, 0.0), [0, 0]),
    ],
)
def test_fractions_have_the_usual_scales_or_their_own(values: tuple[float, ...], expected: list[int]) -> None:
    assert grey_of(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")) == expected


def test_negative_whole_numbers_are_spread_over_the_range() -> None:
    signed = Image.fromarray(np.array([[-1000, 0, 1000]], np.int32))
    assert grey_of(encoded(signed, "TIFF")) == [0, 128, 255]


def test_transparent_grey_of_16_bits_lies_over_white_and_does_not_count() -> None:
    key = chunk(b"tRNS", struct.pack(">H", 65535))
    assert grey_of(png16(ramp(0, 2048, 4095, 65535), 0, key)) == [0, 128, 255, 255]
    assert grey_of(png16(ramp(0, 256, 65535), 0, chunk(b"tRNS", struct.pack(">H", 256)))) == [0, 255, 255]


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_colour_of_16_bits_is_transparent_if_it_is_the_key_to_the_last_bit(interlaced: bool) -> None:
    colours = np.array([[0, 0, 0], [0, 0, 1], [0x00FF, 0, 0], [0x0100, 0, 0]], np.uint16)
    data = png16(colours, 2, chunk(b"tRNS", bytes(6)))
    if interlaced:  # a picture of one row and four columns: passes 1, 4 and 6 hold columns 0, 2 and 1 with 3
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 16, 2, 0, 0, 1))
        passes = b"".join(b"\0" + colours[columns].astype(">u2").tobytes() for columns in ([0], [2], [1, 3]))
        data = (
            data[:8] + header + chunk(b"tRNS", bytes(6)) + chunk(b"IDAT", zlib.compress(passes)) + chunk(b"IEND", b"")
        )
    assert decode(data)[0].tolist() == [[255, 255, 255], [0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_transparent_colour_of_16_bits_lies_over_white() -> None:
    colours = np.array([[0x1234, 0x5678, 0x9ABC], [0x1000, 0x2000, 0x3000]], np.uint16)
    data = png16(colours, 2, chunk(b"tRNS", struct.pack(">HHH", *(int(value) for value in colours[0]))))
    assert decode(data)[0].tolist() == [[255, 255, 255], [0x10, 0x20, 0x30]]
    with_alpha = np.array([[0, 0, 0, 0], [0, 0, 0, 65535], [0, 0, 0, 32768]], np.uint16)
    assert decode(png16(with_alpha, 6))[0, :, 0].tolist() == [255, 0, 127]


@pytest.mark.parametrize(("depth", "row", "key"), [(1, b"\x40", 0), (2, b"\x30", 0), (4, b"\x0f", 0)])
def test_transparent_grey_of_few_bits_lies_over_white(depth: int, row: bytes, key: int) -> None:
    assert grey_of(png(0, depth, b"\0" + row, (2, 1), chunk(b"tRNS", struct.pack(">H", key)))) == [255, 255]


@pytest.mark.parametrize(("depth", "row", "key"), [(2, b"\x60", 2), (4, b"\x3c", 12)])
def test_a_transparent_grey_of_few_bits_is_that_grey_and_no_other(depth: int, row: bytes, key: int) -> None:
    data = png(0, depth, b"\0" + row, (2, 1), chunk(b"tRNS", struct.pack(">H", key)))
    assert grey_of(data) == [{2: 85, 4: 51}[depth], 255]
