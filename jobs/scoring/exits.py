"""Every exit of every labelled image, computed on a pool of actors: what calibration and evaluation start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray.data

from anchornet.budget.combination import Combination
from anchornet.budget.exit_table import ExitTable
from anchornet.bundle import load_bundle
from anchornet.cascade.protocol import Cascade, Placement, image_shape, rule_of
from anchornet.cascade.run import answers, run_all_exits
from anchornet.cascade.single import single_network
from anchornet.models.card import load_model
from jobs.data.dataset import READ_CPUS
from jobs.resources.capacity import Capacity, Resources, Stall, check_fits, owners_of
from jobs.resources.loading import Loads, loading
from jobs.resources.pools import claim, pool_options
from jobs.settings.common import ClusterSettings, InferenceSettings, PoolSettings
from jobs.shell.progress import progress

CASCADE, FULL = "cascade", "full network"
BY_RULE = "combined by the rule {rule}"
"""What the cascade is called under the rule that its fitted weights are compared with."""


@dataclass(frozen=True)
class ExitWork:
    """What an actor computes for every image; each part becomes an exit table of that name."""

    bundle: str
    pool: PoolSettings
    inference: InferenceSettings
    references: bool = False
    """Also what the bundle's system is compared with."""
    full: str | None = None
    """Model folder of a network for whole images; adds the table ``full network`` with one exit."""


class Scored(NamedTuple):
    """A cascade whose exits are computed, how many of them, and how their views are combined, each into a table of that name."""

    cascade: Cascade[Any]
    num_exits: int
    combinations: Mapping[str, Combination]


class ExitActor:
    """Runs all exits of every image of a batch, and the references that were asked for."""

    def __init__(self, work: ExitWork, loads: Any = None) -> None:
        with loading(loads, "pool"):
            self._parts = list(_parts(work, claim(work.pool, work.inference)))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Columns image_id, label, and score, prediction and cost (lists of K) for every table."""
        columns, pixels = readable(table, self._parts[0].cascade)
        for part in self._parts:
            exits = run_all_exits(part.cascade, pixels, part.num_exits)
            for name, combination in part.combinations.items():
                said = answers(combination, exits.views_NVC, part.num_exits)
                columns |= _lists(name, *said, exits.cost_NK)
        return pa.table(columns)


def _parts(work: ExitWork, placement: Placement) -> Iterator[Scored]:
    """The cascade, and what it is compared with."""
    bundle = load_bundle(work.bundle)
    cascade = bundle.cascade(placement)
    combinations = {CASCADE: cascade.combination}
    if work.references and cascade.combination.fitted:
        rule = cascade.combination.rule
        combinations[BY_RULE.format(rule=rule)] = rule_of(cascade, rule)
    yield Scored(cascade, len(cascade.exits), combinations)
    for name, reference, exits in bundle.references(placement) if work.references else ():
        names = [exit.name for exit in reference.exits]
        yield Scored(reference, names.index(exits[-1]) + 1, {name: reference.combination})
    if work.full:
        module, card = load_model(work.full)
        full = single_network(module, card.classes, whole_side(bundle.preprocessing.shape), placement, name=FULL)
        yield Scored(full, 1, {FULL: full.combination})


def whole_side(shape: tuple[int, ...]) -> int:
    """Side of the images that a full network sees beside a cascade whose pixels have this shape.

    Raises ValueError where the cascade's networks see views that differ: which one the full network wants, nobody says.
    """
    if len(shape) == 1:
        raise ValueError(
            "full is a network for images of one size, the bundle's networks see views that differ; set full to null, each "
            "member is shown alone"
        )
    return shape[0]


def exit_names(work: ExitWork) -> dict[str, tuple[str, ...]]:
    """Names of the exits of every table, as :func:`collect` gives them."""
    return {
        name: tuple(exit.name for exit in part.cascade.exits[: part.num_exits])
        for part in _parts(work, Placement())
        for name in part.combinations
    }


def check_pool(pool: PoolSettings, capacity: Capacity) -> None:
    """Refuse (ValueError) a pool that can never run beside one task that reads: it would wait for ever.

    It is counted at its largest on a local Ray, at its smallest on a cluster.
    """
    size = pool.largest if capacity.one_machine else pool.actors
    need = Resources(size * pool.cpus + READ_CPUS, size * pool.gpus)
    check_fits(need, capacity, f"{size} actors and a reading task", "lower pool.actors, pool.cpus or pool.gpus")


def stall_of(pool: PoolSettings, cluster: ClusterSettings) -> Stall:
    """Who says what a job that does not move is waiting for."""
    owners = owners_of(((pool.cpus, pool.gpus, "the pool"), (READ_CPUS, 0.0, "reading and decoding")))
    return Stall(cluster.stall_s, owners)


def collect(
    dataset: ray.data.Dataset, work: ExitWork, exits: dict[str, tuple[str, ...]], stall: Stall
) -> dict[str, ExitTable]:
    """Exit tables over every readable image of ``dataset``, sorted by image_id, for each part of ``work``.

    dataset: rows of ``jobs.data.dataset.ROW_SCHEMA``; exits: see :func:`exit_names`. Raises ValueError when no image is
    readable.
    """
    table = pa.concat_tables(gathered(batches_of(dataset, ExitActor, work), stall)).sort_by("image_id")
    return {part: _exit_table(table, part, names) for part, names in exits.items()}


def batches_of(dataset: ray.data.Dataset, actor: type, work: ExitWork) -> Iterable[pa.Table]:
    """What a pool of actors, each made with ``work``, makes of the rows of ``dataset``."""
    loads = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Loads).remote()  # its node may be lost as well
    rows = dataset.map_batches(
        actor,
        fn_constructor_args=(work, loads),
        batch_size=work.pool.batch_size,
        batch_format="pyarrow",
        **pool_options(work.pool),
    )
    return rows.iter_batches(batch_size=None, batch_format="pyarrow")


def gathered(
    batches: Iterable[pa.Table], stall: Stall, keep: Callable[[pa.Table], pa.Table] = lambda batch: batch
) -> list[pa.Table]:
    """What ``keep`` leaves of the batches that hold any images, with a progress line meanwhile. Raises ValueError for none."""
    found: list[pa.Table] = []

    def line(elapsed_s: float) -> str:
        stall.watch(len(found), elapsed_s)
        return f"{sum(map(len, found)):,} images have run through every exit, {elapsed_s:.0f} s"

    with progress(line):
        found += [keep(batch) for batch in batches if len(batch)]
    if not found:
        raise ValueError("none of the labelled images is readable; look at the column 'error' of the data set's rows")
    return found


def _exit_table(table: pa.Table, part: str, exits: tuple[str, ...]) -> ExitTable:
    return ExitTable(
        exits=exits,
        image_id=table["image_id"].to_numpy(),
        confidence=matrix(table[f"{part}_score"], np.float32),
        prediction=matrix(table[f"{part}_prediction"], np.int32),
        cost_macs=matrix(table[f"{part}_cost"], np.int64),
        label=table["label"].to_numpy().astype(np.int32),
    )


def readable(table: pa.Table, cascade: Cascade[Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Columns image_id and label of the images that could be read, and their pixels as ``cascade`` takes them."""
    rows = table.filter(table["image"].is_valid())
    return {"image_id": rows["image_id"], "label": rows["label"]}, _pixels(rows["image"], image_shape(cascade))


def _pixels(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    """(N, *shape) uint8, writable, from a column of raw bytes."""
    return np.frombuffer(bytearray(b"".join(column.to_pylist())), np.uint8).reshape(-1, *shape)


def _lists(name: str, score_NK: np.ndarray, prediction_NK: np.ndarray, cost_NK: np.ndarray) -> dict[str, pa.Array]:
    """Columns NAME_score, NAME_prediction, NAME_cost: one list of K values per image."""
    parts = {
        "score": (score_NK, pa.float32()),
        "prediction": (prediction_NK, pa.int32()),
        "cost": (cost_NK, pa.int64()),
    }
    return {f"{name}_{part}": pa.array(list(values), pa.list_(kind)) for part, (values, kind) in parts.items()}


def matrix(column: pa.ChunkedArray, dtype: type) -> np.ndarray:
    """(N, K) from a column of equally long lists."""
    flat = column.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(column), -1).astype(dtype)
