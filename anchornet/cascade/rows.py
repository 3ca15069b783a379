"""The rows of a label job: the manifest it starts from, the rows that travel, the rows users get.

All columns are plain Arrow, so that Ray knows their size and any tool can read them; none of them is built or read row by
row in Python. What a row carries for its next stage is binary, all values of a column one after the other: a row that has
left has an empty value and costs nothing, and the survivors of a block lie in one piece of memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anchornet.cascade.standing import NO_EXIT, NO_EXTRAS, Extras, Standing
from anchornet.units import GIGA

OK, UNREADABLE, FAILED = "ok", "unreadable", "failed"
STATUSES = (OK, UNREADABLE, FAILED)
BUDGET_EXHAUSTED = "budget exhausted before the first exit"
NOT_FINITE = "the network's output is not finite"

BOX = pa.struct([("top", pa.int16()), ("left", pa.int16()), ("size", pa.int16())])

LABEL_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("uri", pa.string()),
        ("label", pa.string()),
        ("label_id", pa.int32()),
        ("confidence", pa.float32()),
        ("score", pa.float32()),
        ("exit", pa.string()),
        ("gflops", pa.float64()),
        ("boxes", pa.list_(BOX)),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)

TOP = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))
EXTRAS = {"top": TOP, "embedding": pa.list_(pa.float16())}
"""Columns that labels have when they were asked for, after those of LABEL_SCHEMA."""

Layout = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Columns of a row that travels between stages: name -> (dtype, shape of one row)."""
IMAGE = "image"
"""The one column that the first stage takes: uint8 pixels, (H, W, 3), or several views one after the other."""

_WIDE = ("boxes", "top_id", "top_probability", "embedding")
"""Fields of a standing that hold several values per row."""
ALONG = "along_"
"""Prefix of the columns that go along from the input into the labels, untouched."""
WANTS = "wants_next"
"""Boolean column: this row wants the next stage, and carries a state for it."""
_CARRY = "carry_"
"""Prefix of the columns that hold a cascade's state between stages."""


def image_layout(size: int) -> Layout:
    """What the first stage of a cascade takes: images of ``size`` x ``size`` pixels."""
    return pixel_layout((size, size, 3))


def pixel_layout(shape: tuple[int, ...]) -> Layout:
    """What the first stage of a cascade takes: pixels of any shape, uint8."""
    return {IMAGE: (np.dtype(np.uint8), shape)}


def along_name(name: str) -> str:
    """What the column ``name`` of the input is called in the labels: its own name, unless label rows have that already."""
    return f"input_{name}" if name in (*LABEL_SCHEMA.names, *EXTRAS) else name


def along_columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The columns of ``table`` that go along, under their names in it."""
    return {name: table[name] for name in table.column_names if name.startswith(ALONG)}


def work_table(
    image_ids: np.ndarray,
    uris: Sequence[str],
    images: Sequence[np.ndarray | None],
    status: Sequence[str],
    errors: Sequence[str | None],
    shape: tuple[int, ...],
) -> pa.Table:
    """Fresh rows after decoding, not yet in any stage.

    images: uint8 of ``shape`` each, None where ``errors`` gives the reason.
    """
    table = pa.table(
        {
            "image_id": image_ids.astype(np.int64),
            "uri": pa.array(uris, pa.string()),
            "status": pa.array(status, pa.string()),
            "error": pa.array(errors, pa.string()),
        }
    )
    layout = pixel_layout(shape)
    readable = [image for image in images if image is not None]
    stacked = np.stack(readable) if readable else np.zeros((0, *shape), np.uint8)
    rows = np.flatnonzero([image is not None for image in images])
    return with_carried(table, rows, {IMAGE: stacked}, layout)


def with_standing(table: pa.Table, standing: Standing) -> pa.Table:
    """``table`` with the columns of ``standing`` set."""
    columns = {
        "label_id": pa.array(standing.label_id, pa.int32()),
        "score": pa.array(standing.score, pa.float32()),
        "exit": pa.array(standing.exit, pa.int16()),
        "macs": pa.array(standing.macs, pa.int64()),
    }
    for name in _WIDE:
        values: np.ndarray = getattr(standing, name)
        if width := math.prod(values.shape[1:]):
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, width)
    return with_columns(table, columns)


def with_failed(table: pa.Table, rows: np.ndarray, reason: str) -> pa.Table:
    """``table`` in which ``rows`` (n,) have the status ``failed``, for a reason."""
    failed = np.zeros(len(table), bool)
    failed[rows] = True
    status, error = (table[name].combine_chunks() for name in ("status", "error"))
    return with_columns(
        table,
        {"status": pc.if_else(pa.array(failed), FAILED, status), "error": pc.if_else(pa.array(failed), reason, error)},
    )


def read_standing(table: pa.Table, num_boxes: int, extras: Extras = NO_EXTRAS) -> Standing:
    """The standing of every row of ``table``; fresh before the first stage."""
    fresh = Standing.fresh(len(table), num_boxes, extras)
    if "exit" not in table.column_names:
        return fresh
    columns = {name: table[name].to_numpy() for name in ("label_id", "score", "exit", "macs")}
    for name in _WIDE:
        if name in table.column_names:
            width = table[name].type.list_size
            shape = (width // 3, 3) if name == "boxes" else (width,)
            columns[name] = table[name].combine_chunks().flatten().to_numpy().reshape(len(table), *shape)
    return replace(fresh, **columns)


def with_columns(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """``table`` with ``columns`` replaced or appended."""
    for name, values in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    return table


def wanting_rows(table: pa.Table) -> np.ndarray:
    """(n,) int64: positions of the rows that want the next stage."""
    return np.flatnonzero(table[WANTS].to_numpy())


def read_carried(table: pa.Table, layout: Layout) -> dict[str, np.ndarray]:
    """State arrays of the n rows that want the next stage: for each name of ``layout`` an array (n, *shape), writable."""
    num_rows = len(wanting_rows(table))
    return {
        name: _dense_bytes(table[_CARRY + name]).view(dtype).reshape(num_rows, *shape)
        for name, (dtype, shape) in layout.items()
    }


def with_carried(table: pa.Table, rows: np.ndarray, arrays: Mapping[str, np.ndarray], layout: Layout) -> pa.Table:
    """``table`` in which exactly ``rows`` (n,), ascending, want the next stage and carry ``arrays`` of n rows each.

    layout: what that stage takes; an array of another type or shape is a bug of the cascade.
    """
    assert set(arrays) == set(layout), (sorted(arrays), sorted(layout))
    table = table.drop_columns([name for name in table.column_names if name.startswith(_CARRY)])
    wants = np.zeros(len(table), bool)
    wants[rows] = True
    columns: dict[str, pa.Array] = {WANTS: pa.array(wants)}
    for name, (dtype, shape) in layout.items():
        array = np.ascontiguousarray(arrays[name])
        assert array.dtype == dtype and array.shape == (len(rows), *shape), (name, array.dtype, array.shape)
        columns[_CARRY + name] = _sparse_binary(array, wants)
    return with_columns(table, columns)


def without_carried(table: pa.Table) -> pa.Table:
    """``table`` without anything that is only meant for a next stage."""
    return table.drop_columns([name for name in table.column_names if name.startswith(_CARRY) or name == WANTS])


def finish(
    table: pa.Table,
    classes: Sequence[str],
    exit_names: Sequence[str],
    confidence: np.ndarray | None,
    embedding_sizes: Sequence[int] = (),
) -> pa.Table:
    """Output rows from rows that have left: LABEL_SCHEMA, those of EXTRAS that they hold, then what goes along.

    confidence (N,): NaN or None for none. embedding_sizes: values of the embedding of each exit, when there are any. A row that
    no exit was computed for, or whose score is NaN (overflow in a network), has no label and status ``failed``.
    """
    exits, score = table["exit"].to_numpy(), table["score"].to_numpy()
    unknown = (exits == NO_EXIT) | np.isnan(score)
    status, error = table["status"].combine_chunks(), table["error"].combine_chunks()
    for lost, reason in (exits == NO_EXIT, BUDGET_EXHAUSTED), (np.isnan(score), NOT_FINITE):
        lost = pc.and_(pa.array(lost), pc.equal(status, OK))
        status, error = pc.if_else(lost, FAILED, status), pc.if_else(lost, reason, error)
    label_id = pa.array(table["label_id"].to_numpy(), pa.int32(), mask=unknown)
    calibrated = np.full(len(table), np.nan) if confidence is None else confidence
    columns = {
        "image_id": table["image_id"],
        "uri": table["uri"],
        "label": pa.array(classes, pa.string()).take(label_id),
        "label_id": label_id,
        "confidence": pa.array(calibrated.astype(np.float32), mask=unknown | np.isnan(calibrated)),
        "score": pa.array(score, pa.float32(), mask=unknown),
        "exit": pa.array(exit_names, pa.string()).take(pa.array(exits, mask=unknown)),
        "gflops": pa.array(table["macs"].to_numpy() / GIGA),
        "boxes": _boxes(table),
        "status": status,
        "error": error,
    }
    labels = with_columns(pa.table(columns, schema=LABEL_SCHEMA), _extras(table, classes, embedding_sizes, unknown))
    return with_columns(
        labels, {along_name(name.removeprefix(ALONG)): column for name, column in along_columns(table).items()}
    )


def _extras(
    table: pa.Table, classes: Sequence[str], embedding_sizes: Sequence[int], unknown: np.ndarray
) -> dict[str, pa.Array]:
    """The columns of EXTRAS that rows hold; null where nothing is known."""
    columns = {}
    if "top_id" in table.column_names:
        ids = table["top_id"].combine_chunks().flatten()
        count = table["top_id"].type.list_size
        names = pa.array(classes, pa.string()).take(pa.array(ids.to_numpy(), mask=np.repeat(unknown, count)))
        parts = [names, table["top_probability"].combine_chunks().flatten()]
        structs = pa.StructArray.from_arrays(parts, fields=list(TOP.value_type))
        columns["top"] = _lists(structs, np.full(len(table), count), np.full(len(table), count), unknown)
    if "embedding" in table.column_names:
        values, width = table["embedding"].combine_chunks().flatten(), table["embedding"].type.list_size
        sizes = np.array([*embedding_sizes, 0])[table["exit"].to_numpy()]  # NO_EXIT, -1, takes the last
        columns["embedding"] = _lists(values, sizes, np.full(len(table), width), unknown)
    return columns


def _lists(values: pa.Array, sizes: np.ndarray, widths: np.ndarray, unknown: np.ndarray) -> pa.Array:
    """A list per row: the first ``sizes`` (N,) of its ``widths`` (N,) values; null where ``unknown`` holds."""
    sizes = np.where(unknown, 0, sizes)
    starts = np.cumsum(widths) - widths
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, sizes)
    return pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), values.take(pa.array(places)), mask=pa.array(unknown)
    )


def _boxes(table: pa.Table) -> pa.Array:
    """A list of BOX per row; null where no patch was chosen."""
    if "boxes" not in table.column_names:
        return pa.nulls(len(table), LABEL_SCHEMA.field("boxes").type)
    boxes = read_standing(table, table["boxes"].type.list_size // 3).boxes
    chosen = boxes[:, :, 0] >= 0
    counts = chosen.sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    structs = pa.StructArray.from_arrays([pa.array(column) for column in boxes[chosen].T], fields=list(BOX))
    return pa.ListArray.from_arrays(pa.array(offsets), structs, mask=pa.array(counts == 0))


def _sparse_binary(array: np.ndarray, wants: np.ndarray) -> pa.Array:
    """One binary value per row: those of ``array`` where ``wants`` holds, empty ones elsewhere; no copy."""
    width = array[0].nbytes if len(array) else 0
    offsets = np.concatenate([[0], np.cumsum(wants * np.int64(width))]).astype(np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(array)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(wants), buffers)


def _dense_bytes(column: pa.ChunkedArray) -> np.ndarray:
    """The values of a binary column one after the other, as bytes; a copy, because torch refuses read-only memory."""
    return np.concatenate([np.zeros(0, np.uint8), *map(_bytes_of, column.chunks)])


def _bytes_of(chunk: pa.Array) -> np.ndarray:
    _, offsets, data = chunk.buffers()
    if not len(chunk) or data is None:
        return np.zeros(0, np.uint8)
    ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
