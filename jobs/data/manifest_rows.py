"""The manifest of a label run as a source of Ray Data: one small task per file, and nothing else is started.

``ray.data.read_parquet`` would do, but before it reads it starts up to 32 actors that look at the footers of the files, each
a process that imports Ray Data: on two cores a third of the start of a short job, for a manifest of one file.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from anchornet.files import storage


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


def _read(uri: str) -> Iterable[pa.Table]:
    return [pq.read_table(io.BytesIO(storage.read_bytes(uri)))]


def _metadata(uri: str) -> BlockMetadata:
    return BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=(uri,))
