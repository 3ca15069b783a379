"""Labelled images as a Ray Dataset, from class folders or from Parquet, local or ``s3://``.

The driver lists (names and labels only); tasks read the bytes, decode and shape them. A file that cannot be used never
vanishes: ``labelled_images`` keeps it as a row with its reason, training reports it to a ``TrainingNotes``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import RandomSeedConfig
from ray.data.expressions import random as random_column

from anchornet.data.listing import Listing
from anchornet.data.reading import shape_or_error
from anchornet.images import augment
from anchornet.images.decode import MAX_PIXELS, ImageError, read_picture
from anchornet.images.preprocess import Preprocessing, Shaping
from jobs.shell.worker_log import Notes, Telling

READ_CPUS = 0.5
"""Logical CPUs of a task that reads and decodes."""
SHUFFLE_CPUS = 1.0
"""Logical CPUs of a task that shuffles the listing: processes that live for a moment, so better few of them."""
CHUNK_IMAGES = 32
ROW_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("uri", pa.string()),
        ("label", pa.int64()),
        ("image", pa.binary()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)


def labelled_images(found: Listing, preprocessing: Shaping) -> ray.data.Dataset:
    """Every listed image once, preprocessed as at test time: rows of ROW_SCHEMA, not yet read.

    image is the bytes of the preprocessing's pixels, or null with a status other than ``ok`` and the reason; an ``ok`` one may
    have a note there.
    """
    return _map_blocks(_blocks(found), _RowReader(found, preprocessing), found)


def training_images(
    found: Listing, crop: augment.CropSettings, seed: int, notes: Any, run: str = ""
) -> ray.data.Dataset:
    """Random views for training: columns image uint8 (size, size, 3) and label int64.

    Each execution of the data set (an epoch) shuffles and crops anew, both drawn from ``seed``. Rows of class folders
    are shuffled one by one, Parquet by row group, so that a row group is read once: iterate with a shuffle buffer then.
    notes: the actor of ``start_notes``; run: named in the lines of the tasks.
    """
    order = RandomSeedConfig(seed=seed, reseed_after_execution=True)
    rows = _blocks(found).with_column("draw", random_column(seed=seed, reseed_after_execution=True), num_cpus=READ_CPUS)
    if found.rows_are_files:
        rows = rows.random_shuffle(seed=order, num_cpus=SHUFFLE_CPUS)
    else:
        rows = rows.randomize_block_order(seed=order)

    def shape(rgb: np.ndarray, row: dict[str, Any]) -> np.ndarray:
        return augment.random_view(rgb, crop, np.random.default_rng([row["image_id"], int(row["draw"] * 2**53)]))

    return _map_blocks(rows, Telling(_TensorReader(found, shape, notes), notes, run), found)


def validation_images(found: Listing, preprocessing: Preprocessing, notes: Any, run: str = "") -> ray.data.Dataset:
    """Every readable image once, centre-cropped: columns image uint8 (crop, crop, 3) and label int64."""
    reader = _TensorReader(found, lambda rgb, row: preprocessing(rgb), notes)
    return _map_blocks(_blocks(found), Telling(reader, notes, run), found)


class TrainingNotes(Notes):
    """What the processes of a training tell the driver: the reasons of images left out, one per image however often it
    was tried, the step that is being computed, and their warnings."""

    def __init__(self) -> None:
        super().__init__()
        self._reasons: dict[str, str] = {}
        self._told = ""

    def add(self, reasons: dict[str, str]) -> None:
        """Add {uri: reason}."""
        self._reasons.update(reasons)

    def reasons(self) -> dict[str, str]:
        """All of them so far."""
        return self._reasons

    def tell(self, where: str) -> None:
        """Remember where the training is."""
        self._told = where

    def told(self) -> str:
        """What was told last; empty before."""
        return self._told


def start_notes() -> Any:
    """A running actor of ``TrainingNotes``, which holds no CPU."""
    return ray.remote(num_cpus=0)(TrainingNotes).remote()


def _blocks(found: Listing) -> ray.data.Dataset:
    """The listing as a data set whose blocks keep their order, whichever is ready first."""
    rows = ray.data.from_arrow(found.blocks)
    rows.context.execution_options.preserve_order = True
    return rows


def _map_blocks(
    rows: ray.data.Dataset, reader: Callable[[pa.Table], Iterator[Any]], found: Listing
) -> ray.data.Dataset:
    """``reader`` over whole blocks, in tasks that hold READ_CPUS each.

    On a single machine no more run at once than it has cores, though its logical CPUs may be many more: each is a
    process that decodes without pause.
    """
    single = len(ray.nodes()) == 1
    most = min(len(found.blocks), max(2, os.cpu_count() or 1)) if single else None
    return rows.map_batches(
        reader,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=READ_CPUS,
        compute=ray.data.TaskPoolStrategy(size=most),
    )


class _RowReader:
    """One block of a listing -> blocks of ROW_SCHEMA, every row kept."""

    def __init__(self, found: Listing, preprocessing: Shaping) -> None:
        self.read, self.accept_truncated = found.read, found.accept_truncated
        self.preprocessing = preprocessing

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        for chunk, contents in self.read(block, CHUNK_IMAGES):
            shaped = [shape_or_error(each, self.preprocessing, MAX_PIXELS, self.accept_truncated) for each in contents]
            pixels, status, errors = zip(*shaped, strict=True)
            columns = {name: chunk[name] for name in ("image_id", "uri", "label")}
            encoded = [None if each is None else each.tobytes() for each in pixels]
            yield pa.table({**columns, "image": encoded, "status": status, "error": errors}, schema=ROW_SCHEMA)


class _TensorReader:
    """One block of a listing -> batches of shaped images and labels; the rest goes to the notes."""

    def __init__(self, found: Listing, shape: Callable[[np.ndarray, dict[str, Any]], np.ndarray], notes: Any) -> None:
        self.read, self.accept_truncated = found.read, found.accept_truncated
        self.shape = shape
        self.notes = notes

    def __call__(self, block: pa.Table) -> Iterator[dict[str, np.ndarray]]:
        for chunk, contents in self.read(block, CHUNK_IMAGES):
            kept: list[tuple[np.ndarray, int]] = []
            reasons: dict[str, str] = {}
            for row, content in zip(chunk.to_pylist(), contents, strict=True):
                try:
                    kept.append((self._decode(content, row), row["label"]))
                except (OSError, ImageError) as error:
                    reasons[row["uri"]] = f"{type(error).__name__}: {error}"
            if reasons:
                ray.get(self.notes.add.remote(reasons))
            if kept:
                pixels, labels = zip(*kept, strict=True)
                yield {"image": np.stack(pixels), "label": np.array(labels, dtype=np.int64)}

    def _decode(self, content: bytes | OSError, row: dict[str, Any]) -> np.ndarray:
        if isinstance(content, OSError):
            raise content
        return self.shape(read_picture(content, MAX_PIXELS, accept_truncated=self.accept_truncated).rgb, row)
