"""How data sets are dealt out to train workers. A file of its own: Ray sends the class to an actor that needs no torch."""

from __future__ import annotations

from typing import Any

import ray.train


class EveryValidationImage(ray.train.DataConfig):
    """Training shards of equal size (or DDP would wait for ever); validation shards that leave no image out."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, *arguments: Any, **named: Any
    ) -> list[dict[str, Any]]:
        """One dict of shards per worker."""
        split = {name: data for name, data in datasets.items() if name != "validation"}
        shards = super().configure(split, world_size, *arguments, **named)
        if "validation" in datasets:
            for shard, part in zip(
                shards, datasets["validation"].streaming_split(world_size, equal=False), strict=True
            ):
                shard["validation"] = part
        return shards
