"""Parquet: files with the columns ``image`` and ``label``, read by row group.

``image`` holds encoded bytes, or a struct with the field ``bytes``, as data sets of Hugging Face have it; ``label`` holds
text, or integers, whose decimal text is the class name.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anchornet.data.listing import DatasetSettings, Listing, chosen_rows, class_names
from anchornet.data.reading import READ_THREADS
from anchornet.files import storage

_LFS_POINTER = b"version https://git-lfs"
"""What a file of Git LFS begins with as long as nobody has fetched its content."""


def list_parquet(files: list[str], settings: DatasetSettings, classes: tuple[str, ...] | None, seed: int) -> Listing:
    """The listing of all rows of ``files``; raises ValueError for other columns, or nothing in them."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        groups = [group for of_file in pool.map(_parquet_labels, files) for group in of_file]
    values = pa.concat_arrays([group.labels for group in groups])
    if not len(values):
        raise ValueError(f"data set {settings.path} has no rows; write at least one image into it")
    classes = class_names([str(value) for value in sorted(pc.unique(values).to_pylist())], classes, settings.path)
    index = {name: position for position, name in enumerate(classes)}
    wanted = np.zeros(len(values), dtype=bool)
    wanted[chosen_rows(len(values), settings.limit, seed)] = True
    blocks, first = [], 0
    for group in groups:
        rows = np.flatnonzero(wanted[first : first + len(group.labels)])
        if len(rows):
            blocks.append(_group_block(group, rows, first, index))
        first += len(group.labels)
    order = np.random.default_rng(seed).permutation(len(blocks))
    return Listing(blocks=[blocks[i] for i in order], classes=classes, read=read_row_groups, rows_are_files=False)


@dataclass(frozen=True)
class _RowGroup:
    file: str
    number: int
    first_row: int
    """Rows of the file before this row group."""
    labels: pa.Array


def _parquet_labels(uri: str) -> list[_RowGroup]:
    """The row groups of a file with their labels; only the label column is read."""
    with open_parquet(uri) as file:
        schema = file.schema_arrow
        missing = [name for name in ("image", "label") if name not in schema.names]
        if missing:
            raise ValueError(f"{uri} has no column {missing[0]!r} (it has {', '.join(schema.names)}); rename it")
        _check_images(schema.field("image").type, uri)
        groups, first_row = [], 0
        for number in range(file.num_row_groups):
            column = file.read_row_group(number, columns=["label"])["label"].combine_chunks()
            groups.append(_RowGroup(uri, number, first_row, _checked_labels(column, uri)))
            first_row += len(column)
    return groups


def _check_images(kind: pa.DataType, uri: str) -> None:
    """Refuse (ValueError) a column of anything but bytes, such as paths."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ValueError(
            f"{uri}: column 'image' must hold encoded images (binary), got {kind}; put the files' bytes there"
        )


def _checked_labels(column: pa.Array, uri: str) -> pa.Array:
    """Labels as int64 or string; raises ValueError for another type or a missing label."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        raise ValueError(f"{uri} has {column.null_count} rows without a label; remove them")
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    raise ValueError(f"{uri}: column 'label' must be text or integers, got {column.type}")


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


def read_row_groups(block: pa.Table, chunk_images: int) -> Iterator[tuple[pa.Table, list[bytes | OSError]]]:
    """The image bytes of a block that lies in one row group (rows ascending), read once; a null is empty bytes."""
    rows = block["row"].to_numpy()
    with open_parquet(block["file"][0].as_py()) as file:
        first = 0
        for batch in file.iter_batches(chunk_images, [block["row_group"][0].as_py()], ["image"]):
            start, stop = np.searchsorted(rows, [first, first + len(batch)])
            if stop > start:
                chunk = block.slice(start, stop - start)
                values = _image_bytes(batch.column(0)).take(pa.array(rows[start:stop] - first))
                yield chunk, [value.as_py() or b"" for value in values]
            first += len(batch)


def _image_bytes(column: pa.Array) -> pa.Array:
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
