"""What a folder of label rows adds up to, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from anchornet.report import label_counts
from anchornet.report.label_counts import MOST_REASONS, OTHER_REASONS, LabelCounts, count_labels, label_tables


def rows(*values: tuple[int, str, str | None, str | None, float]) -> pa.Table:
    """A table of (image_id, status, error, exit, gflops)."""
    columns = zip(*values, strict=True)
    types = (pa.int64(), pa.string(), pa.string(), pa.string(), pa.float64())
    names = ("image_id", "status", "error", "exit", "gflops")
    return pa.table({name: pa.array(list(c), t) for name, c, t in zip(names, columns, types, strict=True)})


def write(folder: Path, name: str, table: pa.Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name)


def test_everything_is_counted_once(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", rows((0, "ok", None, "glance", 0.1), (2, "unreadable", "empty file", None, 0.0)))
    write(tmp_path, "b.parquet", rows((1, "ok", None, "patch1", 0.25), (3, "failed", "empty file", "glance", 0.1)))
    (tmp_path / "notes.txt").write_text("no labels")
    counts = count_labels(str(tmp_path), 5)
    assert counts.rows == 4
    assert counts.status == {"ok": 2, "unreadable": 1, "failed": 1}
    assert counts.exits == {"glance": 2, "patch1": 1}
    assert counts.errors == {"empty file": 2}
    assert counts.spent_macs == 450_000_000
    assert (counts.missing, counts.repeated) == (1, 0)


def test_repeated_rows_are_told_from_missing_ones(tmp_path: Path) -> None:
    again = (1, "ok", None, "glance", 0.1)
    write(tmp_path, "a.parquet", rows(again, again, again, (0, "ok", None, "glance", 0.1)))
    counts = count_labels(str(tmp_path), 4)
    assert (counts.rows, counts.missing, counts.repeated) == (4, 2, 2)


def test_ids_of_a_part_of_the_listing_may_be_larger_than_its_size(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", rows(*((image_id, "ok", None, "glance", 0.1) for image_id in (9, 1, 5))))
    write(tmp_path, "b.parquet", rows((1, "ok", None, "glance", 0.1)))
    counts = count_labels(str(tmp_path), 4)
    assert (counts.rows, counts.missing, counts.repeated) == (4, 1, 1)


def test_integers_come_back_from_gflops() -> None:
    assert int(540_877_402_764 / 1e9 * 1e9) == 540_877_402_763  # rounding down loses one
    macs = [60_028_600, 1, 540_877_402_764, 9_007_199_254_740_991 // 4, 850_300_000]
    counts = LabelCounts()
    counts.add(rows(*((i, "ok", None, "glance", value / 1e9) for i, value in enumerate(macs))))
    assert counts.spent_macs == sum(macs)


def test_reasons_beyond_the_most_are_counted_together() -> None:
    counts = LabelCounts()
    counts.add(rows(*((i, "failed", f"reason {i}", None, 0.0) for i in range(MOST_REASONS + 3))))
    counts.add(rows((90, "failed", "reason 0", None, 0.0), (91, "failed", "reason 99", None, 0.0)))
    assert len(counts.errors) == MOST_REASONS + 1
    assert counts.errors["reason 0"] == 2
    assert counts.errors[OTHER_REASONS] == 4
    assert counts.errors.total() == counts.rows == MOST_REASONS + 5


def test_no_folder_is_no_rows(tmp_path: Path) -> None:
    assert list(label_tables(str(tmp_path / "absent"))) == []
    assert count_labels(str(tmp_path / "absent"), 3).missing == 3


def test_tables_have_the_columns_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", rows((0, "ok", None, "glance", 0.1)))
    assert [table.column_names for table in label_tables(str(tmp_path), ["exit"])] == [["exit"]]
    assert next(label_counts.label_tables(str(tmp_path))).num_columns == 5
