"""The exit table: what every exit says about every calibration image.

Shapes: N images, K exits, M selected rows. Costs are cumulative multiply-adds, one row per image, so that cascades whose
cost differs from image to image need no second code path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from anchornet.budget.policy import NUM_FOLDS
from anchornet.files.documents import read_parquet, write_parquet

_METADATA_KEY = b"anchornet.exits"


@dataclass(frozen=True)
class ExitTable:
    """All exits of N images; the only input of a frontier.

    Raises ValueError when shapes disagree, a confidence is not finite, an image_id is repeated or a cost decreases.
    """

    exits: tuple[str, ...]
    """Names of the K exits, in the order in which they are computed."""
    image_id: np.ndarray
    """(N,) int64, unique."""
    confidence: np.ndarray
    """(N, K) float32: raw score of each exit (max softmax)."""
    prediction: np.ndarray
    """(N, K) int32: class index."""
    cost_macs: np.ndarray
    """(N, K) int64: multiply-adds spent on an image that leaves at exit k, everything before it included."""
    label: np.ndarray | None = None
    """(N,) int32 true class index; None when unknown."""

    def __post_init__(self) -> None:
        """Settle the types and check everything a fit relies on."""
        self._settle("image_id", np.int64)
        self._settle("confidence", np.float32)
        self._settle("prediction", np.int32)
        self._settle("cost_macs", np.int64)
        if self.label is not None:
            self._settle("label", np.int32)
            if np.all(self.label == -1):
                object.__setattr__(self, "label", None)
        self._check_shapes()
        self._check_values()

    def _settle(self, name: str, dtype: type[np.generic]) -> None:
        values = np.asarray(getattr(self, name))
        if values.dtype.kind not in ("f" if dtype is np.float32 else "iu"):
            raise ValueError(
                f"exit table column {name} must hold {np.dtype(dtype)}, got {values.dtype}; convert it first"
            )
        object.__setattr__(self, name, np.ascontiguousarray(values, dtype=dtype))

    def _check_shapes(self) -> None:
        num_images, num_exits = len(self.image_id), len(self.exits)
        if num_images == 0 or num_exits == 0:
            raise ValueError(f"exit table is empty ({num_images} images, {num_exits} exits); give at least one of each")
        wanted = {"image_id": (num_images,), "label": (num_images,)}
        for name in ("image_id", "confidence", "prediction", "cost_macs", "label"):
            values, shape = getattr(self, name), wanted.get(name, (num_images, num_exits))
            if values is not None and values.shape != shape:
                raise ValueError(f"exit table column {name} must have shape {shape}, got {values.shape}")

    def _check_values(self) -> None:
        if not np.isfinite(self.confidence).all():
            raise ValueError(
                "exit table confidence must be finite, got NaN or infinity; look for overflow in the network"
            )
        if len(np.unique(self.image_id)) != len(self.image_id):
            raise ValueError("exit table image_id must be unique, got repeated ids; drop the doubled rows")
        if (self.cost_macs[:, 0] < 0).any() or (np.diff(self.cost_macs, axis=1) < 0).any():
            raise ValueError(
                "exit table cost_macs must be cumulative and >= 0, got a cost that decreases; sum it up first"
            )
        if self.label is not None and (self.label < 0).any():
            raise ValueError(
                "exit table label must be known for every image or for none; drop the rows without a label"
            )

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self.exits)

    @property
    def correct(self) -> np.ndarray:
        """(N, K) bool: exit k names the true class.

        Raises ValueError when the labels are not known.
        """
        if self.label is None:
            raise ValueError(
                "exit table has no labels, so nothing is known to be correct; calibrate on labelled images"
            )
        return self.prediction == self.label[:, None]

    def select(self, rows: np.ndarray) -> ExitTable:
        """The table of ``rows``: (M,) int64 indices or an (N,) bool mask."""
        label = None if self.label is None else self.label[rows]
        columns = (self.image_id[rows], self.confidence[rows], self.prediction[rows], self.cost_macs[rows])
        return ExitTable(self.exits, *columns, label)

    def to_parquet(self, uri: str) -> None:
        """Write to ``uri`` (a path or s3://), one list per image and column."""
        num_exits = self.num_exits
        columns: dict[str, pa.Array] = {"image_id": pa.array(self.image_id)}
        for name in ("confidence", "prediction", "cost_macs"):
            flat = pa.array(getattr(self, name).ravel())
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, num_exits)
        if self.label is not None:
            columns["label"] = pa.array(self.label)
        write_parquet(uri, pa.table(columns).replace_schema_metadata({_METADATA_KEY: "\n".join(self.exits).encode()}))

    @classmethod
    def from_parquet(cls, uri: str) -> ExitTable:
        """Read what :meth:`to_parquet` wrote.

        Raises ValueError when the file is some other Parquet file.
        """
        table = read_parquet(uri)
        metadata = table.schema.metadata or {}
        if _METADATA_KEY not in metadata:
            raise ValueError(
                f"{uri} is not an exit table (no exit names inside); make one with `python -m jobs.calibrate`"
            )
        exits = tuple(metadata[_METADATA_KEY].decode().split("\n"))
        wide = {name: _matrix(table[name], len(exits)) for name in ("confidence", "prediction", "cost_macs")}
        label = table["label"].to_numpy() if "label" in table.column_names else None
        return cls(exits=exits, image_id=table["image_id"].to_numpy(), label=label, **wide)


class HeldOut(NamedTuple):
    """What exits say of calibration images where weights of the views were fitted on the same images.

    Whatever is then fitted on ``folds[f]``, fold f left out, and judged on fold f of ``table`` is judged on images that
    neither was fitted on. Where no weights were fitted all tables are one.
    """

    table: ExitTable
    """Every image by weights that were fitted without its fold."""
    folds: tuple[ExitTable, ...]
    """For each fold f: every image by the weights that were fitted without fold f."""

    @classmethod
    def plain(cls, table: ExitTable) -> HeldOut:
        """Of a table without fitted weights."""
        return cls(table, (table,) * NUM_FOLDS)


def _matrix(column: pa.ChunkedArray, num_exits: int) -> np.ndarray:
    """(N, K) array of a column of fixed-size lists."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat).reshape(-1, num_exits)
