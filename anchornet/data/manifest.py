"""The manifest of a label job: which images it labels, in the order in which it will.

``image_id`` is the position in the listing. The rows are a seeded permutation of it: then what a job has seen tells what is
to come, whatever the order of the listing, and the budget is paced by a single ratio (docs/budget.md). Images that lie in row
groups of Parquet keep together, or every group would be read many times: then it is the groups that are permuted.

A listing of more than IN_MEMORY_ROWS is permuted on the disk: each image draws one of NUM_BUCKETS, and each bucket is permuted
by itself when all is dealt out. That is a uniform permutation too, and takes the memory of one bucket.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anchornet.cascade import rows as records
from anchornet.data.inputs import InputSettings, input_tables
from anchornet.data.reading import READ_THREADS
from anchornet.files import storage
from anchornet.files.documents import read_parquet, write_parquet
from anchornet.files.spool import Spool, cut

SCHEMA = pa.schema([("image_id", pa.int64()), ("uri", pa.string())])
ROWS_PER_FILE = 100_000
IN_MEMORY_ROWS = 1_000_000
"""Rows that are permuted in memory."""
NUM_BUCKETS = 256
DEAL_ROWS = 250_000
"""Rows that are dealt out to the buckets together."""
ROW_GROUP = "row_group"
"""Column that only images have which lie in row groups of Parquet."""
_SOURCE_FILE = "source.txt"


def open_manifest(folder: str, settings: InputSettings, seed: int) -> int:
    """Number of images in the manifest in ``folder``, which is made from ``settings`` at the first start.

    A later start takes the manifest as it is, so that ids and order keep their meaning; files that appeared since are not
    in it. Raises ValueError when the input, or the part of it that is asked for, is empty, or differs from what the manifest
    was made from.
    """
    source = storage.join(folder, _SOURCE_FILE)
    wanted = settings.source()
    if not storage.exists(source):
        rows = _of_shard(_with_ids(input_tables(settings)), settings)
        num_rows = _write_parts(folder, shuffled(rows, seed))
        storage.write_bytes(source, wanted.encode())  # last: its presence says that the manifest is whole
        return num_rows
    known = storage.read_bytes(source).decode()
    if known != wanted:
        raise ValueError(f"{folder} was made for input {known!r}, got {wanted!r}; choose another run.folder")
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return sum(pool.map(_num_rows, manifest_files(folder)))


def manifest_table(uris: Sequence[str], seed: int, further: pa.Table | None = None) -> pa.Table:
    """Rows of SCHEMA for a listing, and its ``further`` columns, in an order drawn from ``seed``."""
    table = pa.table({"uri": pa.array(uris, pa.string())})
    columns = {name: further[name] for name in further.column_names} if further is not None else {}
    [table] = _with_ids([records.with_columns(table, columns)])
    return table.take(_order(table, np.random.default_rng(seed)))


def shuffled(tables: Iterable[pa.Table], seed: int) -> Iterator[pa.Table]:
    """The rows of a listing in an order drawn from ``seed``, whatever tables the listing came in."""
    random, waiting = np.random.default_rng(seed), iter(cut(tables, DEAL_ROWS))
    first: list[pa.Table] = []
    for table in waiting:
        first.append(table)
        if sum(map(len, first)) > IN_MEMORY_ROWS:
            yield from _shuffled_on_disk(itertools.chain(first, waiting), random)
            return
    if first:
        table = pa.concat_tables(first)
        yield table.take(_order(table, random))


def _shuffled_on_disk(tables: Iterable[pa.Table], random: np.random.Generator) -> Iterator[pa.Table]:
    with Spool() as spool:
        last = np.zeros(0, np.int64)
        """The bucket of the group that the next table may go on with."""
        drawn = 0
        for table, units in _units(tables):
            new = random.random(int(units[-1]) + 1 - drawn)  # one by one: the same however the listing was cut
            buckets = np.concatenate([last, (new * NUM_BUCKETS).astype(np.int64)])
            of_row = buckets[units - (drawn - len(last))]
            last, drawn = buckets[-1:], int(units[-1]) + 1
            order = np.argsort(of_row, kind="stable")
            table = table.combine_chunks().take(order)
            bounds = np.searchsorted(of_row[order], np.arange(NUM_BUCKETS + 1))
            for number, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
                spool.add(table.slice(start, stop - start), number)
        for number in range(NUM_BUCKETS):
            if parts := list(spool.tables(number)):
                table = pa.concat_tables(parts).combine_chunks()
                yield table.take(_order(table, random))


def _order(table: pa.Table, random: np.random.Generator) -> np.ndarray:
    """A permutation of the images; of those in row groups, which are read as wholes, one of the groups."""
    if ROW_GROUP not in table.column_names:
        return random.permutation(len(table))
    groups = [np.arange(start, stop) for start, stop in itertools.pairwise(group_bounds(table))]
    return np.concatenate([np.zeros(0, np.int64), *(groups[index] for index in random.permutation(len(groups)))])


def _with_ids(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables of a listing with the position of each row as ``image_id``, their first column."""
    first = 0
    for table in tables:
        yield table.add_column(0, SCHEMA.field("image_id"), pa.array(np.arange(first, first + len(table))))
        first += len(table)


def _of_shard(tables: Iterable[pa.Table], settings: InputSettings) -> Iterator[pa.Table]:
    """The rows of the part that ``settings.shard`` names: every so many-th image, or row group.

    Raises ValueError at the end when those are none.
    """
    which, parts = settings.part
    if parts == 1:
        yield from tables
        return
    num_units = 0
    for table, units in _units(tables):
        yield table.filter(pa.array(units % parts == which))
        num_units = int(units[-1]) + 1
    if num_units <= which:
        raise ValueError(
            f"input {settings.path} has {num_units} images or row groups of them, so nothing is left for input.shard="
            f"{settings.shard}; make fewer parts"
        )


def _units(tables: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The tables with rows, and for each row the number (from 0) of its unit: what keeps together, an image or a row group."""
    count, last = 0, None
    for table in tables:
        if not len(table):
            continue
        numbers = np.arange(len(table))
        if ROW_GROUP in table.column_names:
            bounds = group_bounds(table)
            numbers = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
            place = table.select(["file", ROW_GROUP])
            count -= place.slice(0, 1).to_pylist() == last  # the last group of the table before goes on
            last = place.slice(len(table) - 1).to_pylist()
        yield table, numbers + count
        count += int(numbers[-1]) + 1


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
    _write_parts(folder, [table])


def _write_parts(folder: str, tables: Iterable[pa.Table]) -> int:
    """Write ``tables`` as the files of a manifest, in place of what an interrupted start left; the number of rows."""
    if storage.exists(folder):
        for uri in manifest_files(folder):
            storage.delete(uri)
    num_rows = 0
    for number, table in enumerate(cut(tables, ROWS_PER_FILE)):
        write_parquet(storage.join(folder, f"part-{number:06d}.parquet"), table)
        num_rows += len(table)
    return num_rows


def read_manifest(folder: str) -> pa.Table:
    """A whole manifest, 8 bytes and a name per image: for small ones."""
    return pa.concat_tables(read_parquet(uri) for uri in manifest_files(folder))


def read_rows(folder: str, positions: np.ndarray) -> pa.Table:
    """The rows of a manifest at ``positions`` (n,), ascending; of the rest never more than a file is in memory."""
    found, first = [], 0
    for uri in manifest_files(folder):
        size = _num_rows(uri)
        start, stop = np.searchsorted(positions, [first, first + size])
        if stop > start:
            found.append(read_parquet(uri).take(pa.array(positions[start:stop] - first)))
        first += size
    return pa.concat_tables(found)


def _num_rows(uri: str) -> int:
    file_system, path = storage.resolve(uri)
    with file_system.open_input_file(path) as file:
        return int(pq.read_metadata(file).num_rows)
