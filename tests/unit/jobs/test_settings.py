"""Every value that cannot work is refused where it is read, with the rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anchornet.data.listing import DatasetSettings
from anchornet.data.manifest import InputSettings
from anchornet.systems.anchornet.settings import AnchorNetRecipe
from anchornet.systems.own import OwnSettings
from jobs.settings.common import ClusterSettings, PoolSettings, RunSettings
from jobs.settings.label import BudgetSettings, LabelConfig
from jobs.settings.train import InitSettings, TrainConfig, WorkerSettings


def label_config(**values: Any) -> LabelConfig:
    budget = BudgetSettings(gflops_per_image=1.0)
    return LabelConfig(run=RunSettings(folder="r"), bundle="b", input=InputSettings(path="i"), budget=budget, **values)


def train_config(**values: Any) -> TrainConfig:
    return TrainConfig(run=RunSettings(folder="r"), recipe=AnchorNetRecipe(), data=DatasetSettings(path="d"), **values)


@pytest.mark.parametrize(
    ("build", "wrong", "message"),
    [
        (ClusterSettings, {"local_cpus": 3}, "cluster.local_cpus must be >= 4, got 3"),
        (ClusterSettings, {"price_per_hour": -1.0}, "cluster.price_per_hour must be >= 0, got -1"),
        (ClusterSettings, {"price_per_hour": float("inf")}, "cluster.price_per_hour must be >= 0, got inf"),
        (PoolSettings, {"actors": 0}, "pool actors must be >= 1, got 0"),
        (PoolSettings, {"actors": 3, "max_actors": 2}, r"pool max_actors must be >= actors \(3\), got 2"),
        (PoolSettings, {"cpus": -0.5}, r"pool cpus and gpus must be >= 0, got -0\.5, 0\.0"),
        (PoolSettings, {"gpus": -1}, r"pool cpus and gpus must be >= 0, got 0\.5, -1"),
        (PoolSettings, {"batch_size": 0}, "pool batch_size must be >= 1, got 0"),
        (InputSettings, {"path": "i", "limit": 0}, "input.limit must be > 0 or null, got 0"),
        (InputSettings, {"path": "i", "max_pixels": 0}, "input.max_pixels must be > 0, got 0"),
        (InputSettings, {"path": "i", "decode_cpus": 0}, "input.decode_cpus must be > 0, got 0"),
        (InputSettings, {"path": "i", "read_threads": 0}, "input.read_threads must be > 0, got 0"),
        (label_config, {"max_failed_fraction": 1.5}, r"max_failed_fraction must be in \[0, 1\], got 1\.5"),
        (train_config, {"max_unreadable_fraction": -0.1}, r"max_unreadable_fraction must be in \[0, 1\], got -0\.1"),
        (train_config, {"shuffle_buffer": -1}, "shuffle_buffer must be >= 0, got -1"),
        (train_config, {"image_size": 0}, "image_size must be >= 1 pixel, got 0"),
        (InitSettings, {"model": "a", "weights": "b"}, "give init.model or init.weights, not both"),
        (WorkerSettings, {"count": (3, 2)}, "workers.count must be 0, a number >= 1, or"),
        (WorkerSettings, {"cpus": 0}, "workers.cpus must be > 0, got 0"),
        (WorkerSettings, {"threads": 0}, "workers.threads must be >= 1, got 0"),
        (WorkerSettings, {"max_failures": -1}, "workers.max_failures must be >= 0, got -1"),
        (
            OwnSettings,
            {"kind": "own", "name": "module.attribute"},
            "system.name must be module:attribute, got 'module.attr",
        ),
    ],
)
def test_it_is_refused(build: Callable[..., object], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**wrong)


def test_a_cascade_has_a_pool_for_each_stage() -> None:
    two = label_config(pools=(PoolSettings(actors=2), PoolSettings(actors=3)))
    assert [pool.actors for pool in two.pools_for(2)] == [2, 3]
    assert label_config().pools_for(3) == (PoolSettings(),) * 3
    with pytest.raises(ValueError, match="pools has 2 entries, the bundle's cascade has 3 stages; give one for each"):
        two.pools_for(3)
