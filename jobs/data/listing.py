"""Which labelled images there are: names, labels and where the bytes lie, without reading a single image.

Class folders: ``path/CLASS/...``, the class is the first folder below ``path``. Parquet: files with the columns
``image`` (encoded bytes, or a struct with the field ``bytes``, as data sets of Hugging Face have it) and ``label`` (text,
or integers, whose decimal text is the class name). Hidden files (``storage.list_visible``) are no data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anchornet.files import storage
from jobs.data.ingest import read_or_error
from jobs.settings import DatasetSettings

READ_THREADS = 16
BLOCK_IMAGES = 128
Reader = Callable[[pa.Table, int], Iterator[tuple[pa.Table, list[bytes | OSError]]]]
"""(block of a listing, images per chunk) -> chunks of (rows, the bytes of each or the error that reading it gave)."""


@dataclass(frozen=True)
class Listing:
    """Labelled images by name."""

    blocks: list[pa.Table]
    """Columns image_id int64, uri string, label int64; for Parquet also file, row_group, row (in the row group)."""
    classes: tuple[str, ...]
    read: Reader
    """How to get the bytes of a block's rows."""
    rows_are_files: bool
    """True when each row is a file of its own, so rows may be shuffled freely; False: a block is one row group."""

    @property
    def num_images(self) -> int:
        """Images in all blocks."""
        return sum(block.num_rows for block in self.blocks)


def list_images(settings: DatasetSettings, classes: tuple[str, ...] | None, *, seed: int) -> Listing:
    """The labelled images below ``settings.path``, in an order drawn from ``seed``, at most ``settings.limit`` of them.

    image_id is the position in the sorted listing, whatever the seed and the limit. classes: None takes the sorted
    names found in the data (at least two). Raises ValueError when there is nothing to read, a single class, a file
    outside a class folder, a label that ``classes`` does not have, or Parquet without the two columns.
    """
    files = _visible_files(settings.path)
    parquet = [uri.endswith(".parquet") for uri in files]
    if any(parquet) and not all(parquet):
        raise ValueError(f"data set {settings.path} mixes Parquet and other files; keep one kind below one folder")
    if all(parquet):
        return _list_parquet(files, settings, classes, seed)
    return _list_folders(files, settings, classes, seed)


def _visible_files(path: str) -> list[str]:
    root = storage.absolute(path).rstrip("/")
    if root.endswith(".parquet"):
        return [root]
    try:
        visible = storage.list_visible(root)
    except FileNotFoundError as error:
        raise ValueError(
            f"data set {path} does not exist; give a folder, an s3:// prefix or a .parquet file"
        ) from error
    if not visible:
        raise ValueError(f"data set {path} is empty; put images into one folder per class, or give Parquet files")
    return visible


def _list_folders(files: list[str], settings: DatasetSettings, classes: tuple[str, ...] | None, seed: int) -> Listing:
    root = storage.absolute(settings.path).rstrip("/")
    parts = [uri[len(root) + 1 :].split("/") for uri in files]
    loose = [part[0] for part in parts if len(part) == 1]
    if loose:
        raise ValueError(
            f"data set {settings.path} has {len(loose)} files outside a class folder, such as {loose[0]}; "
            f"move each image into the folder of its class"
        )
    names = [part[0] for part in parts]
    classes = _class_names(sorted(set(names)), classes, settings.path)
    index = {name: position for position, name in enumerate(classes)}
    labels = np.array([index[name] for name in names], dtype=np.int64)
    chosen = _chosen(len(files), settings.limit, seed)
    table = pa.table({"image_id": chosen, "uri": pa.array(files).take(chosen), "label": labels[chosen]})
    blocks = [table.slice(start, BLOCK_IMAGES).combine_chunks() for start in range(0, len(chosen), BLOCK_IMAGES)]
    return Listing(blocks=blocks, classes=classes, read=read_files, rows_are_files=True)


def _class_names(found: Sequence[str], given: tuple[str, ...] | None, path: str) -> tuple[str, ...]:
    """The class names to use; raises ValueError when the data has a class that the network does not, or only one."""
    if given is None:
        if len(found) < 2:
            raise ValueError(f"data set {path} has a single class, {found[0]!r}; a classifier needs at least two")
        return tuple(found)
    unknown = sorted(set(found) - set(given))
    if unknown:
        raise ValueError(
            f"data set {path} has {len(unknown)} classes that the network does not know, such as {unknown[0]!r}; "
            f"it knows {', '.join(given[:5])}{', ...' if len(given) > 5 else ''}"
        )
    return given


def _chosen(num_images: int, limit: int | None, seed: int) -> np.ndarray:
    """Positions of the images to use, shuffled: int64 (min(num_images, limit),)."""
    return np.random.default_rng(seed).permutation(num_images)[:limit].astype(np.int64)


def _list_parquet(files: list[str], settings: DatasetSettings, classes: tuple[str, ...] | None, seed: int) -> Listing:
    with ThreadPoolExecutor(READ_THREADS) as pool:
        groups = [group for of_file in pool.map(_parquet_labels, files) for group in of_file]
    values = pa.concat_arrays([group.labels for group in groups])
    if not len(values):
        raise ValueError(f"data set {settings.path} has no rows; write at least one image into it")
    classes = _class_names([str(value) for value in sorted(pc.unique(values).to_pylist())], classes, settings.path)
    index = {name: position for position, name in enumerate(classes)}
    wanted = np.zeros(len(values), dtype=bool)
    wanted[_chosen(len(values), settings.limit, seed)] = True
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
    with _open_parquet(uri) as file:
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


def _open_parquet(uri: str) -> pq.ParquetFile:
    file_system, path = storage.resolve(uri)
    return pq.ParquetFile(file_system.open_input_file(path))


def read_files(block: pa.Table, chunk_images: int) -> Iterator[tuple[pa.Table, list[bytes | OSError]]]:
    """The content of each row's file, ``READ_THREADS`` at a time; an unreadable one gives its OSError."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, block.num_rows, chunk_images):
            chunk = block.slice(start, chunk_images)
            yield chunk, list(pool.map(read_or_error, chunk["uri"].to_pylist()))


def read_row_groups(block: pa.Table, chunk_images: int) -> Iterator[tuple[pa.Table, list[bytes | OSError]]]:
    """The image bytes of a block that lies in one row group (rows ascending), read once; a null is empty bytes."""
    rows = block["row"].to_numpy()
    with _open_parquet(block["file"][0].as_py()) as file:
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
