"""The rows of a label job: the manifest it starts from, the rows that travel, the rows users get.

All columns are plain Arrow, so that Ray knows their size and any tool can read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from anchornet.cascade.standing import NO_EXIT, Standing
from anchornet.units import GIGA

OK, UNREADABLE, FAILED = "ok", "unreadable", "failed"
STATUSES = (OK, UNREADABLE, FAILED)
BUDGET_EXHAUSTED = "budget exhausted before the first exit"
NOT_FINITE = "the network's output is not finite"

MANIFEST_SCHEMA = pa.schema([("image_id", pa.int64()), ("uri", pa.string())])

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

CARRY = "carry_"
"""Prefix of the columns that hold a cascade's state between stages; null in rows that have left."""


def manifest_table(uris: Sequence[str]) -> pa.Table:
    """The manifest of ``uris``: image_id is the position in the list."""
    return pa.table({"image_id": np.arange(len(uris), dtype=np.int64), "uri": list(uris)}, schema=MANIFEST_SCHEMA)


def work_table(
    image_ids: np.ndarray,
    uris: Sequence[str],
    pixels: Sequence[bytes | None],
    status: Sequence[str],
    errors: Sequence[str | None],
) -> pa.Table:
    """Fresh rows after decoding: pixels are 224*224*3 bytes (HWC), None where ``errors`` gives the reason."""
    standing = Standing.fresh(len(image_ids), num_boxes=0)
    table = pa.table(
        {
            "image_id": image_ids.astype(np.int64),
            "uri": pa.array(uris, pa.string()),
            "status": pa.array(status, pa.string()),
            "error": pa.array(errors, pa.string()),
            f"{CARRY}image": pa.array(pixels, pa.binary()),
        }
    )
    return with_standing(table, standing)


def with_standing(table: pa.Table, standing: Standing) -> pa.Table:
    """``table`` with the columns of ``standing`` set."""
    columns = {
        "label_id": pa.array(standing.label_id, pa.int32()),
        "score": pa.array(standing.score, pa.float32()),
        "exit": pa.array(standing.exit, pa.int16()),
        "macs": pa.array(standing.macs, pa.int64()),
        "boxes": pa.array(list(standing.boxes.reshape(len(standing.boxes), -1)), pa.list_(pa.int16())),
    }
    return with_columns(table, columns)


def read_standing(table: pa.Table, num_boxes: int) -> Standing:
    """The standing of every row of ``table``."""
    boxes = np.full((len(table), num_boxes * 3), -1, np.int16)
    for i, row in enumerate(table["boxes"].to_pylist()):
        boxes[i, : len(row)] = row
    return Standing(
        label_id=table["label_id"].to_numpy(),
        score=table["score"].to_numpy(),
        exit=table["exit"].to_numpy(),
        macs=table["macs"].to_numpy(),
        boxes=boxes.reshape(len(table), num_boxes, 3),
    )


def with_columns(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """``table`` with ``columns`` replaced or appended."""
    for name, values in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    return table


def carrying_rows(table: pa.Table) -> np.ndarray:
    """(n,) int64: positions of the rows that still carry a state, so want the next stage."""
    return np.flatnonzero(table[f"{CARRY}image"].is_valid().to_numpy())


def read_carried(
    table: pa.Table, rows: np.ndarray, layout: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
) -> dict[str, np.ndarray]:
    """State arrays of ``rows``: for each name of ``layout`` (dtype, shape of one row) an array (n, *shape)."""
    arrays = {}
    for name, (dtype, shape) in layout.items():
        chunks = table[f"{CARRY}{name}"].take(pa.array(rows)).to_pylist()
        # Writable, because torch refuses to wrap read-only memory.
        arrays[name] = np.frombuffer(bytearray(b"".join(chunks)), dtype).reshape(len(rows), *shape)
    return arrays


def with_carried(table: pa.Table, rows: np.ndarray, arrays: Mapping[str, np.ndarray]) -> pa.Table:
    """``table`` in which exactly ``rows`` carry ``arrays``; the state columns of all other rows are null."""
    table = table.drop_columns([name for name in table.column_names if name.startswith(CARRY)])
    columns = {}
    for name, array in arrays.items():
        values: list[bytes | None] = [None] * len(table)
        for row, value in zip(rows, np.ascontiguousarray(array), strict=True):
            values[row] = value.tobytes()
        columns[f"{CARRY}{name}"] = pa.array(values, pa.binary())
    return with_columns(table, columns)


def finish(
    table: pa.Table, classes: Sequence[str], exit_names: Sequence[str], confidence: np.ndarray | None
) -> pa.Table:
    """Output rows (LABEL_SCHEMA) from rows that have left; ``confidence`` (N,) is NaN or None where there is none.

    A row that no exit was computed for, or whose score is NaN (overflow in a network), has no label and status ``failed``.
    """
    exits, score = table["exit"].to_numpy(), table["score"].to_numpy()
    labelled = (exits != NO_EXIT) & ~np.isnan(score)
    status = np.array(table["status"].to_pylist(), dtype=object)
    error = np.array(table["error"].to_pylist(), dtype=object)
    for lost, reason in (exits == NO_EXIT, BUDGET_EXHAUSTED), (np.isnan(score), NOT_FINITE):
        lost = lost & (status == OK)
        status[lost], error[lost] = FAILED, reason
    label_id = table["label_id"].to_numpy()
    calibrated = np.full(len(table), np.nan) if confidence is None else confidence
    columns = {
        "image_id": table["image_id"],
        "uri": table["uri"],
        "label": pa.array(
            [classes[i] if known else None for i, known in zip(label_id, labelled, strict=True)], pa.string()
        ),
        "label_id": pa.array(label_id, pa.int32(), mask=~labelled),
        "confidence": pa.array(calibrated, pa.float32(), mask=~labelled | np.isnan(calibrated)),
        "score": pa.array(score, pa.float32(), mask=~labelled),
        "exit": pa.array(
            [exit_names[k] if known else None for k, known in zip(exits, labelled, strict=True)], pa.string()
        ),
        "gflops": pa.array(table["macs"].to_numpy() / GIGA, pa.float64()),
        "boxes": pa.array([_boxes(row) for row in table["boxes"].to_pylist()], pa.list_(BOX)),
        "status": pa.array(status, pa.string()),
        "error": pa.array(error, pa.string()),
    }
    return pa.table(columns, schema=LABEL_SCHEMA)


def _boxes(flat: list[int]) -> list[dict[str, int]] | None:
    """Boxes of one row; None when no patch was chosen."""
    triples = [flat[i : i + 3] for i in range(0, len(flat), 3)]
    chosen = [dict(zip(("top", "left", "size"), triple, strict=True)) for triple in triples if triple[0] >= 0]
    return chosen or None
