"""Every exit of every labelled image, computed on a pool of actors: what calibration and evaluation start from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from anchornet.budget.exit_table import ExitTable
from anchornet.bundle import Bundle, load_bundle
from anchornet.cascade.run import confidence, run_all_exits
from anchornet.images.tensors import normalise
from anchornet.models.card import load_model
from anchornet.models.macs import count_macs
from anchornet.systems.anchornet.cascade import exit_names
from jobs.data.dataset import READ_CPUS
from jobs.labelling.actors import open_cascade, pool_options
from jobs.settings import ClusterSettings, InferenceSettings, PoolSettings

RANDOM_PATCHES_SEED = 1


@dataclass(frozen=True)
class ExitWork:
    """What an actor computes for every image; each part becomes an exit table of that name."""

    bundle: str
    pool: PoolSettings
    inference: InferenceSettings
    references: bool = False
    """Also the reference runs of ``evaluate``: patches alone, random patches alone."""
    full: str | None = None
    """Run folder of a network for whole 224x224 images; adds the table ``full`` with one exit."""


class NoGlance(torch.nn.Module):
    """Logits of zero at no cost: with it in place of the glance network, a cascade sums patches alone."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C) zeros."""
        return x.new_zeros(len(x), self.num_classes)


class ExitActor:
    """Runs all exits of every image of a batch, and the references that were asked for."""

    def __init__(self, work: ExitWork) -> None:
        bundle = load_bundle(work.bundle)
        self._cascades = {"cascade": open_cascade(bundle, work.pool, work.inference)}
        if work.references:
            alone = replace(bundle, glance=NoGlance(len(bundle.classes)))
            self._cascades["patches"] = open_cascade(alone, work.pool, work.inference)
            self._cascades["random"] = open_cascade(alone, work.pool, work.inference, RANDOM_PATCHES_SEED)
        self._full = FullNetwork(work) if work.full else None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Columns image_id, label, and score, prediction and cost (lists of K) for every part."""
        readable = table.filter(table["image"].is_valid())
        columns: dict[str, Any] = {"image_id": readable["image_id"], "label": readable["label"]}
        pixels = _pixels(readable["image"], self._cascades["cascade"].image_size)
        for name, cascade in self._cascades.items():
            exits = run_all_exits(cascade, pixels)
            columns |= _lists(name, exits.confidence_NK, exits.prediction_NK, exits.cost_NK)
        if self._full:
            columns |= self._full(pixels)
        return pa.table(columns)


class FullNetwork:
    """The plain network on whole 224x224 images, as a table with one exit."""

    def __init__(self, work: ExitWork) -> None:
        assert work.full is not None
        self._network, _ = load_model(work.full)
        self._device = "cuda" if work.pool.gpus > 0 else "cpu"
        self._precision = getattr(torch, work.inference.precision)
        self._network.to(device=self._device, dtype=self._precision, memory_format=torch.channels_last)
        self._macs = count_macs(self._network, (1, 3, 224, 224))

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> dict[str, pa.Array]:
        """Columns full_score, full_prediction, full_cost of images (N, 224, 224, 3)."""
        batch = normalise(torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2))
        score, label = confidence(self._network(batch.to(self._precision)))
        return _lists("full", score[:, None], label[:, None], np.full((len(pixels), 1), self._macs))


def check_pool(pool: PoolSettings, cluster: ClusterSettings) -> None:
    """Refuse (ValueError) a pool that a local Ray can never hold beside one task that reads: it would wait for ever."""
    if not cluster.is_local:
        return
    have = ray.cluster_resources()
    cpus, gpus = pool.largest * pool.cpus + READ_CPUS, pool.largest * pool.gpus
    if cpus > have.get("CPU", 0.0) or gpus > have.get("GPU", 0.0):
        raise ValueError(
            f"{pool.largest} actors and a reading task need {cpus:g} logical CPUs and {gpus:g} GPUs, Ray has "
            f"{have.get('CPU', 0.0):g} and {have.get('GPU', 0.0):g}; lower pool.actors, pool.cpus or pool.gpus"
        )


def collect(dataset: ray.data.Dataset, work: ExitWork, bundle: Bundle) -> dict[str, ExitTable]:
    """Exit tables over every readable image of ``dataset``, sorted by image_id: ``cascade`` and those that ``work`` adds.

    dataset: rows of ``jobs.data.dataset.ROW_SCHEMA``. Raises ValueError when no image is readable.
    """
    rows = dataset.map_batches(
        ExitActor,
        fn_constructor_args=(work,),
        batch_size=work.pool.batch_size,
        batch_format="pyarrow",
        **pool_options(work.pool),
    )
    batches = [batch for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow") if len(batch)]
    if not batches:
        raise ValueError("none of the labelled images is readable; look at the column 'error' of the data set's rows")
    table = pa.concat_tables(batches)
    table = table.sort_by("image_id")
    names = exit_names(bundle.settings)
    parts = [column.removesuffix("_score") for column in table.column_names if column.endswith("_score")]
    return {part: _exit_table(table, part, names if part != "full" else ("full",)) for part in parts}


def _exit_table(table: pa.Table, part: str, exits: tuple[str, ...]) -> ExitTable:
    return ExitTable(
        exits=exits,
        image_id=table["image_id"].to_numpy(),
        confidence=_matrix(table[f"{part}_score"], np.float32),
        prediction=_matrix(table[f"{part}_prediction"], np.int32),
        cost_macs=_matrix(table[f"{part}_cost"], np.int64),
        label=table["label"].to_numpy().astype(np.int32),
    )


def _pixels(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """(N, size, size, 3) uint8, writable, from a column of raw bytes."""
    return np.frombuffer(bytearray(b"".join(column.to_pylist())), np.uint8).reshape(-1, size, size, 3)


def _lists(name: str, score_NK: np.ndarray, prediction_NK: np.ndarray, cost_NK: np.ndarray) -> dict[str, pa.Array]:
    """Columns NAME_score, NAME_prediction, NAME_cost: one list of K values per image."""
    parts = {
        "score": (score_NK, pa.float32()),
        "prediction": (prediction_NK, pa.int32()),
        "cost": (cost_NK, pa.int64()),
    }
    return {f"{name}_{part}": pa.array(list(values), pa.list_(kind)) for part, (values, kind) in parts.items()}


def _matrix(column: pa.ChunkedArray, dtype: type) -> np.ndarray:
    """(N, K) from a column of equally long lists."""
    flat = column.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(column), -1).astype(dtype)
