"""The manifest of a label run as a source of Ray Data: one small task per file, and nothing else is started.

Images in row groups of Parquet are read in two steps, of which the first gives the bytes of whole groups and the second
decodes, or one large group would be decoded by a single process.

``ray.data.read_parquet`` would do, but before it reads it starts up to 32 actors that look at the footers of the files, each
a process that imports Ray Data: on two cores a third of the start of a short job, for a manifest of one file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from anchornet.data.manifest import ROW_GROUP, grouped
from anchornet.data.parquet import read_row_groups
from anchornet.data.reading import with_contents
from anchornet.files import storage
from anchornet.files.documents import read_parquet


class ManifestRows(Datasource):
    """Rows of the Parquet files ``uris``, in order, each file read as a whole. A resume can filter it: it is a read."""

    def __init__(self, uris: list[str]) -> None:
        super().__init__()
        self._uris = [storage.absolute(uri) for uri in uris]

    def estimate_inmemory_data_size(self) -> None:
        """None: nobody has looked."""
        return

    def get_read_tasks(self, parallelism: int, *arguments: Any, **named: Any) -> list[ReadTask]:
        """A task per file, however many Ray would like."""
        return [ReadTask(partial(_read, uri), _metadata(uri)) for uri in self._uris]


class GroupedRows(ManifestRows):
    """The same rows for images in row groups: a task for one or several whole groups, of ``fewest_rows`` or more together."""

    def __init__(self, uris: list[str], fewest_rows: int) -> None:
        super().__init__(uris)
        self._fewest_rows = fewest_rows

    def get_read_tasks(self, parallelism: int, *arguments: Any, **named: Any) -> list[ReadTask]:
        """A task knows the file of the manifest and which of its rows; where groups begin is looked up here, on the driver."""
        tasks = []
        for uri in self._uris:
            first = 0
            for piece in grouped(read_parquet(uri, ["file", ROW_GROUP]), self._fewest_rows):
                read = partial(_read_piece, uri, first, len(piece))
                tasks.append(ReadTask(read, _metadata(*piece["file"].unique().to_pylist())))
                first += len(piece)
        return tasks


class RowGroupContents:
    """Manifest rows of whole row groups -> the same rows with their images' bytes, ``chunk_images`` at a time."""

    def __init__(self, column: str, chunk_images: int) -> None:
        self.column = column
        self.chunk_images = chunk_images

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Each row group is read once."""
        if not len(table):
            yield with_contents(table, [])
        for group in grouped(table, 1):
            for rows, contents in read_row_groups(group, self.chunk_images, self.column):
                yield with_contents(rows, contents)


def in_row_groups(uris: Sequence[str]) -> bool:
    """Whether the images of the manifest in these files lie in row groups of Parquet."""
    if not uris:
        return False
    return ROW_GROUP in pq.read_schema(io.BytesIO(storage.read_bytes(uris[0]))).names


def _read(uri: str) -> list[pa.Table]:
    return [read_parquet(uri)]


def _read_piece(uri: str, first: int, num_rows: int) -> list[pa.Table]:
    return [_manifest_file(uri).slice(first, num_rows)]


@lru_cache(maxsize=1)
def _manifest_file(uri: str) -> pa.Table:
    """A file of the manifest, kept for the next task that this process has, which is likely to want another piece of it."""
    return read_parquet(uri)


def _metadata(*uris: str) -> BlockMetadata:
    return BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=uris)
