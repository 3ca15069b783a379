"""Classifiers one after the other: each on its own view of a picture that was decoded once, answering alone or together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from anchornet.budget.combination import Rule
from anchornet.cascade import rows as records
from anchornet.cascade.label_stage import finish_rows, label_stage, stage_layout
from anchornet.cascade.protocol import image_shape, stage_starts
from anchornet.cascade.run import run_all_exits, run_cascade
from anchornet.images.tensors import normalise
from anchornet.models.macs import count_macs
from anchornet.systems.looks import LooksCascade
from anchornet.systems.models.cascade import models_cascade, views_of
from anchornet.systems.models.settings import Member, ModelsSettings, PreprocessingSettings
from anchornet.units import GIGA
from tests.said import combined, said_by
from tests.small_classifiers import CLASSES, FEEDS, LARGE, SMALL, networks, picture, settings

COUNT = 20
NETWORKS = networks()
PICTURES = [picture(100 + k) for k in range(COUNT)]


def pixels(of: ModelsSettings | None = None) -> np.ndarray:
    return np.stack([views_of(of or settings())(rgb) for rgb in PICTURES])


def three(**changes: Any) -> ModelsSettings:
    """small -> large -> small's network once more, on large's view with another mean and std."""
    last = Member(
        architecture="tests.small_classifiers:small",
        name="third",
        preprocessing=PreprocessingSettings(side=64, resize=64, interpolation="bicubic", mean=(0.0,) * 3),
    )
    return settings(members=(*settings().members, last), **changes)


def cascade_of(of: ModelsSettings, **options: Any) -> LooksCascade:
    return models_cascade(of, {**NETWORKS, "third": NETWORKS["small"]}, CLASSES, **options)


def alone(role: str) -> torch.Tensor:
    """Logits of a network on its own view, straight from the pictures."""
    feed = FEEDS[role]
    images = torch.from_numpy(np.stack([feed(rgb) for rgb in PICTURES])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return NETWORKS[role](normalise(images, feed))


def exits_of(cascade: LooksCascade, rows: np.ndarray) -> list[torch.Tensor]:
    return list(said_by(cascade, rows).values())


def test_the_newest_member_decides_on_its_own_view() -> None:
    first, second = exits_of(cascade_of(settings()), pixels())
    torch.testing.assert_close(first, alone("small"), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second, alone("large"), rtol=1e-5, atol=1e-5)
    assert (first.argmax(1) != second.argmax(1)).any()


def test_the_mean_is_over_all_members_so_far() -> None:
    first, second = exits_of(combined(cascade_of(settings()), "mean"), pixels())
    torch.testing.assert_close(first, alone("small"), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second, (alone("small") + alone("large")) / 2, rtol=1e-5, atol=1e-5)


def test_each_member_costs_what_it_costs_on_its_own_view() -> None:
    exits = cascade_of(settings()).exits
    assert [exit.name for exit in exits] == ["small", "large"]
    assert [exit.macs for exit in exits] == [count_macs(NETWORKS[r], (1, 3, f.crop, f.crop)) for r, f in FEEDS.items()]
    assert exits[0].macs < exits[1].macs


def test_members_of_the_same_view_share_its_pixels() -> None:
    both = 3 * (SMALL.crop**2 + LARGE.crop**2)
    cascade = cascade_of(three())
    assert image_shape(cascade) == (both,)
    assert [stage.takes["image"][1] for stage in cascade.stages] == [(both,), (64, 64, 3), (64, 64, 3)]
    assert [list(stage.takes) for stage in cascade.stages] == [["image"]] * 3
    assert [list(stage_layout(cascade, k)) for k in range(3)] == [["image"]] * 3  # the newest decides
    averaged = combined(cascade, "mean")
    assert [list(stage_layout(averaged, k)) for k in range(3)] == [["image"], ["image", "views"], ["image", "views"]]
    assert [stage_layout(averaged, k)["views"][1] for k in (1, 2)] == [(1, 3), (2, 3)]


@pytest.mark.parametrize(("stages", "starts"), [("per_member", (0, 1, 2)), ("one", (0,))])
def test_there_is_a_stage_per_member_or_one(stages: str, starts: tuple[int, ...]) -> None:
    assert stage_starts(cascade_of(three(stages=stages))) == starts


def stage_by_stage(cascade: LooksCascade, rows: np.ndarray, limits: np.ndarray, batch: int) -> pa.Table:
    """Output rows; every stage in batches, as Ray Data cuts them."""
    count, shape = len(rows), rows.shape[1:]
    names, nothing = [f"/{k}.jpg" for k in range(count)], [None] * count
    table = records.work_table(np.arange(count), names, list(rows), ["ok"] * count, nothing, shape)
    for index in range(len(cascade.stages)):
        parts = range(0, count, batch)
        done = [label_stage(cascade, index, table.slice(k, batch), limits[k : k + batch], None).table for k in parts]
        table = pa.concat_tables(done)
    return finish_rows(cascade, table, None)


@pytest.mark.parametrize("stages", ["per_member", "one"])
@pytest.mark.parametrize("rule", ["last", "mean", "fitted"])
@hypothesis_settings(max_examples=8)
@given(limits=st.tuples(st.floats(0.3, 1.01), st.floats(0.3, 1.01)), batch=st.integers(1, COUNT))
def test_stages_and_batches_change_nothing(stages: str, rule: Rule, limits: tuple[float, float], batch: int) -> None:
    cascade = combined(cascade_of(three(stages=stages)), rule)
    rows = pixels(three())
    thresholds = np.tile(np.array([*limits, -np.inf], np.float32), (COUNT, 1))
    expected = run_cascade(cascade, rows, thresholds)
    found = stage_by_stage(cascade, rows, thresholds, batch)
    assert found["label_id"].to_pylist() == expected.label_id.tolist()
    assert found["exit"].to_pylist() == [cascade.exits[k].name for k in expected.exit]
    assert (found["gflops"].to_numpy() * GIGA).round().tolist() == expected.macs.tolist()


def test_a_member_alone_takes_the_pixels_of_all() -> None:
    cascade = cascade_of(settings(), only=("large",))
    [found] = exits_of(cascade, pixels())
    torch.testing.assert_close(found, alone("large"), rtol=1e-5, atol=1e-5)
    assert [exit.name for exit in cascade.exits] == ["large"]
    table = run_all_exits(cascade, pixels())
    assert table.cost_NK[:, 0].tolist() == [cascade.exits[0].macs] * COUNT


def test_one_view_for_all_is_an_image_like_any_other() -> None:
    same = settings(members=tuple(m for m in three().members if m.role != "small"))
    cascade = cascade_of(same)
    assert image_shape(cascade) == (64, 64, 3)
    first, _ = exits_of(cascade, pixels(same))
    torch.testing.assert_close(first, alone("large"), rtol=1e-5, atol=1e-5)
