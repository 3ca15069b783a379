"""The manifest of a label job: which images it labels, in the order in which it will.

``image_id`` is the position in the listing. The rows are a seeded permutation of it: then what a job has seen tells what is
to come, whatever the order of the listing, and the budget is paced by a single ratio (docs/budget.md). Images that lie in row
groups of Parquet keep together, or every group would be read many times: then it is the groups that are permuted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anchornet.cascade import rows as records
from anchornet.data.inputs import InputSettings, list_input
from anchornet.files import storage
from anchornet.files.documents import read_parquet, write_parquet

SCHEMA = pa.schema([("image_id", pa.int64()), ("uri", pa.string())])
ROWS_PER_FILE = 100_000
ROW_GROUP = "row_group"
"""Column that only images have which lie in row groups of Parquet."""
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
    order = _order(len(uris), further, seed)
    table = pa.table({"image_id": order, "uri": pa.array(uris, pa.string()).take(order)}, schema=SCHEMA)
    taken = {name: further[name].take(order) for name in further.column_names} if further is not None else {}
    return records.with_columns(table, taken)


def _order(num_images: int, further: pa.Table | None, seed: int) -> np.ndarray:
    """A permutation of the images; of those in row groups, which are read as wholes, one of the groups."""
    random = np.random.default_rng(seed)
    if further is None or ROW_GROUP not in further.column_names:
        return random.permutation(num_images)
    bounds = group_bounds(further)
    groups = [np.arange(start, stop) for start, stop in itertools.pairwise(bounds)]
    return np.concatenate([np.zeros(0, np.int64), *(groups[index] for index in random.permutation(len(groups)))])


def group_bounds(table: pa.Table) -> list[int]:
    """Positions at which rows of another row group begin, and the end; rows of a group stand together."""
    numbers = table[ROW_GROUP].to_numpy()
    files = table["file"].combine_chunks().dictionary_encode()
    files = files.indices.to_numpy() if len(files) else numbers
    starts = np.flatnonzero((numbers[1:] != numbers[:-1]) | (files[1:] != files[:-1])) + 1
    return [0, *starts.tolist(), len(table)]


def grouped(table: pa.Table, fewest_rows: int) -> list[pa.Table]:
    """``table`` cut between row groups, each piece of ``fewest_rows`` or more, the last one aside."""
    cuts = [0]
    for bound in group_bounds(table)[1:]:
        if bound - cuts[-1] >= fewest_rows or bound == len(table):
            cuts.append(bound)
    return [table.slice(start, stop - start) for start, stop in itertools.pairwise(cuts) if stop > start]


def manifest_files(folder: str) -> list[str]:
    """The Parquet files of a manifest, in their order."""
    return [uri for uri, _ in storage.list_files(folder) if uri.endswith(".parquet")]


def write_manifest(folder: str, table: pa.Table) -> None:
    """Write ``table`` (SCHEMA) as a manifest, in place of what an interrupted start left."""
    if storage.exists(folder):
        for uri in manifest_files(folder):
            storage.delete(uri)
    for start in range(0, len(table), ROWS_PER_FILE):
        name = f"part-{start // ROWS_PER_FILE:06d}.parquet"
        write_parquet(storage.join(folder, name), table.slice(start, ROWS_PER_FILE))


def read_manifest(folder: str) -> pa.Table:
    """A whole manifest: 8 bytes and a name per image, on the driver."""
    return pa.concat_tables(read_parquet(uri) for uri in manifest_files(folder))


def _num_rows(uri: str) -> int:
    file_system, path = storage.resolve(uri)
    with file_system.open_input_file(path) as file:
        return int(pq.read_metadata(file).num_rows)
