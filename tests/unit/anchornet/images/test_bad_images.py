"""The corpus of bad files and some mutations through reading and decoding, and what the largest pictures need of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from anchornet.data.reading import ReadAndDecode
from anchornet.images import colours
from anchornet.images.decode import BYTES_PER_PIXEL, MOST_BYTES_PER_PIXEL, ImageError, decode
from anchornet.images.formats import MOST_SCANS
from anchornet.images.preprocess import LARGEST_RESIZED, Preprocessing
from tests.bad_images import (
    GREY,
    MAX_PIXELS,
    black_png,
    chunk,
    corpus,
    encoded,
    foreign,
    kinds,
    large,
    metadata,
    photo,
    tiff,
    with_chunk,
    with_segments,
    zeros,
)
from tests.mutations import KINDS, mutations, originals

ROOT = Path(__file__).resolve().parents[4]
SMALL = Preprocessing.of_size(32)
NUM_MUTATIONS = 300
PLENTY_S = 300.0
DEAR = ("16 bits with a key.png", "progressive CMYK.jpg", "RGBA.webp", "RGB.jp2")
"""Pictures that need more than most."""
BANDS_BYTES = 40_000_000
"""What bands of rows, the shaped picture and libraries that are loaded late take, whatever the size of the picture."""


def rows_of(folder: Path, files: dict[str, bytes]) -> dict[str, tuple[str, str | None]]:
    """Status and reason of each file, read from a folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    table = pa.table({"image_id": np.arange(len(files)), "uri": [str(folder / name) for name in files]})
    rows = ReadAndDecode(SMALL, MAX_PIXELS, 4)(table)
    assert rows["uri"].to_pylist() == table["uri"].to_pylist()
    return dict(zip(files, zip(rows["status"].to_pylist(), rows["error"].to_pylist(), strict=True), strict=True))


def test_every_bad_file_is_read_or_refused_for_its_reason(tmp_path: Path) -> None:
    cases = {case.name: case for case in corpus() if not case.name.startswith("large")}
    found = rows_of(tmp_path, {name: case.content for name, case in cases.items()})
    assert {name: row for name, row in found.items() if not cases[name].fits(*row)} == {}


def test_mutated_photographs_are_pixels_or_have_a_reason(tmp_path: Path) -> None:
    files = dict(mutations(originals(None), NUM_MUTATIONS, seed=1))
    found = rows_of(tmp_path, files)
    assert {(status, bool(reason)) for status, reason in found.values()} == {("ok", False), ("unreadable", True)}
    for kind in KINDS:
        assert any(kind in name for name in files), kind


def test_the_corpus_and_the_mutations_follow_from_the_seed() -> None:
    whole = originals(None)
    assert dict(mutations(whole, 20, seed=3)) == dict(list(mutations(whole, 40, seed=3))[:20])
    first, second, other = ([*foreign(seed), *kinds(seed), *metadata(seed)] for seed in (1, 1, 2))
    assert first == second != other
    changed = [data not in whole for _, data in mutations(whole, 200, seed=3)]
    assert sum(changed) > 180  # the others got the value that they had


PROGRAM = """
import json, sys
from pathlib import Path
from anchornet.data.reading import shape_or_error
from anchornet.images.preprocess import LARGEST_RESIZED, Preprocessing

def held(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

for path in map(Path, sys.argv[2:]):
    content = path.read_bytes()
    open("/proc/self/clear_refs", "w").write("5")
    before = held("VmRSS")
    pixels, status, error = shape_or_error(content, Preprocessing(), int(sys.argv[1]))
    print(json.dumps([path.name, status, held("VmHWM") - before]), flush=True)
"""
"""Decodes files one after the other; the kernel's record of the most memory begins anew with each (``man 5 proc``)."""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this kernel does not tell the most memory held")
def test_a_picture_at_the_limit_needs_the_memory_that_is_declared(tmp_path: Path) -> None:
    pictures = large()
    for name, content in pictures.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", PROGRAM, str(MAX_PIXELS), *(str(tmp_path / name) for name in pictures)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PLENTY_S)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(name, status) for name, status, _ in found] == [(name, "ok") for name in pictures], done.stderr
    needed = {name: peak for name, _, peak in found}
    most = {name: (MOST_BYTES_PER_PIXEL if name in DEAR else BYTES_PER_PIXEL) * MAX_PIXELS for name in needed}
    most["strip.png"] += 2 * 4 * LARGEST_RESIZED
    assert {name: peak for name, peak in needed.items() if peak > most[name] + BANDS_BYTES} == {}
    assert max(needed.values()) > BYTES_PER_PIXEL * MAX_PIXELS + BANDS_BYTES  # the few are named for a reason


SCAN = b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0"


def test_a_jpeg_has_as_many_scans_as_any_encoder_writes_and_no_more() -> None:
    whole = encoded(photo(0).convert("L"), "JPEG", progressive=True)
    usual = whole.count(b"\xff\xda")
    most = whole[:-2] + SCAN * (MOST_SCANS - usual) + whole[-2:]
    assert decode(most).shape == decode(whole).shape
    with pytest.raises(ImageError, match=r"^too many scans: more than 500$"):
        decode(most[:-2] + SCAN + whole[-2:])


def test_what_looks_like_scans_beside_the_picture_does_not_count() -> None:
    whole = encoded(photo(0), "JPEG")
    comments = with_segments(whole, *[b"\xff\xfe" + SCAN * 100] * 10)
    for data in (comments, whole + SCAN * 1000):
        np.testing.assert_array_equal(decode(data), decode(whole))


def test_a_tile_may_be_as_large_as_a_picture_and_no_larger() -> None:
    at = 8 + 2 + 12 * 10 + 4
    pixels = zeros(64 * 64)
    data = tiff(16, 16, {322: 64, 323: 64, 324: at, 325: len(pixels)}, pixels)
    assert decode(data, 64 * 64).shape == (16, 16, 3)
    with pytest.raises(ImageError, match=r"^too many pixels: tiles of 64 x 64 > 4095$"):
        decode(data, 64 * 64 - 1)


@pytest.mark.parametrize("bits", [0, 17, 255])
def test_significant_bits_that_no_sample_has_say_nothing(bits: int) -> None:
    grey = encoded(Image.fromarray(np.array([[0, 1000, 4000]], np.uint16)), "PNG")
    np.testing.assert_array_equal(decode(with_chunk(grey, chunk(b"sBIT", bytes([bits])))), decode(grey))


def test_a_picture_comes_out_the_same_in_bands_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    picture, deep = photo(0, 40, 30), random.integers(0, 5000, (30, 40))
    deep[:15] //= 100  # so that a band by itself would have another scale
    files = [encoded(picture.convert(mode), "PNG", **options) for mode, options in (
        *((mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        ("P", {"transparency": 3}), ("L", {"transparency": 30}), ("RGB", {"transparency": picture.getpixel((1, 25))}),
    )]  # fmt: skip
    kinds = (
        deep.astype(np.uint16),
        (deep - 2000).astype(np.int32),
        deep.astype(np.float32) / 7,
        -deep.astype(np.float32),
    )
    files += [encoded(Image.fromarray(values), "TIFF") for values in kinds]
    files.append(black_png(40, 30, GREY, 16, chunk(b"tRNS", bytes(2))))
    whole = [decode(data) for data in files]
    monkeypatch.setattr(colours, "_BAND_PIXELS", 100)
    for data, expected in zip(files, whole, strict=True):
        np.testing.assert_array_equal(decode(data), expected)
