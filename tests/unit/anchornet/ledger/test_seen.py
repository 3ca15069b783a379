"""Seen images: each counted once per stage, whatever comes again, and remembered by a snapshot."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.ledger.seen import SeenImages

ids = st.lists(st.integers(0, 200_000), max_size=20, unique=True).map(lambda values: np.array(values, np.int64))


@given(batches=st.lists(st.tuples(st.integers(0, 1), ids), max_size=8))
def test_counts_are_those_of_sets_and_a_snapshot_brings_them_back(batches: list[tuple[int, np.ndarray]]) -> None:
    seen = SeenImages(2, 100)
    leased: list[set[int]] = [set(), set()]
    for stage, image_ids in batches:
        new = set(image_ids.tolist()) - leased[stage]
        assert seen.lease(stage, image_ids) == len(new)
        for earlier in range(stage + 1):
            leased[earlier] |= set(image_ids.tolist())
        seen.snapshot()  # taken at any time, it must not lose later changes
    assert seen.num_leased == [len(leased[0]), len(leased[1])]
    restored = SeenImages(2, len(seen.bits))
    restored.restore(json.loads(json.dumps(seen.snapshot())))
    assert restored.num_leased == seen.num_leased
    assert restored.num_computing == [0, 0]


def test_settled_images_are_counted_once() -> None:
    seen = SeenImages(1, 10)
    seen.lease(0, np.arange(4))
    assert (seen.settle(0, np.arange(3)), seen.settle(0, np.arange(4))) == (3, 1)
    assert seen.num_computing == [0]
    assert seen.all_settled(0, np.arange(4)) and not seen.all_settled(0, np.arange(5))


def test_an_image_at_a_later_stage_has_been_through_the_earlier_ones() -> None:
    seen = SeenImages(3, 10)
    assert seen.lease(2, np.array([5])) == 1
    assert seen.num_leased == [1, 1, 1]
    assert seen.num_computing == [0, 0, 1]


def test_full_blocks_make_short_snapshots() -> None:
    seen = SeenImages(1, 200_000)
    seen.lease(0, np.arange(65_536))
    assert seen.snapshot() == {"0": ["all"]}
    restored = SeenImages(1, 200_000)
    restored.restore(seen.snapshot())
    assert restored.num_leased == [65_536]


def test_a_snapshot_from_before_the_bitmap_grew_stands_for_no_more_images() -> None:
    seen = SeenImages(1, 2)
    seen.lease(0, np.arange(2))
    seen.snapshot()
    seen.lease(0, np.array([100_000]))
    restored = SeenImages(1, len(seen.bits))
    restored.restore(seen.snapshot())
    assert restored.num_leased == seen.num_leased == [3]


def test_negative_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="image_id must be >= 0, got -1; ids are positions in the manifest"):
        SeenImages(1, 10).lease(0, np.array([-1]))


def test_too_many_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 4 stages, got 5"):
        SeenImages(5, 10)
