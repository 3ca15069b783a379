"""What a folder of label rows adds up to: counts per status, exit and reason, the spend, and whether every image has a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anchornet.files import storage
from anchornet.ledger.seen import SeenImages
from anchornet.units import GIGA

_COLUMNS = ["image_id", "status", "error", "exit", "gflops"]

MOST_REASONS = 50
"""Distinct reasons that are counted apart; a reason may contain a file name, so there can be as many as images."""
OTHER_REASONS = "(other reasons)"


@dataclass
class LabelCounts:
    """Sums over label rows."""

    rows: int = 0
    status: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """Reasons of rows that are not ``ok``, and notes of some that are."""
    spent_macs: int = 0
    """Multiply-adds of the attempts that led to the rows; failed attempts are known to the ledger alone."""
    missing: int = 0
    """Images of the manifest without a row."""
    repeated: int = 0
    """Rows beyond the first of an image."""

    def add(self, table: pa.Table) -> None:
        """Add the rows of ``table`` (columns of LABEL_SCHEMA)."""
        self.rows += len(table)
        self.status.update(table["status"].to_pylist())
        self.exits.update(name for name in table["exit"].to_pylist() if name is not None)
        for text in table["error"].drop_null().to_pylist():
            known = text in self.errors or len(self.errors) < MOST_REASONS
            self.errors[text if known else OTHER_REASONS] += 1
        # gflops are whole multiply-adds / 1e9, so rounding gives back the integers exactly (below 2^53).
        self.spent_macs += int(np.rint(table["gflops"].to_numpy() * GIGA).astype(np.int64).sum())


def count_labels(folder: str, num_images: int) -> LabelCounts:
    """The counts of all label files below ``folder`` against a manifest of ``num_images`` images, whatever their ids.

    A byte per image, of the whole listing where the manifest is a part of it.
    """
    counts, seen = LabelCounts(), SeenImages([0], num_images)
    for table in label_tables(folder, _COLUMNS):
        counts.add(table)
        seen.add(0, np.unique(table["image_id"].to_numpy()))
    [distinct] = seen.counts
    counts.missing = num_images - distinct
    counts.repeated = counts.rows - distinct
    return counts


def label_tables(folder: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The label files below ``folder``, one table at a time; none when the folder does not exist."""
    if not storage.exists(folder):
        return
    for uri, _ in storage.list_files(folder):
        if uri.endswith(".parquet"):
            file_system, path = storage.resolve(uri)
            yield pq.read_table(path, filesystem=file_system, columns=columns, partitioning=None)
