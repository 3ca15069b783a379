"""Parquet that holds images, read by row group: with labels for training and calibration, without for labelling.

The column of images holds encoded bytes, or structs ``{bytes, path}`` as data sets of Hugging Face have it; where the bytes
are null the path is followed. Labels are text, or whole numbers: then the schema's metadata of Hugging Face names the classes,
without it their decimal text does, and -1 means that an image is not labelled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anchornet.cascade.rows import ALONG
from anchornet.data.listing import UNLABELLED, DatasetSettings, Listing, chosen_rows, class_names, labelled_rows
from anchornet.data.reading import READ_THREADS, read_or_error
from anchornet.files import storage
from anchornet.files.spool import AT_ONCE_ROWS, Spool, in_order

_LFS_POINTER = b"version https://git-lfs"
"""What a file of Git LFS begins with as long as nobody has fetched its content."""


def list_parquet(files: list[str], settings: DatasetSettings, classes: tuple[str, ...] | None, seed: int) -> Listing:
    """The listing of all labelled rows of ``files``; raises ValueError for other columns, or nothing in them.

    image_id is the position among all rows, the unlabelled ones included; those are left out and counted in a warning.
    """
    with ThreadPoolExecutor(READ_THREADS) as pool:
        shards = list(pool.map(partial(_read_labels, settings=settings), files))
    _check_alike(shards, settings.label_column)
    groups = [group for shard in shards for group in shard.groups]
    values = pa.concat_arrays([group.labels for group in groups]) if groups else pa.array([], pa.string())
    if not len(values):
        raise ValueError(f"data set {settings.path} has no rows; write at least one image into it")
    labelled = labelled_rows(np.asarray(values.is_valid()), settings.path)
    occurring = [str(value) for value in sorted(pc.unique(values.drop_null()).to_pylist())]
    classes = class_names(occurring if classes else shards[0].names or occurring, classes, settings.path)
    index = {name: position for position, name in enumerate(classes)}
    wanted = np.zeros(len(values), dtype=bool)
    wanted[labelled[chosen_rows(len(labelled), settings.limit, seed)]] = True
    blocks, first = [], 0
    for group in groups:
        rows = np.flatnonzero(wanted[first : first + len(group.labels)])
        if len(rows):
            blocks.append(_group_block(group, rows, first, index))
        first += len(group.labels)
    order = np.random.default_rng(seed).permutation(len(blocks))
    read = partial(read_row_groups, column=settings.image_column)
    return Listing(blocks=[blocks[i] for i in order], classes=classes, read=read, rows_are_files=False)


def list_rows(files: Sequence[str], image_column: str, carry: Sequence[str]) -> Iterator[pa.Table]:
    """A row per image of ``files``, in their order: columns uri, file, row_group, row, and those along."""
    read = partial(_rows_of_file, image_column=image_column, carry=carry)
    return joined((table for tables in in_order(read, files, READ_THREADS) for table in tables), files[0])


def joined(tables: Iterable[pa.Table], first_file: str) -> Iterator[pa.Table]:
    """The tables of several files, in the same types, once all are there; raises ValueError where types do not agree."""
    with Spool() as spool:
        for table in tables:
            spool.add(table)
        try:
            schema = spool.schema()
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(
                f"{first_file} and the files after it hold a column in different types ({error}); write them alike, or leave "
                f"it out of input.carry_columns"
            ) from error
        yield from spool.tables(schema=schema)


def along(table: pa.Table, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """The columns ``names`` as they go along; categories become what they stand for."""
    columns = {ALONG + name: table[name] for name in names}
    return {
        name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for name, column in columns.items()
    }


def _rows_of_file(uri: str, image_column: str, carry: Sequence[str]) -> Iterable[pa.Table]:
    """The rows of a file, at once when they are few, else row group by row group as they are asked for."""
    with open_parquet(uri) as file:
        _check_columns(file.schema_arrow, uri, image_column, *carry)
        _check_images(file.schema_arrow.field(image_column).type, uri, image_column)
        few = file.metadata.num_rows <= AT_ONCE_ROWS
    groups = _rows_of_groups(uri, carry)
    return [pa.concat_tables(groups)] if few and file.num_row_groups else groups


def _rows_of_groups(uri: str, carry: Sequence[str]) -> Iterator[pa.Table]:
    with open_parquet(uri) as file:
        first = 0
        for number in range(file.num_row_groups):
            size = file.metadata.row_group(number).num_rows
            names = [f"{uri}#{row}" for row in range(first, first + size)]
            places = {"uri": pa.array(names, pa.string()), "file": pa.array([uri] * size, pa.string())}
            numbers = {"row_group": np.full(size, number, np.int64), "row": np.arange(size, dtype=np.int64)}
            further = file.read_row_group(number, columns=list(carry)) if carry else pa.table({})
            yield pa.table({**places, **numbers, **along(further, carry)})
            first += size


def holds_images(schema: pa.Schema, column: str) -> bool:
    """Whether ``column`` is there and holds encoded images."""
    return column in schema.names and _is_bytes(schema.field(column).type)


@dataclass(frozen=True)
class _RowGroup:
    file: str
    number: int
    first_row: int
    """Rows of the file before this row group."""
    labels: pa.Array
    """Names of classes, or whole numbers that are their names; null where there is no label."""


@dataclass(frozen=True)
class _Shard:
    """The labels of a file."""

    file: str
    groups: list[_RowGroup]
    kind: str
    """What stands in the column: whole numbers or text."""
    names: tuple[str, ...] | None
    """Names of the classes by number, from the schema's metadata."""


def _read_labels(uri: str, settings: DatasetSettings) -> _Shard:
    """The row groups of a file with their labels; only the label column is read."""
    column = settings.label_column
    with open_parquet(uri) as file:
        schema = file.schema_arrow
        _check_columns(schema, uri, settings.image_column, column)
        _check_images(schema.field(settings.image_column).type, uri, settings.image_column)
        names, groups, first_row = _declared_names(schema, column), [], 0
        for number in range(file.num_row_groups):
            values = file.read_row_group(number, columns=[column])[column].combine_chunks()
            groups.append(_RowGroup(uri, number, first_row, _checked_labels(values, names, uri, column)))
            first_row += len(values)
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return _Shard(uri, groups, "whole numbers" if pa.types.is_integer(kind) else "text", names)


def _check_columns(schema: pa.Schema, uri: str, *wanted: str) -> None:
    for name in wanted:
        if name not in schema.names:
            raise ValueError(
                f"{uri} has no column {name!r} (it has {', '.join(schema.names)}); set image_column and label_column, or "
                f"rename it"
            )


def _check_alike(shards: Sequence[_Shard], column: str) -> None:
    """Refuse (ValueError) files of one data set that name their classes in different ways."""
    for shard in shards:
        first = shards[0]
        if shard.kind != first.kind:
            raise ValueError(
                f"column {column!r} holds {first.kind} in {first.file} and {shard.kind} in {shard.file}; write them alike"
            )
        if shard.names != first.names:
            raise ValueError(
                f"{first.file} and {shard.file} name their classes differently in their schemas; write them alike"
            )


def _declared_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Names of the classes by number, as Hugging Face's ``ClassLabel`` leaves them in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _check_images(kind: pa.DataType, uri: str, column: str) -> None:
    """Refuse (ValueError) a column of anything but bytes, such as paths."""
    if not _is_bytes(kind):
        raise ValueError(
            f"{uri}: column {column!r} must hold encoded images (binary), got {kind}; put the files' bytes there"
        )


def _checked_labels(values: pa.Array, names: tuple[str, ...] | None, uri: str, column: str) -> pa.Array:
    """Labels as int64 or string, null where there is none; raises ValueError for another type or a missing label."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.null_count:
        raise ValueError(f"{uri} has {values.null_count} rows without a label; remove them")
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return values.cast(pa.string())
    if not pa.types.is_integer(values.type):
        raise ValueError(f"{uri}: column {column!r} must be text or integers, got {values.type}")
    numbers = values.cast(pa.int64())
    numbers = pc.if_else(pc.equal(numbers, UNLABELLED), pa.scalar(None, pa.int64()), numbers)
    if names is None:
        return numbers
    outside = numbers.filter(pc.or_(pc.less(numbers, 0), pc.greater_equal(numbers, len(names)))).drop_null()
    if len(outside):
        raise ValueError(
            f"{uri}: label {outside[0]} has no name, the schema's metadata names {len(names)}; mend the labels or the names"
        )
    return pa.array(names, pa.string()).take(numbers)


def _group_block(group: _RowGroup, rows: np.ndarray, first_id: int, index: dict[str, int]) -> pa.Table:
    labels = [index[str(value)] for value in group.labels.take(rows).to_pylist()]
    return pa.table(
        {
            "image_id": (rows + first_id).astype(np.int64),
            "uri": [f"{group.file}#{group.first_row + row}" for row in rows],
            "label": pa.array(labels, pa.int64()),
            "file": [group.file] * len(rows),
            "row_group": pa.array([group.number] * len(rows), pa.int64()),
            "row": rows.astype(np.int64),
        }
    )


def open_parquet(uri: str) -> pq.ParquetFile:
    """The open Parquet file ``uri``; raises ValueError, naming it, when it is none."""
    file_system, path = storage.resolve(uri)
    file = file_system.open_input_file(path)
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        head = file.read_at(min(file.size(), len(_LFS_POINTER)), 0)
        if head == _LFS_POINTER:
            raise ValueError(f"{uri} is a pointer of Git LFS, not the file itself; run git lfs pull") from error
        raise ValueError(
            f"{uri} is no Parquet file ({file.size()} bytes; {error}); write it again, or take it away"
        ) from error


def read_row_groups(
    block: pa.Table, chunk_images: int, column: str = "image"
) -> Iterator[tuple[pa.Table, list[bytes | OSError]]]:
    """The images of a block that lies in one row group (rows ascending), read once; a null is empty bytes.

    What cannot be read, be it a file that has gone since or a damaged page, is the error of every row that it concerns.
    """
    uri, rows, done = block["file"][0].as_py(), block["row"].to_numpy(), 0
    try:
        with open_parquet(uri) as file:
            first = 0
            for batch in file.iter_batches(chunk_images, [block["row_group"][0].as_py()], [column]):
                start, stop = np.searchsorted(rows, [first, first + len(batch)])
                if stop > start:
                    values = batch.column(0).take(pa.array(rows[start:stop] - first))
                    yield block.slice(start, stop - start), _contents(values, uri)
                    done = int(stop)
                first += len(batch)
    except OSError as error:
        lost = error
    except (ValueError, pa.ArrowException) as error:
        lost = OSError(f"{type(error).__name__}: {error}")
    else:
        return
    for start in range(done, len(block), chunk_images):
        rest = block.slice(start, chunk_images)
        yield rest, [lost] * len(rest)


def _contents(values: pa.Array, file: str) -> list[bytes | OSError]:
    """The bytes of each image; where they are null but a path is given, what it leads to, beside ``file`` if relative."""
    if not pa.types.is_struct(values.type):
        return [value or b"" for value in values.to_pylist()]
    given = pc.struct_field(values, "bytes").to_pylist()
    found: list[bytes | OSError] = [value or b"" for value in given]
    if values.type.get_field_index("path") < 0:
        return found
    paths = pc.struct_field(values, "path").to_pylist()
    elsewhere = [row for row, value in enumerate(given) if value is None and paths[row]]
    if elsewhere:
        folder = file.rpartition("/")[0]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            read = pool.map(read_or_error, (storage.beside(folder, paths[row]) for row in elsewhere))
            for row, content in zip(elsewhere, read, strict=True):
                found[row] = content
    return found
