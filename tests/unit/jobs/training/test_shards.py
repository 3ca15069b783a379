"""How data sets are dealt out to workers, with data sets that write down what they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ray.data import ExecutionOptions

from jobs.training.shards import EveryValidationImage


@dataclass
class Recorded:
    """A data set of one name; its shards are (name, worker, what they were dealt by)."""

    name: str
    splits: list[str] = field(default_factory=list)
    """Names of what was split, in order; each split is a process."""
    context: Any = field(default_factory=lambda: SimpleNamespace(execution_options=ExecutionOptions()))

    @staticmethod
    def copy(data: Recorded) -> Recorded:
        return Recorded(data.name, data.splits)

    def set_name(self, name: str) -> None:
        raise AssertionError("it has one")

    def iterator(self) -> tuple[Any, ...]:
        return (self.name, 0, "whole", self.context.execution_options.preserve_order)

    def streaming_split(self, count: int, *, equal: bool, locality_hints: Any = None) -> list[tuple[Any, ...]]:
        self.splits.append(self.name)
        order = self.context.execution_options.preserve_order
        return [(self.name, worker, "equal" if equal else "all", order) for worker in range(count)]


def shards(world_size: int, *names: str) -> list[dict[str, Any]]:
    splits: list[str] = []
    datasets = {name: Recorded(name, splits) for name in names}
    dealt = EveryValidationImage().configure(datasets, world_size, None, None)
    assert not any(data.context.execution_options.preserve_order for data in datasets.values())  # they are the caller's
    assert sorted(splits) == sorted(names if world_size > 1 else [])
    return dealt


def test_a_single_worker_runs_the_data_sets_itself_and_in_order() -> None:
    assert shards(1, "train", "validation") == [
        {"train": ("train", 0, "whole", True), "validation": ("validation", 0, "whole", True)}
    ]


def test_several_workers_train_on_equally_many_images_and_validate_on_every_one() -> None:
    assert shards(2, "train", "validation") == [
        {"train": ("train", worker, "equal", True), "validation": ("validation", worker, "all", True)}
        for worker in range(2)
    ]


def test_there_may_be_nothing_to_validate_on() -> None:
    assert shards(1, "train") == [{"train": ("train", 0, "whole", True)}]
    assert [list(shard) for shard in shards(3, "train")] == [["train"]] * 3
