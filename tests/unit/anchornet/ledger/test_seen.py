"""Seen images: each counted once per stage, whatever comes again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.ledger.seen import SeenImages

ids = st.lists(st.integers(0, 200_000), max_size=20, unique=True).map(lambda values: np.array(values, np.int64))


@given(batches=st.lists(st.tuples(st.integers(0, 1), ids), max_size=8), before=st.integers(0, 9))
def test_counts_are_those_of_sets_and_go_on_where_they_stood(
    batches: list[tuple[int, np.ndarray]], before: int
) -> None:
    seen = SeenImages([before, 0], 100)
    expected: list[set[int]] = [set(), set()]
    for stage, image_ids in batches:
        new = set(image_ids.tolist()) - expected[stage]
        assert seen.add(stage, image_ids) == len(new)
        expected[stage] |= set(image_ids.tolist())
    assert seen.counts == [before + len(expected[0]), len(expected[1])]


def test_negative_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="image_id must be >= 0, got -1"):
        SeenImages([0], 10).add(0, np.array([-1]))


def test_too_many_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 8 stages, got 9"):
        SeenImages([0] * 9, 10)
