"""The manifest of a label job: which images it labels, in the order in which it will.

``image_id`` is the position in the listing. The rows are a seeded permutation of it: then what a job has seen tells what is
to come, whatever the order of the listing, and the budget is paced by a single ratio (docs/budget.md).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anchornet.files import storage
from anchornet.files.ranges import LARGEST_PICTURE, check_number

SCHEMA = pa.schema([("image_id", pa.int64()), ("uri", pa.string())])
ROWS_PER_FILE = 100_000
_MOST_THREADS = 1024
_SOURCE_FILE = "source.txt"


@dataclass(frozen=True, kw_only=True)
class InputSettings:
    """The images to label."""

    path: str
    """Folder or ``s3://`` prefix that is listed recursively, or a Parquet file with a column ``uri``."""
    limit: int | None = None
    """Label only the first this many of the listing; None labels all."""
    max_pixels: int = 100_000_000
    """Larger images get status ``unreadable`` instead of being decoded."""
    accept_truncated: bool = False
    """Label files whose tail is missing by what is there of them, with a note in the column ``error``; false: they are
    ``unreadable``. Calibrate with the same setting (``data.accept_truncated``) when many are."""
    decode_cpus: float = 0.5
    """Logical CPUs of one read-and-decode task."""
    read_threads: int = 16
    """Concurrent reads within one task; for object storage."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require(self.limit is None or self.limit > 0, f"input.limit must be > 0 or null, got {self.limit}")
        check_number("input.max_pixels", self.max_pixels, above=0, most=LARGEST_PICTURE)
        check_number("input.decode_cpus", self.decode_cpus, above=0)
        check_number("input.read_threads", self.read_threads, above=0, most=_MOST_THREADS)


def open_manifest(folder: str, settings: InputSettings, seed: int) -> int:
    """Number of images in the manifest in ``folder``, which is made from ``settings`` at the first start.

    A later start takes the manifest as it is, so that ids and order keep their meaning; files that appeared since are not
    in it. Raises ValueError when the input is empty, or differs from what the manifest was made from.
    """
    source = storage.join(folder, _SOURCE_FILE)
    wanted = f"{storage.absolute(settings.path)} limit={settings.limit}"
    if not storage.exists(source):
        table = manifest_table(list_input(settings), seed)
        write_manifest(folder, table)
        storage.write_bytes(source, wanted.encode())  # last: its presence says that the manifest is whole
        return len(table)
    known = storage.read_bytes(source).decode()
    if known != wanted:
        raise ValueError(f"{folder} was made for input {known!r}, got {wanted!r}; choose another run.folder")
    return sum(_num_rows(uri) for uri in manifest_files(folder))


def manifest_table(uris: Sequence[str], seed: int) -> pa.Table:
    """Rows of SCHEMA for a listing, in an order drawn from ``seed``."""
    order = np.random.default_rng(seed).permutation(len(uris))
    return pa.table({"image_id": order, "uri": pa.array(uris, pa.string()).take(order)}, schema=SCHEMA)


def manifest_files(folder: str) -> list[str]:
    """The Parquet files of a manifest, in their order."""
    return [uri for uri, _ in storage.list_files(folder) if uri.endswith(".parquet")]


def list_input(settings: InputSettings) -> list[str]:
    """URIs of all files below a folder or prefix, sorted; or the column ``uri`` of a Parquet file, in its order.

    Every file is listed, whatever it is: one that is no image becomes a row that says so. Only hidden files
    (``storage.list_visible``) are left out. Raises ValueError when there is nothing to label.
    """
    uris = _read_uris(settings.path) if settings.path.endswith(".parquet") else _list_folder(settings.path)
    if not uris:
        raise ValueError(
            f"input {settings.path} has no files; give a folder, an s3:// prefix or a Parquet with a column 'uri'"
        )
    return uris[: settings.limit]


def _list_folder(path: str) -> list[str]:
    try:
        return storage.list_visible(path)
    except FileNotFoundError as error:
        raise ValueError(f"input {path} does not exist; give a folder, an s3:// prefix or a Parquet file") from error


def _read_uris(path: str) -> list[str]:
    table = pq.read_table(io.BytesIO(storage.read_bytes(path)))
    if "uri" not in table.column_names:
        raise ValueError(f"input {path} has no column 'uri' (it has {', '.join(table.column_names)}); rename it")
    kind = table["uri"].type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"input {path}: column 'uri' must be text, got {kind}; cast it")
    if table["uri"].null_count:
        raise ValueError(f"input {path} has {table['uri'].null_count} rows without a uri; remove them")
    return [storage.absolute(uri) for uri in table["uri"].to_pylist()]


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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
