"""The picture of a frontier: a PNG that shows what is known, and marks the budget where it will be spent."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image

from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.report.pictures import frontier_picture
from benchmarks.tables import synthetic_table


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return fit_frontier(synthetic_table(300, 0))


def size(picture: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG"
    return image.size


def test_accuracy_is_a_panel_of_its_own_where_labels_were_known(frontier: Frontier) -> None:
    unlabelled = fit_frontier(replace(synthetic_table(300, 0), label=None))
    (width, height), (_, shorter) = size(frontier_picture(frontier)), size(frontier_picture(unlabelled))
    assert (width, height) == (768, 768)
    assert shorter < height


def test_a_single_point_can_be_drawn(frontier: Frontier) -> None:
    assert size(frontier_picture(replace(frontier, points=frontier.points[:1]), chosen_gflops=1.0)) == (768, 768)


@pytest.mark.parametrize("beyond", [0.9, 1.5])
def test_the_mark_lies_at_the_budget_and_never_beyond_what_can_be_spent(
    frontier: Frontier, monkeypatch: pytest.MonkeyPatch, beyond: float
) -> None:
    marks: list[float] = []
    monkeypatch.setattr(Axes, "axvline", lambda self, x, **style: marks.append(x))
    said: list[Any] = []
    monkeypatch.setattr(Axes, "annotate", lambda self, text, xy, **style: said.append(text))
    frontier_picture(frontier)
    assert not marks
    frontier_picture(frontier, chosen_gflops=beyond * frontier.maximum_gflops)
    chosen = min(beyond, 1.0) * frontier.maximum_gflops
    assert marks == [pytest.approx(chosen)] * 2
    assert said == [f" {chosen:.4g}"]
