"""Weights of views: the minimum of a convex loss, near the rule where images say little, the same however they are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anchornet.budget import combination_fit
from anchornet.budget.combination import Combination, View
from anchornet.budget.combination_fit import RIDGE, Examples, fit_combination, fit_weights

EXITS = [[View("a", counted=False)], [View("b")], [View("c")]]
BASE = Combination.of("sum", EXITS)
CLASSES = 5


def examples(num_images: int, strength: tuple[float, ...] = (2.0, 1.0, 0.5), seed: int = 0) -> Examples:
    """Views of unit noise in which the true class stands out by ``strength``; the best weights are near it."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, CLASSES, num_images)
    views = generator.normal(size=(num_images, len(strength), CLASSES)).astype(np.float32)
    views[np.arange(num_images), :, label] += np.array(strength, np.float32)
    return Examples(lambda rows, count: views[rows, :count], np.arange(num_images), label, CLASSES)


def loss(given: Examples, weights_v: torch.Tensor, base_v: np.ndarray) -> torch.Tensor:
    """Written down in torch, for its gradient."""
    views = torch.from_numpy(given.read(given.rows_M, len(base_v)).astype(np.float64))
    logits = torch.einsum("v,nvc->nc", weights_v, views)
    error = torch.nn.functional.cross_entropy(logits, torch.from_numpy(given.label_M), reduction="sum")
    return error + RIDGE * ((weights_v - torch.from_numpy(base_v)) ** 2).sum()


@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_the_slope_of_the_loss_is_zero_at_the_weights(num_views: int) -> None:
    given, base = examples(400), np.array(BASE.weights[-1])[:num_views]
    weights = torch.from_numpy(fit_weights(given, base)).requires_grad_()
    found = loss(given, weights, base)
    found.backward()
    assert weights.grad is not None
    assert float(weights.grad.abs().max()) < 1e-3
    for other in np.random.default_rng(1).normal(scale=0.1, size=(20, num_views)):
        assert float(loss(given, weights.detach() + torch.from_numpy(other), base)) > float(found.detach())


def test_many_images_show_what_each_view_is_worth() -> None:
    found = fit_weights(examples(20_000), np.array([0.0, 1.0, 1.0]))
    np.testing.assert_allclose(found, [2.0, 1.0, 0.5], atol=0.1)


def test_golden_weights() -> None:
    found = fit_combination(examples(300), BASE)
    assert (found.fitted, found.rule, found.views) == (True, "sum", ("a", "b", "c"))
    assert [tuple(round(weight, 6) for weight in row) for row in found.weights] == [
        (1.709516,),
        (1.499976, 0.999125),
        (1.538236, 1.036995, 0.633847),
    ]


def test_no_image_leaves_the_rule() -> None:
    nothing = Examples(lambda rows, count: np.zeros((len(rows), count, 2), np.float32), np.arange(0), np.arange(0), 2)
    assert fit_combination(nothing, BASE).weights == BASE.weights


def test_images_that_say_nothing_leave_the_rule() -> None:
    flat = examples(500)._replace(read=lambda rows, count: np.ones((len(rows), count, CLASSES), np.float32))
    np.testing.assert_allclose(fit_weights(flat, np.array([0.0, 1.0])), [0.0, 1.0], atol=1e-12)


def test_images_of_one_class_give_finite_weights_that_still_answer() -> None:
    given = examples(3000)
    one = given._replace(rows_M=np.flatnonzero(given.label_M == 2), label_M=given.label_M[given.label_M == 2])
    weights = fit_weights(one, np.array([0.0, 1.0, 1.0]))
    assert np.isfinite(weights).all()
    assert np.abs(weights).max() < 5
    views, rule = given.read(given.rows_M, 3), np.array([0.0, 1.0, 1.0])
    right, before = (
        (np.einsum("v,nvc->nc", each, views).argmax(1) == given.label_M).mean() for each in (weights, rule)
    )
    assert right > before


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_combination(examples(100), BASE)
    monkeypatch.setattr(combination_fit, "_BLOCK_VALUES", 7 * 3 * CLASSES)
    read: list[int] = []
    given = examples(100)
    pieces = given._replace(read=lambda rows, count: (read.append(len(rows)), given.read(rows, count))[1])
    found = fit_combination(pieces, BASE)
    assert max(read) == 21  # of one view
    for row, expected in zip(found.weights, whole.weights, strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-8)


def test_weights_to_begin_with_change_the_way_and_not_the_end() -> None:
    given = examples(200)
    begun = fit_combination(given, BASE, start=fit_combination(examples(200, seed=1), BASE))
    for row, expected in zip(begun.weights, fit_combination(given, BASE).weights, strict=True):
        np.testing.assert_allclose(row, expected, atol=1e-5)
    already = fit_combination(given, BASE)
    again = fit_combination(given, BASE, start=already)
    np.testing.assert_allclose(again.weights[-1], already.weights[-1], atol=1e-8)


def test_large_logits_do_not_overflow() -> None:
    given = examples(50)
    huge = given._replace(read=lambda rows, count: given.read(rows, count) * np.float32(1e4))
    found = fit_weights(huge, np.array([0.0, 1.0]))
    assert np.isfinite(found).all()
