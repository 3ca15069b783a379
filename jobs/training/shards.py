"""How data sets are dealt out to train workers. A file of its own: Ray sends the class to an actor that needs no torch."""

from __future__ import annotations

import copy
from typing import Any

import ray.data
import ray.train


class EveryValidationImage(ray.train.DataConfig):
    """Training shards of equal size (or DDP would wait for ever); validation shards that leave no image out.

    Blocks come in the order of the data set, whichever is ready first: the same seed gives the same batches. A single
    worker runs the data sets itself; shards for several need a process each that deals them out.
    """

    def __init__(self) -> None:
        self._ordered_options = self.default_ingest_options()
        self._ordered_options.preserve_order = True
        super().__init__(execution_options=self._ordered_options)

    def configure(
        self, datasets: dict[str, Any], world_size: int, *arguments: Any, **named: Any
    ) -> list[dict[str, Any]]:
        """One dict of shards per worker."""
        datasets = {name: self._ordered(data) for name, data in datasets.items()}
        if world_size == 1:
            return [{name: data.iterator() for name, data in datasets.items()}]
        split = {name: data for name, data in datasets.items() if name != "validation"}
        shards = super().configure(split, world_size, *arguments, **named)
        if "validation" in datasets:
            for shard, part in zip(
                shards, datasets["validation"].streaming_split(world_size, equal=False), strict=True
            ):
                shard["validation"] = part
        return shards

    def _ordered(self, data: ray.data.Dataset) -> ray.data.Dataset:
        """The data set with the options of this class."""
        data = data.copy(data)
        data.context.execution_options = copy.deepcopy(self._ordered_options)
        return data
