"""Every view of every calibration image, computed on a pool of actors: what calibration chooses from and learns on.

N images, V views, K exits, C classes. Views come to the driver batch by batch and lie in a temporary file there, N x V x C x 4
bytes (1.2 GB for 50,000 images, 6 views and 1,000 classes), of which a block at a time is in memory.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from anchornet.bundle import load_bundle
from anchornet.cascade.protocol import Cascade
from anchornet.cascade.run import run_all_exits
from anchornet.cascade.view_table import ViewTable
from jobs.resources.capacity import Stall
from jobs.resources.loading import loading
from jobs.resources.pools import claim
from jobs.scoring.exits import ExitWork, batches_of, gathered, matrix, readable

VIEWS, COST = "views", "cost"


class ViewActor:
    """Runs all exits of every image of a batch."""

    def __init__(self, work: ExitWork, loads: Any = None) -> None:
        with loading(loads, "pool"):
            self._cascade = load_bundle(work.bundle).as_built(claim(work.pool, work.inference))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Columns image_id, label, views (V x C float32 in one binary value) and cost (lists of K)."""
        columns, pixels = readable(table, self._cascade)
        exits = run_all_exits(self._cascade, pixels)
        views_NVC = np.ascontiguousarray(exits.views_NVC.float().cpu().numpy())
        width = pa.binary(views_NVC[:1].nbytes or views_NVC.itemsize)
        buffers = [None, pa.py_buffer(views_NVC)]
        columns[VIEWS] = pa.FixedSizeBinaryArray.from_buffers(width, len(views_NVC), buffers)
        columns[COST] = pa.array(list(exits.cost_NK), pa.list_(pa.int64()))
        return pa.table(columns)


def collect_views(dataset: ray.data.Dataset, work: ExitWork, cascade: Cascade[Any], stall: Stall) -> ViewTable:
    """All views of every readable image of ``dataset``, sorted by image_id.

    dataset: rows of ``jobs.data.dataset.ROW_SCHEMA``; cascade: as the actors build it. Raises ValueError when no image is
    readable.
    """
    views = cascade.combination.views
    with tempfile.TemporaryFile() as file:

        def keep(batch: pa.Table) -> pa.Table:
            for chunk in batch[VIEWS].chunks:
                width = chunk.type.byte_width
                file.write(memoryview(chunk.buffers()[1])[chunk.offset * width : (chunk.offset + len(chunk)) * width])
            return batch.drop_columns([VIEWS])

        table = pa.concat_tables(gathered(batches_of(dataset, ViewActor, work), stall, keep))
        file.flush()
        # The map keeps the file's content after the file is closed.
        logits = np.memmap(file, np.float32, "r", shape=(len(table), len(views), len(cascade.classes)))
    order = np.argsort(table["image_id"].to_numpy(), kind="stable")
    label = table["label"].to_numpy().astype(np.int32)[order]
    return ViewTable(
        exits=tuple(exit.name for exit in cascade.exits),
        views=views,
        image_id=table["image_id"].to_numpy()[order],
        logits_RWC=logits,
        row=order,
        cost_macs=matrix(table[COST], np.int64)[order],
        label=None if (label == -1).all() else label,
        columns=tuple(range(len(views))),
    )
