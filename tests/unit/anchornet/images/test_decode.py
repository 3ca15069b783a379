"""Every mode and every refusal of anchornet.images.decode, on files that Pillow writes here."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, features
from torchvision import transforms

from anchornet.images import formats
from anchornet.images.decode import ImageError, decode, read_picture
from anchornet.images.formats import READ
from anchornet.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from anchornet.images.tensors import normalise, shrink

RNG = np.random.default_rng(5)


def smooth(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    """A photograph-like picture that a JPEG keeps within a few grey levels."""
    small = Image.fromarray(RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def png(kind: int, depth: int, rows: bytes, size: tuple[int, int], *, extra: bytes = b"") -> bytes:
    """A PNG written by hand, for modes that Pillow reads and cannot write. rows: each with its filter byte."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png16(samples: NDArray[np.uint16], kind: int) -> bytes:
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(kind, 16, rows, (width, height))


@pytest.mark.parametrize(
    ("format_name", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("PNG", {"optimize": True})]
)
def test_lossless_rgb_comes_back_exactly(format_name: str, options: dict[str, object]) -> None:
    rgb = smooth()
    out = decode(encoded(Image.fromarray(rgb), format_name, **options))
    assert out.dtype == np.uint8
    assert out.flags.writeable
    np.testing.assert_array_equal(out, rgb)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_is_close_and_equal_to_pillow(options: dict[str, object]) -> None:
    data = encoded(Image.fromarray(smooth()), "JPEG", quality=95, **options)
    np.testing.assert_array_equal(decode(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_grey_has_three_equal_channels(format_name: str) -> None:
    grey = smooth()[..., 0]
    out = decode(encoded(Image.fromarray(grey), format_name))
    assert out.shape == (40, 60, 3)
    assert np.ptp(out.astype(int), axis=2).max() <= 1
    assert np.abs(out[..., 0].astype(int) - grey).mean() < 8


@pytest.mark.parametrize("marked", [False, True])
def test_cmyk_jpeg_keeps_its_colours(marked: bool) -> None:
    """Adobe stores CMYK upside down, and so does Pillow; a file without Adobe's marker is taken to be the same."""
    rgb = np.full((32, 32, 3), (200, 60, 20), np.uint8)
    data = encoded(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=95)
    if not marked:
        start = data.index(b"Adobe") - 4
        data = data[:start] + data[start + 16 :]
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(decode(data).astype(int) - rgb).max() <= 6


def test_palette_one_bit_and_four_bit_grey() -> None:
    rgb = np.repeat(np.array([[[255, 0, 0], [0, 128, 255]]], np.uint8), 5, axis=0)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgb).quantize(4), "PNG")), rgb)
    bits = Image.fromarray(np.array([[0, 255, 0], [255, 0, 0]], np.uint8)).convert("1")
    assert decode(encoded(bits, "PNG"))[..., 1].tolist() == [[0, 255, 0], [255, 0, 0]]
    assert decode(png(0, 4, b"\0\x0f", (2, 1)))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(("mode", "format_name"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("LA", "PNG")])
def test_alpha_is_laid_over_white(mode: str, format_name: str) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 3] = np.repeat([0, 255, 128, 51], 2)
    options = {"lossless": True, "exact": True} if format_name == "WEBP" else {}
    out = decode(encoded(Image.fromarray(pixels).convert(mode), format_name, **options))
    np.testing.assert_allclose(out[0, ::2, 0], [255, 0, 127, 204], atol=1)


def test_transparent_palette_entry_and_colour_key_are_laid_over_white() -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert decode(encoded(palette, "PNG", transparency=0))[0].tolist() == [[255, 255, 255], [40, 50, 60]]
    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode(encoded(keyed, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_sixteen_bits_keep_their_high_byte_in_grey_and_colour() -> None:
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    expected = [0, 0, 1, 128, 255]
    assert decode(png16(grey, 0))[0, :, 0].tolist() == expected
    assert decode(png16(np.repeat(grey[..., None], 3, 2), 2))[0, :, 1].tolist() == expected
    opaque = np.stack([grey, np.full_like(grey, 65535)], 2)
    assert decode(png16(opaque, 4))[0, :, 2].tolist() == expected
    assert decode(encoded(Image.fromarray(grey), "PNG"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, format_name: str) -> None:
    upright = smooth(30, 44)
    stored = {  # what a camera held in this orientation stores
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}}[format_name]
    out = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), format_name, exif=exif, **options))
    assert out.shape == upright.shape
    assert np.abs(out.astype(int) - upright).max() <= (12 if format_name == "JPEG" else 0)


@pytest.mark.parametrize("value", [0, 9, 4711])
def test_foreign_orientation_counts_as_upright(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert decode(encoded(Image.fromarray(smooth()), "PNG", exif=exif)).shape == (40, 60, 3)


def test_damaged_exif_counts_as_upright() -> None:
    data = encoded(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff")
    assert decode(data).shape == (40, 60, 3)


def _pillow_reads(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "MPO"])
def test_first_frame_of_an_animation(format_name: str) -> None:
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encoded(frames[0], format_name, save_all=True, append_images=frames[1:], **options)
    if format_name == "MPO" and not _pillow_reads(data):
        pytest.skip("this Pillow writes MPO files that no Pillow can read")
    out = decode(data)
    np.testing.assert_allclose(out[8, 12], (255, 0, 0), atol=2)


@pytest.mark.parametrize("format_name", ["GIF", "TIFF", "AVIF"])
def test_first_frame_of_other_formats(format_name: str) -> None:
    if format_name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "blue", "lime")]
    out = decode(encoded(frames[0], format_name, save_all=True, append_images=frames[1:]))
    assert out.shape == (16, 24, 3)
    np.testing.assert_allclose(out[8, 12], (255, 0, 0), atol=2)


@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"big_tiff": True}),
        ("PPM", {}),
        ("JPEG2000", {"irreversible": False}),
        ("JPEG2000", {"irreversible": False, "no_jp2": True}),
    ],
)
def test_lossless_formats_come_back_exactly(format_name: str, options: dict[str, object]) -> None:
    rgb = smooth()
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgb), format_name, **options)), rgb)


def test_gif_and_avif_come_back_nearly() -> None:
    rgb = np.repeat(np.array([[[255, 0, 0], [0, 128, 255]]], np.uint8), 5, axis=0)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgb).quantize(4), "GIF")), rgb)
    if features.check("avif"):
        rgb = smooth()
        assert np.abs(decode(encoded(Image.fromarray(rgb), "AVIF", quality=95)).astype(int) - rgb).mean() < 3


@pytest.mark.parametrize(
    ("format_name", "name"), [("ICO", "ICO"), ("PDF", "PDF"), ("EPS", "PostScript"), ("DDS", "DDS")]
)
def test_foreign_formats_are_named(format_name: str, name: str) -> None:
    with pytest.raises(ImageError, match=rf"^format {name} is not supported \({READ}\)$"):
        decode(encoded(Image.fromarray(smooth()), format_name))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1miafheic", "HEIC"),
        (b"\0\0\0\x14ftypmsf1\0\0\0\0", "HEIC"),
        (b"P7\nWIDTH 1\n", "PAM"),
        (b"\xff\x0a\0\0", "JPEG XL"),
    ],
)
def test_foreign_formats_are_known_by_their_first_bytes(data: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=rf"^format {name} is not supported"):
        decode(data)


@pytest.mark.parametrize("brands", [b"avif\0\0\0\0", b"mif1\0\0\0\0miafavif", b"miaf\0\0\0\0mif1avis"])
def test_avif_is_known_by_any_of_its_brands(brands: bytes) -> None:
    with pytest.raises(ImageError, match=r"AVIF"):
        decode(struct.pack(">I", len(brands) + 8) + b"ftyp" + brands)


def test_a_format_that_this_pillow_was_built_without_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: feature != "webp")
    formats._is_read.cache_clear()
    try:
        with pytest.raises(
            ImageError, match=r"^format WebP is not read by the installed Pillow; install one that has it"
        ):
            decode(SEEDS[2])
    finally:
        formats._is_read.cache_clear()


@pytest.mark.parametrize("data", [b"<svg xmlns='x'/>", b"\xef\xbb\xbf\n<?xml version='1.0'?>\n<!-- a -->\n<svg/>"])
def test_svg_is_named(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"^format SVG is not supported"):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"a label,a path\n",
        b"<html>404</html>",
        bytes(64),
        b"\xff\xd8",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"BMW,1\nAUDI,2\nFIAT,3\n",
        b"P5,P6\n1,2\n",
        b"GIFTS\n",
    ],
)
def test_other_bytes_are_no_image(data: bytes) -> None:
    with pytest.raises(ImageError, match=rf"^not an image \({READ}\)$"):
        decode(data)


def test_a_git_lfs_pointer_is_called_so() -> None:
    with pytest.raises(ImageError, match=r"^not an image but a Git LFS pointer; fetch the files with git lfs pull$"):
        decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")


def test_no_bytes_are_an_empty_file() -> None:
    with pytest.raises(ImageError, match=r"^empty file$"):
        decode(b"")


@pytest.mark.parametrize("kept_fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "PPM"])
def test_truncated_files_are_refused(name: str, kept_fraction: float) -> None:
    data = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), name.upper())
    with pytest.raises(ImageError, match=rf"^truncated or damaged {name}$"):
        decode(data[: int(len(data) * kept_fraction)])


def test_bare_headers_and_empty_sides_are_refused() -> None:
    for data, name in [(b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"RIFF\0\0\0\0WEBP", "WebP")]:
        with pytest.raises(ImageError, match=rf"^truncated or damaged {name}$"):
            decode(data)
    with pytest.raises(ImageError, match=r"^truncated or damaged PNG$"):
        decode(png(2, 8, b"\0", (0, 1)))


def test_pixel_limit_is_checked_before_decoding() -> None:
    data = encoded(Image.fromarray(smooth()), "PNG")
    assert decode(data, max_pixels=2400).shape == (40, 60, 3)
    with pytest.raises(ImageError, match=r"^too many pixels: 60 x 40 > 2399$"):
        decode(data, max_pixels=2399)
    with pytest.raises(
        ImageError, match=r"^too many pixels: 10000 x 8001 > 80000000$"
    ):  # there are no such pixels in it
        decode(png(2, 8, b"\0", (10000, 8001)))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_beyond_pillows_own_limit_are_refused() -> None:
    with pytest.raises(ImageError, match=r"^too many pixels: more than 178956970$"):
        decode(png(2, 8, b"\0", (60000, 60000)))
    with pytest.raises(ImageError, match=r"^too many pixels: 10000 x 10000 > 80000000$"):
        decode(png(2, 8, b"\0", (10000, 10000)))


EXIF = b"Exif\0\0II*\0\x08\0\0\0\0\0"
SEEDS = (
    *(encoded(Image.fromarray(smooth()), name, exif=EXIF) for name in ("JPEG", "PNG", "WEBP")),
    *(encoded(Image.fromarray(smooth()), name) for name in ("GIF", "BMP", "TIFF", "PPM", "JPEG2000")),
    encoded(Image.fromarray(smooth()), "TIFF", compression="tiff_lzw"),
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=6),
    st.floats(0, 1),
)
def test_damaged_bytes_give_pixels_or_an_image_error(
    data: bytes, edits: list[tuple[float, bytes]], kept_fraction: float
) -> None:
    damaged = bytearray(data[: int(len(data) * kept_fraction) + 1])
    for where, what in edits:
        start = int(where * len(damaged))
        damaged[start : start + len(what)] = what
    for accept_truncated in (False, True):
        with contextlib.suppress(ImageError):
            picture = read_picture(bytes(damaged), 1_000_000, accept_truncated=accept_truncated)
            assert picture.rgb.shape[2] == 3


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalise_is_torchvisions(channels_last: bool) -> None:
    pixels = torch.from_numpy(RNG.integers(0, 256, (2, 3, 9, 9), dtype=np.uint8))
    if channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    expected = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)(pixels.float() / 255)
    out = normalise(pixels)
    assert out.dtype == torch.float32
    assert out.stride() == pixels.stride()
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(normalise(pixels[0]), expected[0], rtol=0, atol=1e-6)
    mean, std = (0.5, 0.25, 0.0), (0.5, 1.0, 2.0)
    expected = transforms.Normalize(mean, std)(pixels.float() / 255)
    torch.testing.assert_close(normalise(pixels, Preprocessing(mean=mean, std=std)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, 3, dtype=torch.uint8)])
def test_normalise_refuses_other_layouts(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"normalise needs uint8 images \(N, 3, H, W\), got"):
        normalise(bad)


def test_shrink_is_bicubic_and_keeps_the_corners() -> None:
    x = torch.randn(2, 3, 224, 224)
    out = shrink(x, 95)
    assert out.shape == (2, 3, 95, 95)
    torch.testing.assert_close(out[..., [0, 0, -1, -1], [0, -1, 0, -1]], x[..., [0, 0, -1, -1], [0, -1, 0, -1]])
    ramp = torch.arange(224.0).expand(1, 3, 224, 224)
    torch.testing.assert_close(shrink(ramp, 95)[0, 0, 5, 5:90], torch.linspace(0, 223, 95)[5:90], rtol=0, atol=0.1)
