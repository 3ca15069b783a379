"""Every number that a job takes has a range: none, infinity and slips of the finger are refused with their key."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from anchornet.files.config import ConfigError, load_config
from anchornet.images.augment import CropSettings
from anchornet.models.training_settings import TrainingSettings
from anchornet.systems.anchornet.settings import AnchorNetSettings
from jobs.settings.common import ClusterSettings, PoolSettings, RunSettings
from jobs.settings.label import LabelConfig
from jobs.settings.scoring import CalibrateConfig, EvaluateConfig
from jobs.settings.train import TrainConfig

REQUIRED = {
    LabelConfig: ["run.folder=r", "bundle=b", "input.path=i", "budget.gflops_per_image=1"],
    CalibrateConfig: ["run.folder=r", "bundle=b", "data.path=d"],
    EvaluateConfig: ["run.folder=r", "bundle=b", "data.path=d"],
    TrainConfig: ["run.folder=r", "recipe.kind=anchornet.anchornet", "data.path=d", "validation.path=v"],
}
PATCHES = ["run.folder=r", "recipe.kind=anchornet.patch", "recipe.anchornet=a", "recipe.architecture=b", "data.path=d"]


def numbers(hint: Any, path: str) -> Iterator[tuple[str, type]]:
    """Dotted names, as ``--set`` takes them, of the numbers in a type."""
    if hint in (int, float):
        yield path, hint
    elif dataclasses.is_dataclass(hint):
        for name, each in typing.get_type_hints(hint).items():
            if typing.get_origin(each) is not typing.ClassVar:
                yield from numbers(each, f"{path}.{name}".lstrip("."))
    elif typing.get_origin(hint) is tuple:
        yield from numbers(typing.get_args(hint)[0], f"{path}.0")
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            yield from numbers(option, path)


CASES = sorted(
    {
        (cls, name, kind)
        for cls in REQUIRED
        for name, kind in numbers(cls, "")
        if not name.startswith("system.members.")  # tests/unit/anchornet/systems/models/test_settings.py
        and (not name.startswith("recipe.") or name.startswith("recipe.training.") or "patch" in name or "iou" in name)
    },
    key=str,
)


def test_all_sections_were_found() -> None:
    names = {name for _, name, _ in CASES}
    assert {
        "run.seed",
        "pools.0.cpus",
        "budget.total_gflops",
        "input.max_pixels",
        "workers.count.0",
        "crop.size",
    } <= names
    assert {"recipe.training.milestones.0", "recipe.num_patches", "gflops_per_image.0", "system.iou_threshold"} <= names


WRONG = ["nan", "inf", "-inf", str(2**70), "-1e300", f"-{2**70}"]
EXCEPT = {(name, str(2**70)) for name in ("budget.total_gflops", "budget.gflops_per_image")}
"""Budgets beyond what can be spent: said when it is known what can (tests/unit/jobs/labelling/test_plan.py)."""


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [(cls, name, value) for cls, name, _ in CASES for value in WRONG if (name, value) not in EXCEPT],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_what_is_no_usable_number_is_refused_with_its_key(cls: type, name: str, value: str) -> None:
    given = PATCHES if name.startswith("recipe.") and "training." not in name else REQUIRED[cls]
    given = [each for each in given if not (name == "budget.total_gflops" and each.startswith("budget."))]
    with pytest.raises(ConfigError) as refused:
        load_config(cls, None, [*given, f"{name}={value}"])
    key = re.sub(r"\.(\d+)$", "", name).rpartition(".")[2]
    assert key in str(refused.value)
    section = name.partition(".")[0]
    assert section in str(refused.value)


@pytest.mark.parametrize(
    ("cls", "wrong", "message"),
    [
        (ClusterSettings, {"local_cpus": 5000}, "cluster.local_cpus must be <= 4096, got 5000"),
        (RunSettings, {"folder": "r", "seed": -1}, "run.seed must be >= 0, got -1"),
        (RunSettings, {"folder": "r", "seed": 2**32}, "run.seed must be <= 4294967295, got 4294967296"),
        (PoolSettings, {"threads": 0}, "pool threads must be >= 1, got 0"),
        (PoolSettings, {"batch_size": 2**40}, "pool batch_size must be <= 2147483647"),
        (CropSettings, {"size": 10**5}, "crop size must be <= 8192, got 100000"),
        (TrainingSettings, {"milestones": (30, 0)}, "training.milestones[1] must be >= 1, got 0"),
        (AnchorNetSettings, {"num_patches": 2000}, "system.num_patches must be <= 1000, got 2000"),
        (AnchorNetSettings, {"image_size": 10**6}, "system.image_size must be <= 8192, got 1000000"),
    ],
)
def test_a_number_out_of_its_range_is_refused(cls: type, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        cls(**wrong)


@pytest.mark.parametrize(
    ("cls", "setting", "message"),
    [
        (LabelConfig, "rows_per_file=0", "rows_per_file must be >= 1, got 0"),
        (LabelConfig, "pools.1.batch_size=0", "pools[1]: pool batch_size must be >= 1, got 0"),
        (LabelConfig, "input.max_pixels=178956971", "input.max_pixels must be <= 178956970, got 178956971"),
        (LabelConfig, "input.read_threads=2000", "input.read_threads must be <= 1024, got 2000"),
        (EvaluateConfig, "gflops_per_image=[1, 0]", "gflops_per_image[1] must be > 0, got 0.0"),
        (TrainConfig, "validation.limit=0", "validation: limit must be > 0 or null, got 0"),
        (TrainConfig, "image_size=9000", "image_size must be <= 8192, got 9000"),
    ],
)
def test_the_message_says_where_it_stands(cls: type, setting: str, message: str) -> None:
    pools = ["pools.0.actors=1"] if setting.startswith("pools.1") else []
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(cls, None, [*REQUIRED[cls], *pools, setting])
