"""Labelled images by name: what a listing is, and which classes it may have.

Hidden files (``storage.list_visible``) are no data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

log = logging.getLogger(__name__)

BLOCK_IMAGES = 128
UNLABELLED = -1
"""The whole number that data sets, Hugging Face's among them, give an image without a label."""
Reader = Callable[[pa.Table, int], Iterator[tuple[pa.Table, list[bytes | OSError]]]]
"""(block of a listing, images per chunk) -> chunks of (rows, the bytes of each or the error that reading it gave)."""


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """Labelled images: class folders of image files, Parquet with a column of images and one of labels, or tars."""

    path: str
    """Folder or ``s3://`` prefix. Class folders: ``path/CLASS/...``; Parquet: ``path`` or files below it end in .parquet;
    tars of WebDataset: in .tar. docs/inputs.md says more."""
    image_column: str = "image"
    """Column of Parquet that holds the images: bytes, or ``{bytes, path}`` as data sets of Hugging Face have it."""
    label_column: str = "label"
    """Column of Parquet, or field of the json in tars without cls, that holds the classes: text, or whole numbers, of which -1
    means not labelled."""
    limit: int | None = None
    """Use at most this many images, drawn evenly from the shuffled list; None uses all."""
    accept_truncated: bool = False
    """Use files whose tail is missing by what is there of them; false: they count as unreadable."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if not self.path.strip():
            raise ValueError("the path of a data set is empty; give a folder of class folders, or Parquet")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be > 0 or null, got {self.limit}")


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
    accept_truncated: bool = False
    """Whether files whose tail is missing are used."""

    @property
    def num_images(self) -> int:
        """Images in all blocks."""
        return sum(block.num_rows for block in self.blocks)


def class_names(found: Sequence[str], given: tuple[str, ...] | None, path: str) -> tuple[str, ...]:
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


def labelled_rows(has_label: np.ndarray, path: str) -> np.ndarray:
    """Positions of the rows that have a label; the others are counted in a warning. Raises ValueError when none has one."""
    labelled = np.flatnonzero(has_label)
    if not len(labelled):
        raise ValueError(f"data set {path} has no labels: all {len(has_label)} rows have {UNLABELLED}; label some")
    if len(labelled) < len(has_label):
        num_left_out = len(has_label) - len(labelled)
        log.warning("%s: %d of %d rows are left out, their label is -1", path, num_left_out, len(has_label))
    return labelled


def chosen_rows(num_images: int, limit: int | None, seed: int) -> np.ndarray:
    """Positions of the images to use, shuffled: int64 (min(num_images, limit),)."""
    return np.random.default_rng(seed).permutation(num_images)[:limit].astype(np.int64)
