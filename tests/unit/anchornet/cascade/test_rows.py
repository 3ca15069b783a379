"""What a row carries between stages: exact whatever the slicing, no Python object per row, nothing for rows that left."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.cascade import rows as records
from anchornet.cascade.rows import Layout, read_carried, with_carried
from anchornet.cascade.standing import Extras, Standing

LAYOUT: Layout = {
    "image": (np.dtype(np.uint8), (3, 3, 3)),
    "logits": (np.dtype(np.float32), (5,)),
    "flag": (np.dtype(np.bool_), ()),
}


def arrays(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "image": generator.integers(0, 256, (count, 3, 3, 3), dtype=np.uint8),
        "logits": generator.standard_normal((count, 5)).astype(np.float32),
        "flag": generator.random(count) < 0.5,
    }


@given(st.lists(st.booleans(), max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_survivors_come_back_whatever_the_cuts(wants: list[bool], cuts: list[int]) -> None:
    rows = np.flatnonzero(wants)
    carried = arrays(len(rows))
    table = with_carried(pa.table({"image_id": np.arange(len(wants))}), rows, carried, LAYOUT)
    edges = [0, *sorted(min(cut, len(wants)) for cut in cuts), len(wants)]
    pieces = [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    back = pa.concat_tables(pieces)
    assert records.wanting_rows(back).tolist() == rows.tolist()
    for name, array in read_carried(back, LAYOUT).items():
        np.testing.assert_array_equal(array, carried[name])
        assert array.flags.writeable
    some = [read_carried(piece, LAYOUT)["logits"] for piece in pieces]
    np.testing.assert_array_equal(np.concatenate(some), carried["logits"])


def test_rows_that_left_take_no_memory() -> None:
    table = pa.table({"image_id": np.arange(1000)})
    few = with_carried(table, np.arange(3), arrays(3), LAYOUT)["carry_image"]
    assert sum(len(chunk.buffers()[2]) for chunk in few.chunks) == 3 * 27


def test_carrying_something_else_replaces_what_was_carried() -> None:
    table = with_carried(pa.table({"image_id": np.arange(4)}), np.arange(4), arrays(4), LAYOUT)
    other: Layout = {"cells": (np.dtype(np.float32), (2,))}
    table = with_carried(table, np.array([2]), {"cells": np.ones((1, 2), np.float32)}, other)
    assert table.column_names == ["image_id", "wants_next", "carry_cells"]
    assert records.without_carried(table).column_names == ["image_id"]


def test_an_array_of_another_shape_is_a_bug() -> None:
    table = pa.table({"image_id": np.arange(2)})
    with pytest.raises(AssertionError, match="logits"):
        with_carried(table, np.arange(2), {**arrays(2), "logits": np.zeros((2, 4), np.float32)}, LAYOUT)


@pytest.mark.parametrize("extras", [Extras(), Extras(top_k=2, embedding=4)])
@pytest.mark.parametrize("num_boxes", [0, 3])
def test_a_standing_comes_back(num_boxes: int, extras: Extras) -> None:
    generator = np.random.default_rng(1)
    standing = Standing(
        label_id=np.arange(5, dtype=np.int32),
        score=generator.random(5).astype(np.float32),
        exit=np.array([-1, 0, 1, 2, 0], np.int16),
        macs=generator.integers(0, 1 << 40, 5),
        boxes=generator.integers(-1, 100, (5, num_boxes, 3)).astype(np.int16),
        top_id=generator.integers(0, 9, (5, extras.top_k)).astype(np.int32),
        top_probability=generator.random((5, extras.top_k)).astype(np.float32),
        embedding=generator.random((5, extras.embedding)).astype(np.float16),
    )
    table = records.with_standing(pa.table({"image_id": np.arange(5)}), standing)
    back = records.read_standing(pa.concat_tables([table.slice(0, 2), table.slice(2)]), num_boxes, extras)
    assert back.extras == extras
    for name in Standing.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back, name), getattr(standing, name))
        assert getattr(back, name).dtype == getattr(standing, name).dtype


def test_before_the_first_stage_every_standing_is_fresh() -> None:
    assert records.read_standing(pa.table({"image_id": np.arange(3)}), 2).exit.tolist() == [-1, -1, -1]


def test_unreadable_images_want_no_stage() -> None:
    image = np.full((2, 2, 3), 7, np.uint8)
    table = records.work_table(
        np.arange(3), ["a", "b", "c"], [image, None, image], ["ok", "unreadable", "ok"], [None, "x", None], (2, 2, 3)
    )
    assert records.wanting_rows(table).tolist() == [0, 2]
    assert read_carried(table, records.image_layout(2))["image"].shape == (2, 2, 2, 3)


@given(st.data())
def test_output_rows_say_what_became_of_each_image(data: st.DataObject) -> None:
    """The rules of an output row, whatever mixture of images a batch holds."""
    kinds = data.draw(st.lists(st.sampled_from(["labelled", "overflow", "no budget", "unreadable"]), max_size=12))
    reached = np.array([kind in {"labelled", "overflow"} for kind in kinds], bool)
    chosen = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(kinds), max_size=len(kinds))), np.int64)
    score = np.where([kind == "overflow" for kind in kinds], np.nan, np.where(reached, 0.75, -1)).astype(np.float32)
    boxes = np.where(np.arange(2)[:, None] < chosen[:, None, None], 5, -1).repeat(3, axis=2).astype(np.int16)
    standing = replace(
        Standing.fresh(len(kinds), 2),
        label_id=np.where(reached, 1, -1).astype(np.int32),
        score=score,
        exit=np.where(reached, 1, -1).astype(np.int16),
        macs=np.where(reached, 1_500_000_000, 0).astype(np.int64),
        boxes=boxes,
    )
    lost = [kind == "unreadable" for kind in kinds]
    table = pa.table(
        {
            "image_id": np.arange(len(kinds)),
            "uri": pa.array([f"/{k}.jpg" for k in range(len(kinds))], pa.string()),
            "status": pa.array(["unreadable" if each else "ok" for each in lost], pa.string()),
            "error": pa.array(["empty file" if each else None for each in lost], pa.string()),
        }
    )
    calibrated = data.draw(st.booleans())
    confidence = np.where(reached, 0.5, np.nan) if calibrated else None
    rows = records.finish(records.with_standing(table, standing), ("ant", "bee"), ("glance", "patch"), confidence)
    assert rows.schema == records.LABEL_SCHEMA
    reasons = {"overflow": records.NOT_FINITE, "no budget": records.BUDGET_EXHAUSTED, "unreadable": "empty file"}
    states = {"labelled": "ok", "overflow": "failed", "no budget": "failed", "unreadable": "unreadable"}
    for kind, count, row in zip(kinds, chosen, rows.to_pylist(), strict=True):
        assert (row["status"], row["error"]) == (states[kind], reasons.get(kind))
        whole = {
            "label": "bee",
            "label_id": 1,
            "confidence": 0.5 if calibrated else None,
            "score": 0.75,
            "exit": "patch",
        }
        assert {name: row[name] for name in whole} == (whole if kind == "labelled" else dict.fromkeys(whole))
        assert row["gflops"] == (1.5 if kind in {"labelled", "overflow"} else 0.0)  # what was computed was paid for
        assert row["boxes"] == ([{"top": 5, "left": 5, "size": 5}] * count or None)


def test_what_was_asked_for_beside_the_label_comes_behind_it_and_is_null_without_one() -> None:
    standing = Standing.fresh(3, 0, Extras(top_k=2, embedding=3))
    standing.exit[:2], standing.label_id[:2], standing.score[:2] = [0, 1], [1, 0], [0.7, 0.9]
    standing.top_id[:2] = [[1, 0], [0, 1]]
    standing.top_probability[:2] = [[0.75, 0.25], [0.875, 0.125]]
    standing.embedding[:2] = [[1, 2, 0], [3, 4, 5]]
    columns = {"image_id": [0, 1, 2], "uri": ["a", "b", "c"], "status": ["ok"] * 3, "error": pa.nulls(3, pa.string())}
    columns["along_embedding"] = ["x"] * 3
    table = records.with_standing(pa.table(columns), standing)
    rows = records.finish(table, ("ant", "bee"), ("small", "large"), None, (2, 3))
    assert rows.schema.names == [*records.LABEL_SCHEMA.names, "top", "embedding", "input_embedding"]
    assert {name: rows.schema.field(name).type for name in records.EXTRAS} == records.EXTRAS
    assert rows["embedding"].to_pylist() == [[1, 2], [3, 4, 5], None]
    assert rows["top"].to_pylist() == [
        [{"label": "bee", "probability": 0.75}, {"label": "ant", "probability": 0.25}],
        [{"label": "ant", "probability": 0.875}, {"label": "bee", "probability": 0.125}],
        None,
    ]


def test_a_patch_in_the_corner_is_a_patch_and_rows_without_any_are_null() -> None:
    standing = Standing.fresh(2, 2)
    standing.boxes[0] = [[0, 0, 95], [8, 16, 95]]
    table = pa.table({"image_id": [0, 1], "uri": ["a", "b"], "status": ["ok", "ok"], "error": pa.nulls(2, pa.string())})
    rows = records.finish(records.with_standing(table, standing), ("ant",), ("glance",), None)
    assert rows["boxes"].to_pylist() == [
        [{"top": 0, "left": 0, "size": 95}, {"top": 8, "left": 16, "size": 95}], None,
    ]  # fmt: skip
    assert rows["confidence"].to_pylist() == [None, None]


def test_a_cascade_without_patches_has_no_boxes() -> None:
    table = pa.table({"image_id": [0], "uri": ["a"], "status": ["ok"], "error": pa.nulls(1, pa.string())})
    rows = records.finish(records.with_standing(table, Standing.fresh(1, 0)), ("ant",), ("glance",), None)
    assert rows["boxes"].to_pylist() == [None]


def test_columns_of_the_input_go_along_behind_the_others_and_never_in_their_place() -> None:
    columns = {"image_id": [0], "uri": ["a"], "status": ["ok"], "error": pa.nulls(1, pa.string())}
    columns |= {"along_sku": ["007"], "along_label": [3], "along_tags": [["x", "y"]], "along_carry_on": [1.5]}
    table = records.with_standing(pa.table(columns), Standing.fresh(1, 0))
    table = records.without_carried(with_carried(table, np.arange(1), arrays(1), LAYOUT))
    rows = records.finish(table, ("ant",), ("glance",), None)
    assert rows.schema.names == [*records.LABEL_SCHEMA.names, "sku", "input_label", "tags", "carry_on"]
    assert rows.select(records.LABEL_SCHEMA.names).schema == records.LABEL_SCHEMA
    [row] = rows.to_pylist()
    assert (row["sku"], row["input_label"], row["tags"], row["carry_on"]) == ("007", 3, ["x", "y"], 1.5)
    assert row["label"] is None
