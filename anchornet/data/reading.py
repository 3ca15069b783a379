"""From names to pixels: read the bytes, decode, shape; where an error becomes a status. Free of torch.

Reading is done here rather than by ``ray.data.expressions.download``: that one turns a missing object, a wrong path and
an outage alike into a null, and a user has to know which of them it was.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa

from anchornet.cascade import rows as records
from anchornet.files import storage
from anchornet.images.decode import BYTES_PER_PIXEL, ImageError, read_picture
from anchornet.images.preprocess import LARGEST_RESIZED, Shaping

READ_THREADS = 16
_RESIZED_BYTES = 2 * 4 * LARGEST_RESIZED
"""What a long strip takes while it is resized: the result, and the pass along one side before it."""
OFFSET = "offset"
"""Column that only images have which are a part of a file, such as a tar."""


CONTENT, TROUBLE = "content", "trouble"
"""Columns of rows whose bytes are read already: the bytes, and the reason where there are none."""


class ToldError(OSError):
    """An error that was met where the bytes were read; its text is the whole reason."""


def with_contents(rows: pa.Table, contents: Sequence[bytes | OSError]) -> pa.Table:
    """``rows`` with what reading them gave, so that another process can decode them."""
    found = [None if isinstance(content, OSError) else content for content in contents]
    troubles = [_reason(content) if isinstance(content, OSError) else None for content in contents]
    columns = {CONTENT: pa.array(found, pa.large_binary()), TROUBLE: pa.array(troubles, pa.string())}
    return records.with_columns(rows, columns)


def _reason(error: OSError) -> str:
    return str(error) if isinstance(error, ToldError) else f"{type(error).__name__}: {error}"


class ReadAndDecode:
    """Manifest rows -> work rows: read the bytes, decode, shape; a reason where that failed."""

    def __init__(
        self, preprocessing: Shaping, max_pixels: int, read_threads: int, accept_truncated: bool = False
    ) -> None:
        self.preprocessing = preprocessing
        self.max_pixels = max_pixels
        self.read_threads = read_threads
        self.accept_truncated = accept_truncated

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of a manifest to work rows of :func:`anchornet.cascade.rows.work_table`, with the columns that go along."""
        uris = table["uri"].to_pylist()
        shaped = [
            shape_or_error(content, self.preprocessing, self.max_pixels, self.accept_truncated)
            for content in self._contents(table)
        ]
        pixels, status, errors = zip(*shaped, strict=True) if shaped else ((), (), ())
        image_ids = table["image_id"].to_numpy()
        rows = records.work_table(image_ids, uris, pixels, status, errors, self.preprocessing.shape)
        return records.with_columns(rows, records.along_columns(table))

    def _contents(self, table: pa.Table) -> Iterator[bytes | OSError]:
        if CONTENT not in table.column_names:
            yield from read_ahead(table, self.read_threads)
            return
        for content, trouble in zip(table[CONTENT], table[TROUBLE], strict=True):
            yield ToldError(trouble.as_py()) if trouble.is_valid else content.as_py()


def decode_memory_bytes(preprocessing: Shaping, max_pixels: int, batch_size: int) -> int:
    """Heap that one read-and-decode task may need: for the largest image, for resizing a strip, and for its batch when shaped.

    A largest image of the few kinds that need ``MOST_BYTES_PER_PIXEL`` is not planned for, nor are files so large that those
    that wait to be decoded count (``read_threads`` of them at most).
    """
    return BYTES_PER_PIXEL * max_pixels + _RESIZED_BYTES + math.prod(preprocessing.shape) * batch_size


def read_files(block: pa.Table, chunk_images: int) -> Iterator[tuple[pa.Table, list[bytes | OSError]]]:
    """The content of each row's file, or part of one, ``READ_THREADS`` at a time; an unreadable one gives its OSError."""
    for start in range(0, block.num_rows, chunk_images):
        chunk = block.slice(start, chunk_images)
        yield chunk, read_places(chunk, READ_THREADS)


def read_places(table: pa.Table, threads: int) -> list[bytes | OSError]:
    """The content of each row's file, or of its part of a file (columns file, offset, size), or the error that it gave."""
    return list(read_ahead(table, threads))


def read_ahead(table: pa.Table, threads: int) -> Iterator[bytes | OSError]:
    """What ``read_places`` gives, in order: up to ``threads`` files are read, or wait in memory, while the one before is used."""
    if OFFSET in table.column_names:
        places = zip(*(table[name].to_pylist() for name in ("file", OFFSET, "size")), strict=True)
        reads = [partial(read_part, *place) for place in places]
    else:
        reads = [partial(read_or_error, uri) for uri in table["uri"].to_pylist()]
    waiting: deque[Future[bytes | OSError]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for read in reads:
            if len(waiting) == threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(read))
        while waiting:
            yield waiting.popleft().result()


def read_part(file: str, offset: int, size: int) -> bytes | OSError:
    """``size`` bytes of a file from ``offset`` on, or the error that reading them gave; raises OSError in an outage."""
    try:
        content = _opened(file).read_at(size, offset)
    except OSError as error:
        if storage.is_outage(error, file):
            raise
        return error
    return (
        content if len(content) == size else OSError(f"{file} ends before byte {offset + size}: it was cut off since")
    )


@lru_cache(maxsize=64)
def _opened(file: str) -> pa.NativeFile:
    """An open file, kept open: opening one in object storage takes a request of its own."""
    file_system, path = storage.resolve(file)
    return file_system.open_input_file(path)


def read_or_error(uri: str) -> bytes | OSError:
    """The content of a file, or the error that reading it gave; raises OSError in an outage, which no image is to blame for."""
    try:
        return storage.read_bytes(uri)
    except OSError as error:
        if storage.is_outage(error, uri):
            raise
        return error
    except ValueError as error:  # a name that no storage can have, such as a key with an empty part
        return OSError(f"{type(error).__name__}: {error}")


def shape_or_error(
    content: bytes | OSError, preprocessing: Shaping, max_pixels: int, accept_truncated: bool = False
) -> tuple[np.ndarray | None, str, str | None]:
    """(uint8 pixels of the preprocessing's shape or None, status, reason): the image boundary, where an error becomes a status.

    ``failed``: the storage did not give the file. ``unreadable``: it did, and it is no usable image. The reason of an image
    that is ``ok`` is a note (see ``read_picture``).
    """
    if isinstance(content, OSError):
        return None, records.FAILED, _reason(content)
    try:
        picture = read_picture(content, max_pixels, accept_truncated=accept_truncated)
        return preprocessing(picture.rgb), records.OK, picture.note
    except ImageError as error:
        return None, records.UNREADABLE, str(error)
