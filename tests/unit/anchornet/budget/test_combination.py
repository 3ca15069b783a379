"""How views become answers: rules, what is still needed, what is written and read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchornet.budget.combination import RULES, Combination, Rule, View

ANCHOR, GLANCE = View("anchornet", counted=False), View("glance")
PATCHES = [View("patch1"), View("patch2")]
EXITS = {
    "anchor first": [[ANCHOR], [GLANCE], *([patch] for patch in PATCHES)],
    "glance first": [[GLANCE], [ANCHOR], *([patch] for patch in PATCHES)],
    "the paper's": [[GLANCE], [ANCHOR, PATCHES[0]], [PATCHES[1]]],
}


@pytest.mark.parametrize(
    ("order", "rule", "weights"),
    [
        ("anchor first", "sum", ((1,), (0, 1), (0, 1, 1), (0, 1, 1, 1))),
        ("anchor first", "mean", ((1,), (0, 1), (0, 0.5, 0.5), (0, 1 / 3, 1 / 3, 1 / 3))),
        ("anchor first", "last", ((1,), (0, 1), (0, 0, 1), (0, 0, 0, 1))),
        ("glance first", "sum", ((1,), (0, 1), (1, 0, 1), (1, 0, 1, 1))),
        ("the paper's", "sum", ((1,), (1, 0, 1), (1, 0, 1, 1))),
        ("the paper's", "last", ((1,), (0, 0, 1), (0, 0, 0, 1))),
    ],
)
def test_anchornets_own_logits_label_its_own_exit_only(order: str, rule: Rule, weights: tuple[Any, ...]) -> None:
    found = Combination.of(rule, EXITS[order])
    assert found.weights == weights
    assert (found.name, found.fitted) == (rule, False)


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6), min_size=3, max_size=3))
def test_the_weights_of_the_sum_give_the_papers_sum_to_the_bit(values: list[list[float]]) -> None:
    first, second, third = torch.tensor(values, dtype=torch.float32)
    found = Combination.of("sum", EXITS["anchor first"])
    views = {0: torch.full((6,), math.nan), 1: first, 2: second, 3: third}
    assert torch.equal(found.logits(views, 2), first + second)
    assert torch.equal(found.logits(views, 3), first + second + third)
    assert np.array_equal(found.logits({k: v.numpy() for k, v in views.items()}, 3), (first + second + third).numpy())


def test_a_view_of_weight_0_changes_nothing_whatever_it_says() -> None:
    found = Combination("sum", ("a", "b"), ((1.0,), (0.0, 0.25)), fitted=True)
    for said in (torch.full((2, 3), math.inf), torch.full((2, 3), math.nan), torch.ones(2, 3)):
        assert torch.equal(found.logits({0: said, 1: torch.ones(2, 3)}, 1), torch.full((2, 3), 0.25))
    nobody = Combination("sum", ("a",), ((0.0,),), fitted=True)
    assert torch.equal(nobody.logits({0: torch.ones(2, 3)}, 0), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("rule", "kept"), [("sum", [(), (), (1,), (1, 2)]), ("last", [(), (), (), ()]), ("mean", [(), (), (1,), (1, 2)])]
)
def test_what_no_later_exit_needs_is_not_kept(rule: Rule, kept: list[tuple[int, ...]]) -> None:
    found = Combination.of(rule, EXITS["anchor first"])
    assert [found.kept(k) for k in range(4)] == kept
    assert found.kept(4) == ()
    assert [list(found.added(k)) for k in range(4)] == [[0], [1], [2], [3]]
    assert list(Combination.of(rule, EXITS["the paper's"]).added(1)) == [1, 2]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("order", list(EXITS))
def test_what_is_written_is_read(order: str, rule: Rule) -> None:
    found = Combination.of(rule, EXITS[order])
    exits = [f"exit{k}" for k in range(len(found.weights))]
    assert Combination.from_plain(found.to_plain(exits), "b.yaml") == found
    assert list(found.to_plain(exits)["weights"]) == exits


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "b.yaml: combination is not rule, fitted and weights by exit and view"),
        ({"rule": "sum", "fitted": True}, "KeyError.'weights'"),
        ({"rule": "sum", "fitted": True, "weights": {}}, "IndexError"),
        ({"rule": "sum", "fitted": True, "weights": {"a": {"v": "much"}}}, "could not convert string to float: 'much'"),
        (
            {"rule": "most", "fitted": True, "weights": {"a": {"v": 1}}},
            "rule must be one of sum, mean, last, got 'most'",
        ),
        ({"rule": "sum", "fitted": True, "weights": {"a": {"v": math.nan}}}, "weights must be finite numbers"),
        (
            {"rule": "sum", "fitted": True, "weights": {"a": {"v": 1}, "b": {"v": 1}}},
            r"rows must grow to the 1 views, got",
        ),
        (
            {"rule": "sum", "fitted": True, "weights": {"a": {"v": 1}, "b": {"w": 1, "v": 1}}},
            "names its views in different orders; calibrate the bundle again",
        ),
    ],
)
def test_what_is_no_combination_is_refused(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Combination.from_plain(content, "b.yaml")
