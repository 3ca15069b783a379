"""The manifest of a label job: which images it labels, in the order in which it will.

``image_id`` is the position in the listing. The rows are a seeded permutation of it: then what a job has seen tells what is
to come, whatever the order of the listing, and the budget is paced by a single ratio (docs/budget.md).
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anchornet.data.inputs import InputSettings, list_input
from anchornet.files import storage

SCHEMA = pa.schema([("image_id", pa.int64()), ("uri", pa.string())])
ROWS_PER_FILE = 100_000
_SOURCE_FILE = "source.txt"


def open_manifest(folder: str, settings: InputSettings, seed: int) -> int:
    """Number of images in the manifest in ``folder``, which is made from ``settings`` at the first start.

    A later start takes the manifest as it is, so that ids and order keep their meaning; files that appeared since are not
    in it. Raises ValueError when the input is empty, or differs from what the manifest was made from.
    """
    source = storage.join(folder, _SOURCE_FILE)
    wanted = settings.source()
    if not storage.exists(source):
        found = list_input(settings)
        table = manifest_table(found["uri"].to_pylist(), seed, found.drop_columns("uri"))
        write_manifest(folder, table)
        storage.write_bytes(source, wanted.encode())  # last: its presence says that the manifest is whole
        return len(table)
    known = storage.read_bytes(source).decode()
    if known != wanted:
        raise ValueError(f"{folder} was made for input {known!r}, got {wanted!r}; choose another run.folder")
    return sum(_num_rows(uri) for uri in manifest_files(folder))


def manifest_table(uris: Sequence[str], seed: int, further: pa.Table | None = None) -> pa.Table:
    """Rows of SCHEMA for a listing, and its ``further`` columns, in an order drawn from ``seed``."""
    order = np.random.default_rng(seed).permutation(len(uris))
    table = pa.table({"image_id": order, "uri": pa.array(uris, pa.string()).take(order)}, schema=SCHEMA)
    if further is None:
        return table
    return pa.table(
        {
            **dict(zip(table.column_names, table.columns, strict=True)),
            **{name: further[name].take(order) for name in further.column_names},
        }
    )


def manifest_files(folder: str) -> list[str]:
    """The Parquet files of a manifest, in their order."""
    return [uri for uri, _ in storage.list_files(folder) if uri.endswith(".parquet")]


def write_manifest(folder: str, table: pa.Table) -> None:
    """Write ``table`` (SCHEMA) as a manifest, in place of what an interrupted start left."""
    if storage.exists(folder):
        for uri in manifest_files(folder):
            storage.delete(uri)
    for start in range(0, len(table), ROWS_PER_FILE):
        buffer = io.BytesIO()
        pq.write_table(table.slice(start, ROWS_PER_FILE), buffer)
        storage.write_bytes(storage.join(folder, f"part-{start // ROWS_PER_FILE:06d}.parquet"), buffer.getvalue())


def read_manifest(folder: str) -> pa.Table:
    """A whole manifest: 8 bytes and a name per image, on the driver."""
    return pa.concat_tables(pq.read_table(io.BytesIO(storage.read_bytes(uri))) for uri in manifest_files(folder))


def _num_rows(uri: str) -> int:
    file_system, path = storage.resolve(uri)
    with file_system.open_input_file(path) as file:
        return int(pq.read_metadata(file).num_rows)
