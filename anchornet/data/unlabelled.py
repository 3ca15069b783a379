"""Images without labels, for a calibration that does without them: whatever a label job takes as its input."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from anchornet.data.inputs import InputSettings, list_input
from anchornet.data.listing import BLOCK_IMAGES, UNLABELLED, DatasetSettings, Listing, chosen_rows
from anchornet.data.manifest import ROW_GROUP
from anchornet.data.parquet import read_row_groups
from anchornet.data.reading import read_files


def list_unlabelled(settings: DatasetSettings, *, seed: int) -> Listing:
    """The images that a label job would find at ``settings.path``, in an order drawn from ``seed``, every label UNLABELLED.

    Class folders are folders like any other here. Images in Parquet come row group by row group. Raises ValueError when there
    is nothing to read.
    """
    found = list_input(InputSettings(path=settings.path, image_column=settings.image_column))
    chosen = chosen_rows(len(found), settings.limit, seed)
    in_groups = ROW_GROUP in found.column_names
    table = found.take(pa.array(chosen))
    table = table.append_column("image_id", pa.array(chosen))
    table = table.append_column("label", pa.array(np.full(len(chosen), UNLABELLED, np.int64)))
    return Listing(
        blocks=list(_row_groups(table)) if in_groups else _slices(table),
        classes=(),
        read=partial(read_row_groups, column=settings.image_column) if in_groups else read_files,
        rows_are_files=not in_groups,
        accept_truncated=settings.accept_truncated,
    )


def _slices(table: pa.Table) -> list[pa.Table]:
    return [table.slice(start, BLOCK_IMAGES).combine_chunks() for start in range(0, len(table), BLOCK_IMAGES)]


def _row_groups(table: pa.Table) -> Iterator[pa.Table]:
    """The rows of each row group, ascending."""
    table = table.sort_by([(name, "ascending") for name in ("file", ROW_GROUP, "row")]).combine_chunks()
    files, groups = table["file"].to_pylist(), table[ROW_GROUP].to_pylist()
    starts = [k for k in range(len(files)) if not k or (files[k], groups[k]) != (files[k - 1], groups[k - 1])]
    for start, end in zip(starts, [*starts[1:], len(files)], strict=True):
        yield table.slice(start, end - start)
