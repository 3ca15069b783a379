"""The picture of a frontier: a PNG that shows what is known, and marks the budget where it will be spent."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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


def test_accuracy_is_a_panel_of_its_own_where_labels_were_known(
    frontier: Frontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels: list[int] = []
    subplots = Figure.subplots

    def counted(self: Figure, rows: int, *arguments: Any, **options: Any) -> Any:
        panels.append(rows)
        return subplots(self, rows, *arguments, **options)

    monkeypatch.setattr(Figure, "subplots", counted)
    unlabelled = fit_frontier(replace(synthetic_table(300, 0), label=None))
    assert size(frontier_picture(frontier)) == (768, 768)
    assert size(frontier_picture(unlabelled)) == (768, 432)
    assert panels == [2, 1]


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
