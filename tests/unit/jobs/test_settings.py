"""Every value that cannot work is refused where it is read, with the rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anchornet.data.inputs import InputSettings
from anchornet.data.listing import DatasetSettings
from anchornet.systems.anchornet.settings import AnchorNetRecipe
from anchornet.systems.own import OwnSettings
from jobs.settings.common import ClusterSettings, PoolSettings, RunSettings
from jobs.settings.import_weights import ImportConfig
from jobs.settings.label import BudgetSettings, LabelConfig
from jobs.settings.scoring import CalibrateConfig
from jobs.settings.train import InitSettings, TrainConfig, WorkerSettings


def label_config(**values: Any) -> LabelConfig:
    budget = BudgetSettings(gflops_per_image=1.0)
    return LabelConfig(run=RunSettings(folder="r"), bundle="b", input=InputSettings(path="i"), budget=budget, **values)


def calibrate_config(**values: Any) -> CalibrateConfig:
    return CalibrateConfig(run=RunSettings(folder="r"), data=DatasetSettings(path="d"), **values)


def train_config(**values: Any) -> TrainConfig:
    return TrainConfig(run=RunSettings(folder="r"), recipe=AnchorNetRecipe(), data=DatasetSettings(path="d"), **values)


@pytest.mark.parametrize(
    ("build", "wrong", "message"),
    [
        (ClusterSettings, {"local_cpus": 3}, "cluster.local_cpus must be >= 4, got 3"),
        (ClusterSettings, {"price_per_hour": -1.0}, "cluster.price_per_hour must be >= 0, got -1"),
        (ClusterSettings, {"price_per_hour": float("inf")}, "cluster.price_per_hour must be <= 2147483647, got inf"),
        (PoolSettings, {"actors": 0}, "pool actors must be >= 1, got 0"),
        (PoolSettings, {"actors": 3, "max_actors": 2}, r"pool max_actors must be >= actors \(3\), got 2"),
        (PoolSettings, {"cpus": -0.5}, r"pool cpus must be >= 0, got -0\.5"),
        (PoolSettings, {"gpus": -1}, "pool gpus must be >= 0, got -1"),
        (PoolSettings, {"batch_size": 0}, "pool batch_size must be >= 1, got 0"),
        (RunSettings, {"folder": ""}, "run.folder is empty, and would write into the root of the disk; name a folder"),
        (RunSettings, {"folder": "  "}, "run.folder is empty"),
        (calibrate_config, {"bundle": ""}, "bundle is empty, and would write into the root of the disk; name a folder"),
        (ImportConfig, {"bundle": " ", "classes": "c", "weights": {}}, "bundle is empty"),
        (InputSettings, {"path": ""}, "input.path is empty; give a folder"),
        (DatasetSettings, {"path": " "}, "the path of a data set is empty; give a folder of class folders, or Parquet"),
        (InputSettings, {"path": "i", "limit": 0}, "input.limit must be > 0 or null, got 0"),
        (
            InputSettings,
            {"path": "i", "shard": "3/2"},
            "input.shard must be I/N, the I-th of N parts .* got '3/2'; say 1/4",
        ),
        (InputSettings, {"path": "i", "max_pixels": 0}, "input.max_pixels must be > 0, got 0"),
        (InputSettings, {"path": "i", "decode_cpus": 0}, "input.decode_cpus must be > 0, got 0"),
        (InputSettings, {"path": "i", "read_threads": 0}, "input.read_threads must be > 0, got 0"),
        (label_config, {"max_failed_fraction": 1.5}, r"max_failed_fraction must be in \[0, 1\], got 1\.5"),
        (train_config, {"max_unreadable_fraction": -0.1}, r"max_unreadable_fraction must be in \[0, 1\], got -0\.1"),
        (train_config, {"shuffle_buffer": -1}, "shuffle_buffer must be >= 0, got -1"),
        (train_config, {"image_size": 0}, "image_size must be >= 1, got 0"),
        (BudgetSettings, {}, "give exactly one of budget.total_gflops and budget.gflops_per_image, got None and None"),
        (BudgetSettings, {"total_gflops": 1.0, "gflops_per_image": 2.0}, "got 1.0 and 2.0; set the other one to null"),
        (BudgetSettings, {"total_gflops": 0.0}, "budget.total_gflops must be a number > 0 of GFLOPs, got 0"),
        (
            BudgetSettings,
            {"gflops_per_image": float("inf")},
            "budget.gflops_per_image must be a number > 0 of GFLOPs, got inf",
        ),
        (
            BudgetSettings,
            {"gflops_per_image": float("nan")},
            "budget.gflops_per_image must be a number > 0 of GFLOPs, got nan",
        ),
        (InitSettings, {"model": "a", "weights": "b"}, "give init.model or init.weights, not both"),
        (WorkerSettings, {"count": (3, 2)}, "workers.count must be 0, a number >= 1, or"),
        (WorkerSettings, {"count": (1, 2, 3)}, r"\[fewest, most\], got \(1, 2, 3\)"),
        (WorkerSettings, {"count": (0, 2)}, r"\[fewest, most\], got \(0, 2\)"),
        (WorkerSettings, {"count": -1}, r"\[fewest, most\], got -1"),
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


@pytest.mark.parametrize(
    ("build", "right"),
    [
        (ClusterSettings, {"local_cpus": 4, "price_per_hour": 0.0}),
        (PoolSettings, {"actors": 1, "max_actors": 1, "cpus": 0, "gpus": 0, "batch_size": 1}),
        (InputSettings, {"path": "i", "limit": 1, "max_pixels": 1, "decode_cpus": 0.001, "read_threads": 1}),
        (BudgetSettings, {"total_gflops": 1e-9}),
        (label_config, {"max_failed_fraction": 0.0}),
        (label_config, {"max_failed_fraction": 1.0}),
        (train_config, {"max_unreadable_fraction": 0.0, "shuffle_buffer": 0, "image_size": 1}),
        (train_config, {"max_unreadable_fraction": 1.0}),
        (WorkerSettings, {"count": (2, 2), "cpus": 0.01, "threads": 1, "max_failures": 0}),
        (WorkerSettings, {"count": (3,)}),
    ],
)
def test_the_edge_of_a_rule_is_within_it(build: Callable[..., object], right: dict[str, Any]) -> None:
    build(**right)


@pytest.mark.parametrize(
    ("count", "fewest", "most"),
    [(0, 0, 0), (3, 3, 3), ((3,), 3, 3), ((1, 4), 1, 4)],
    ids=["none", "a number", "one", "two"],
)
def test_a_run_starts_with_the_fewest_workers_and_grows_to_the_most(
    count: int | tuple[int, ...], fewest: int, most: int
) -> None:
    workers = WorkerSettings(count=count)
    assert (workers.fewest, workers.most) == (fewest, most)


@pytest.mark.parametrize(("most", "largest"), [(None, 3), (3, 3), (7, 7)])
def test_a_pool_grows_to_its_most_actors_or_stays_as_it_starts(most: int | None, largest: int) -> None:
    assert PoolSettings(actors=3, max_actors=most).largest == largest


@pytest.mark.parametrize(
    ("asked", "images", "rows"),
    [(None, 100, 4096), (None, 4_096_999, 4096), (None, 10_000_000, 10_000), (7, 10_000_000, 7)],
)
def test_a_large_job_leaves_about_a_thousand_label_files(asked: int | None, images: int, rows: int) -> None:
    assert label_config(rows_per_file=asked).least_rows_per_file(images) == rows


def test_a_cascade_has_a_pool_for_each_stage() -> None:
    two = label_config(pools=(PoolSettings(actors=2), PoolSettings(actors=3)))
    assert [pool.actors for pool in two.pools_for(2)] == [2, 3]
    assert label_config().pools_for(3) == ()
    with pytest.raises(ValueError, match="pools has 2 entries, the bundle's cascade has 3 stages; give one for each"):
        two.pools_for(3)
    with pytest.raises(ValueError, match="pools has 1 entries, the bundle's cascade has 2 stages; give one for each"):
        label_config(pools=(PoolSettings(),)).pools_for(2)
