"""From names to pixels: read the bytes, decode, shape; where an error becomes a status. Free of torch.

Reading is done here rather than by ``ray.data.expressions.download``: that one turns a missing object, a wrong path and
an outage alike into a null, and a user has to know which of them it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from anchornet.cascade import rows as records
from anchornet.files import storage
from anchornet.images.decode import ImageError, read_picture
from anchornet.images.preprocess import Shaping

READ_THREADS = 16


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
        """Rows of MANIFEST_SCHEMA to work rows of :func:`anchornet.cascade.rows.work_table`."""
        uris = table["uri"].to_pylist()
        with ThreadPoolExecutor(self.read_threads) as pool:
            contents = list(pool.map(read_or_error, uris))
        shaped = [shape_or_error(each, self.preprocessing, self.max_pixels, self.accept_truncated) for each in contents]
        pixels, status, errors = zip(*shaped, strict=True) if shaped else ((), (), ())
        image_ids = table["image_id"].to_numpy()
        return records.work_table(image_ids, uris, pixels, status, errors, self.preprocessing.shape)


def decode_memory_bytes(preprocessing: Shaping, max_pixels: int, batch_size: int) -> int:
    """Heap that one read-and-decode task may need: the largest image in RGB, and its batch of shaped images."""
    return 3 * max_pixels + math.prod(preprocessing.shape) * batch_size


def read_files(block: pa.Table, chunk_images: int) -> Iterator[tuple[pa.Table, list[bytes | OSError]]]:
    """The content of each row's file, ``READ_THREADS`` at a time; an unreadable one gives its OSError."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, block.num_rows, chunk_images):
            chunk = block.slice(start, chunk_images)
            yield chunk, list(pool.map(read_or_error, chunk["uri"].to_pylist()))


def read_or_error(uri: str) -> bytes | OSError:
    """The content of a file, or the error that reading it gave."""
    try:
        return storage.read_bytes(uri)
    except OSError as error:
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
        return None, records.FAILED, f"{type(content).__name__}: {content}"
    try:
        picture = read_picture(content, max_pixels, accept_truncated=accept_truncated)
        return preprocessing(picture.rgb), records.OK, picture.note
    except ImageError as error:
        return None, records.UNREADABLE, str(error)
