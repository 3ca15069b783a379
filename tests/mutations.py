"""Random mutations of whole JPEGs and PNGs: what broken disks, uploads and editors do to files, and what fuzzers do."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bad_images import encoded, photo

Random = np.random.Generator
_SIDES = (0, 1, 2, 7, 255, 256, 1000, 4096, 5001, 16384, 30000, 65500, 65535)
"""Sides of pictures that a header may claim."""
_NUM_ORIGINALS = 12


def originals(shared: Path | None, seed: int = 0) -> list[bytes]:
    """Files to mutate: JPEGs, one of them progressive, and a small PNG of each in one mode or another.

    They are photographs of the shared data where ``shared`` is its folder, else made.
    """
    made = (photo(seed + number, 300, 220) for number in range(_NUM_ORIGINALS))
    whole = [encoded(picture, "JPEG", quality=85) for picture in made] if shared is None else _photographs(shared, seed)
    pictures = [Image.open(io.BytesIO(data)) for data in whole]
    modes = ("RGB", "RGBA", "P", "L", "LA", "1")
    small = [picture.resize((120, 90)).convert(modes[n % len(modes)]) for n, picture in enumerate(pictures)]
    progressive = encoded(pictures[0], "JPEG", progressive=True)
    return [*whole, progressive, *(encoded(picture, "PNG") for picture in small)]


def _photographs(shared: Path, seed: int) -> list[bytes]:
    """Some JPEGs of at most 100 kB from all over the shared data, which is sorted by class."""
    files = sorted(path for path in shared.glob("*/test/*/*.jpg") if path.stat().st_size < 100_000)
    chosen = np.random.default_rng(seed).permutation(len(files))[:_NUM_ORIGINALS]
    return [files[at].read_bytes() for at in chosen]


def mutations(whole: Sequence[bytes], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """``count`` files, each one of ``whole`` with something done to it: a name that says what, and the bytes.

    Each follows from its number and the seed alone. A tenth has a second thing done to it.
    """
    for number in range(count):
        random = np.random.default_rng([seed, number])
        data = whole[int(random.integers(len(whole)))]
        done = [list(KINDS)[int(random.integers(len(KINDS)))]]
        if random.random() < 0.1:
            done.append(list(KINDS)[int(random.integers(len(KINDS)))])
        for kind in done:
            other = whole[int(random.integers(len(whole)))]
            data = KINDS[kind](data, other, random)
        ending = "png" if data[:1] == b"\x89" else "jpg"
        yield f"{number:05d} {' and '.join(done)}.{ending}", data


def _place(data: bytes, random: Random) -> int:
    """A position; every second one in the first kilobyte, where the headers are."""
    return int(random.integers(max(1, min(len(data), 1024) if random.random() < 0.5 else len(data))))


def _range(data: bytes, random: Random) -> slice:
    """Some bytes: one, or a thousand, or many."""
    start = _place(data, random)
    return slice(start, start + int(10 ** random.uniform(0, max(1.0, np.log10(len(data) + 1)))))


def _flip(data: bytes, other: bytes, random: Random) -> bytes:
    """Single bits, up to twenty."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 21)) if data else 0):
        changed[_place(data, random)] ^= 1 << int(random.integers(8))
    return bytes(changed)


def _overwrite(data: bytes, other: bytes, random: Random) -> bytes:
    """A range becomes noise, zeros or ones."""
    where = _range(data, random)
    length = len(data[where])
    filling = (random.bytes(length), bytes(length), b"\xff" * length)[int(random.integers(3))]
    return data[: where.start] + filling + data[where.stop :]


def _cut(data: bytes, other: bytes, random: Random) -> bytes:
    """The tail is missing."""
    return data[: _place(data, random)]


def _behead(data: bytes, other: bytes, random: Random) -> bytes:
    """The beginning is missing."""
    return data[min(_place(data, random), 4096) :]


def _delete(data: bytes, other: bytes, random: Random) -> bytes:
    """A range is missing."""
    where = _range(data, random)
    return data[: where.start] + data[where.stop :]


def _insert(data: bytes, other: bytes, random: Random) -> bytes:
    """Noise in between."""
    at = _place(data, random)
    return data[:at] + random.bytes(int(10 ** random.uniform(0, 4))) + data[at:]


def _repeat(data: bytes, other: bytes, random: Random) -> bytes:
    """A range twice, or up to fifty times."""
    where = _range(data, random)
    times = int(random.integers(1, 50)) if len(data[where]) < 5000 else 1
    return data[: where.stop] + data[where] * times + data[where.stop :]


def _splice(data: bytes, other: bytes, random: Random) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: _place(data, random)] + other[_place(other, random) :]


def _header(data: bytes, other: bytes, random: Random) -> bytes:
    """A PNG's header or a JPEG's frame claims another size, depth, kind or sampling, with a sum that is right."""
    at, fields = (16, 13) if data[:1] == b"\x89" else (data.find(b"\xff\xc0") + 5, 13)
    if not 5 <= at < len(data) - 40:
        return _flip(data, other, random)
    changed = bytearray(data)
    what = random.random()
    if what < 0.5:
        side = _SIDES[int(random.integers(len(_SIDES)))]
        form, step = (">I", 4) if at == 16 and data[:1] == b"\x89" else (">H", 2)
        struct.pack_into(form, changed, at + step * int(random.integers(2)), side)
    else:
        changed[at + int(random.integers(fields))] = int(random.integers(256) if what < 0.75 else random.integers(5))
    if data[:1] == b"\x89":
        changed[29:33] = zlib.crc32(changed[12:29]).to_bytes(4, "big")
    return bytes(changed)


def _segment(data: bytes, other: bytes, random: Random) -> bytes:
    """A PNG's chunk is changed with a sum that is right; a JPEG's marker or length becomes another."""
    places = _chunks(data) if data[:1] == b"\x89" else [at for at in range(2, min(len(data), 2048)) if data[at] == 0xFF]
    if not places:
        return _flip(data, other, random)
    at, changed = places[int(random.integers(len(places)))], bytearray(data)
    if data[:1] != b"\x89":
        changed[min(at + int(random.integers(1, 6)), len(data) - 1)] = int(random.integers(256))
        return bytes(changed)
    end = at + 8 + int.from_bytes(data[at : at + 4], "big")
    for _ in range(int(random.integers(1, 8))):
        changed[int(random.integers(at + 4, max(at + 5, end)))] = int(random.integers(256))
    changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4, "big")
    return bytes(changed)


def _chunks(data: bytes) -> list[int]:
    """Where the chunks of a PNG begin that are there as a whole."""
    found, at = [], 8
    while at + 12 <= len(data) and (end := at + 12 + int.from_bytes(data[at : at + 4], "big")) <= len(data):
        found.append(at)
        at = end
    return found


KINDS: dict[str, Callable[[bytes, bytes, Random], bytes]] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "cut": _cut,
    "behead": _behead,
    "delete": _delete,
    "insert": _insert,
    "repeat": _repeat,
    "splice": _splice,
    "header": _header,
    "segment": _segment,
}
"""What can be done to a file, given another one."""
