"""Exit tables: checked at the door, the same after a round trip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.budget.exit_table import ExitTable


def small(labelled: bool = True) -> ExitTable:
    return ExitTable(
        exits=("first", "second"),
        image_id=np.array([7, 3, 9]),
        confidence=np.array([[0.5, 0.75], [0.25, 0.5], [1.0, 1.0]], np.float32),
        prediction=np.array([[1, 2], [0, 0], [4, 1]]),
        cost_macs=np.array([[10, 30], [10, 30], [10, 40]]),
        label=np.array([2, 0, 4]) if labelled else None,
    )


def test_correct_compares_every_exit_with_the_label() -> None:
    assert small().correct.tolist() == [[False, True], [True, True], [True, False]]


def test_types_are_settled() -> None:
    table = small()
    assert [table.image_id.dtype, table.confidence.dtype, table.prediction.dtype, table.cost_macs.dtype] == [
        np.int64, np.float32, np.int32, np.int64,
    ]  # fmt: skip
    assert (len(table), table.num_exits) == (3, 2)


def test_labels_that_are_all_unknown_are_none() -> None:
    assert replace(small(), label=np.full(3, -1)).label is None


@pytest.mark.parametrize("labelled", [True, False])
def test_round_trip(tmp_path: Path, labelled: bool) -> None:
    uri = str(tmp_path / "folder" / "exit_table.parquet")
    small(labelled).to_parquet(uri)
    read = ExitTable.from_parquet(uri)
    assert read.exits == ("first", "second")
    for name in ("image_id", "confidence", "prediction", "cost_macs"):
        np.testing.assert_array_equal(getattr(read, name), getattr(small(), name))
    assert (read.label is None) is not labelled


def test_select_takes_rows_of_every_column() -> None:
    picked = small().select(np.array([2, 0]))
    assert picked.image_id.tolist() == [9, 7]
    assert picked.cost_macs.tolist() == [[10, 40], [10, 30]]
    assert picked.label is not None and picked.label.tolist() == [4, 2]


def test_without_labels_nothing_is_correct() -> None:
    with pytest.raises(ValueError, match="exit table has no labels, so nothing is known to be correct"):
        _ = small(labelled=False).correct


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": np.full((3, 2), np.nan, np.float32)}, "confidence must be finite, got NaN"),
        ({"confidence": np.zeros((3, 3), np.float32)}, r"must have shape \(3, 2\), got \(3, 3\)"),
        ({"image_id": np.array([1, 1, 2])}, "image_id must be unique, got repeated ids"),
        ({"image_id": np.array([1.5, 2.5, 3.5])}, "must hold int64, got float64; convert it first"),
        ({"cost_macs": np.array([[10, 5]] * 3)}, "must be cumulative and >= 0"),
        ({"cost_macs": np.array([[-1, 5]] * 3)}, "must be cumulative and >= 0"),
        ({"label": np.array([0, -1, 2])}, "every image or for none"),
        ({"label": np.array([0, 1])}, r"must have shape \(3,\)"),
        ({"exits": ()}, "exit table is empty"),
    ],
)
def test_what_is_wrong_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(small(), **change)


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "other.parquet")
    pq.write_table(pa.table({"image_id": [1]}), uri)
    with pytest.raises(ValueError, match="is not an exit table"):
        ExitTable.from_parquet(uri)
