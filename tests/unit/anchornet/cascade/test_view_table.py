"""Views of calibration images: scored as the loop scores them, and judged by weights that never saw them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anchornet.budget import combination_fit
from anchornet.budget.combination import Combination, View
from anchornet.budget.policy import NUM_FOLDS, fold_of
from anchornet.cascade import view_table
from anchornet.cascade.run import run_all_exits
from anchornet.cascade.view_table import ViewTable, by_fit, by_rule
from tests.fake_cascade import FakeCascade, fake_images

NAMES = ("a", "b", "c")
SUM = Combination.of("sum", [[View(name)] for name in NAMES])


def views_of(num_images: int, seed: int = 0, num_classes: int = 4) -> ViewTable:
    """Three views of noise in which the true class stands out, the first most."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, num_classes, num_images).astype(np.int32)
    views = generator.normal(size=(num_images, 3, num_classes)).astype(np.float32)
    views[np.arange(num_images), :, label] += np.array([2.0, 1.0, 0.25], np.float32)
    return ViewTable(
        exits=NAMES,
        views=NAMES,
        image_id=np.arange(num_images),
        logits_RWC=views,
        row=np.arange(num_images),
        cost_macs=np.tile(np.array([10, 30, 70]), (num_images, 1)),
        label=label,
        columns=(0, 1, 2),
    )


def test_scores_are_those_of_the_loop() -> None:
    cascade, images = FakeCascade(), fake_images(50)
    exits = run_all_exits(cascade, images)
    table = ViewTable(
        exits=tuple(exit.name for exit in cascade.exits),
        views=cascade.combination.views,
        image_id=np.arange(50),
        logits_RWC=exits.views_NVC.numpy(),
        row=np.arange(50),
        cost_macs=exits.cost_NK,
        label=None,
        columns=tuple(range(4)),
    ).exit_table(cascade.combination)
    np.testing.assert_array_equal(table.confidence, exits.confidence)
    np.testing.assert_array_equal(table.prediction, exits.prediction)
    np.testing.assert_array_equal(table.cost_macs, exits.cost_NK)


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    table = views_of(50)
    whole = table.exit_table(SUM)
    monkeypatch.setattr(view_table, "_BLOCK_VALUES", 7 * 3 * 4)
    np.testing.assert_array_equal(table.exit_table(SUM).confidence, whole.confidence)


def test_views_may_lie_anywhere_in_a_file(tmp_path: Path) -> None:
    table = views_of(40)
    order = np.random.default_rng(1).permutation(60)[:40]
    stored = np.zeros((60, 5, 4), np.float32)
    stored[order[:, None], [[3, 0, 4]]] = table.logits_RWC
    stored.tofile(tmp_path / "views")
    mapped = np.memmap(tmp_path / "views", np.float32, "r", shape=stored.shape)
    elsewhere = replace(table, logits_RWC=mapped, row=order, columns=(3, 0, 4))
    np.testing.assert_array_equal(elsewhere.exit_table(SUM).confidence, table.exit_table(SUM).confidence)
    assert by_fit(elsewhere, SUM).combination == by_fit(table, SUM).combination


def test_fewer_exits_have_fewer_views_and_fixed_costs() -> None:
    table = views_of(30)
    fewer = table.through(("a", "c"), ("a", "c"), (10, 40))
    assert fewer.cost_macs.tolist() == [[10, 50]] * 30
    rows = np.array([3, 5])
    np.testing.assert_array_equal(fewer.read(rows, 2), table.read(rows, 3)[:, [0, 2]])
    np.testing.assert_array_equal(fewer.read(rows, 1), table.read(rows, 1))


def test_a_rule_was_fitted_on_nothing() -> None:
    table = views_of(50)
    combination, held = by_rule(table, SUM)
    assert combination == SUM
    assert all(fold is held.table for fold in held.folds)


def test_every_image_is_judged_by_weights_that_never_saw_it() -> None:
    """A label that is changed changes the weights of every fold but its own."""
    table = views_of(60)
    fold_N = fold_of(table.image_id)
    changed = int(np.flatnonzero(fold_N == 2)[0])
    assert table.label is not None
    label = table.label.copy()
    label[changed] = (label[changed] + 1) % 4
    before, after = by_fit(table, SUM), by_fit(replace(table, label=label), SUM)
    same = [
        np.array_equal(a.confidence, b.confidence) for a, b in zip(before.held.folds, after.held.folds, strict=True)
    ]
    assert same == [fold == 2 for fold in range(NUM_FOLDS)]
    held_before, held_after = before.held.table.confidence, after.held.table.confidence
    assert np.array_equal(held_before[fold_N == 2], held_after[fold_N == 2])
    assert not np.isclose(held_before[fold_N != 2], held_after[fold_N != 2], rtol=0, atol=0).any(axis=1).all()
    for fold in range(NUM_FOLDS):
        np.testing.assert_array_equal(
            before.held.table.confidence[fold_N == fold], before.held.folds[fold].confidence[fold_N == fold]
        )


def test_fitted_weights_answer_better_than_the_rule() -> None:
    table = views_of(2000)
    fitted, rule = by_fit(table, SUM), by_rule(table, SUM)
    assert fitted.held.table.correct[:, -1].mean() > rule.held.table.correct[:, -1].mean() + 0.01
    assert fitted.combination.weights[-1][0] > fitted.combination.weights[-1][2]


def test_the_bytes_of_a_table_do_not_matter_to_its_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_fit(views_of(100), SUM).combination.weights
    monkeypatch.setattr(combination_fit, "_BLOCK_VALUES", 40)
    for row, wanted in zip(by_fit(views_of(100), SUM).combination.weights, expected, strict=True):
        np.testing.assert_allclose(row, wanted, rtol=1e-8)


def test_without_labels_nothing_is_fitted() -> None:
    with pytest.raises(ValueError, match="weights of views cannot be fitted without labels; calibrate on labelled"):
        by_fit(replace(views_of(20), label=None), SUM)


def test_logits_that_are_not_finite_are_refused_before_anything_is_fitted() -> None:
    table = views_of(20)
    table.logits_RWC[3, 1, 2] = np.inf
    with pytest.raises(ValueError, match="confidence must be finite, got NaN or infinity; look for overflow"):
        by_fit(table, SUM)
