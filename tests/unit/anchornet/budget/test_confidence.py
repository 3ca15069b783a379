"""Calibrated confidence: monotone, close to the truth, judged on images it was not fitted on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.budget import confidence as confidence_module
from anchornet.budget.confidence import Calibrator, calibration_errors, expected_calibration_error, fit_calibrator
from anchornet.budget.exit_table import ExitTable, HeldOut
from anchornet.budget.policy import NUM_FOLDS


def overconfident(num_images: int, seed: int = 0) -> ExitTable:
    """Two exits; the second says s and is right with probability s squared."""
    generator = np.random.default_rng(seed)
    score = generator.uniform(0.3, 1.0, (num_images, 2)).astype(np.float32)
    chance = np.stack([score[:, 0], score[:, 1] ** 2], axis=1)
    right = generator.random((num_images, 2)) < chance
    prediction = np.where(right, 0, 1).astype(np.int32)
    cost = np.tile(np.array([10, 30], np.int64), (num_images, 1))
    label = np.zeros(num_images, np.int32)
    ids = np.arange(num_images, dtype=np.int64)
    return ExitTable(("a", "b"), ids, score, prediction, cost, label)


def test_the_error_falls_where_there_is_one() -> None:
    errors = {row["exit"]: row for row in calibration_errors(HeldOut.plain(overconfident(8000)))}
    assert float(errors["b"]["before"]) > 0.15
    assert float(errors["b"]["after"]) < 0.03
    assert float(errors["a"]["after"]) < 0.03


def test_probabilities_are_near_the_truth_and_monotone() -> None:
    calibrator = fit_calibrator(overconfident(20000))
    score = np.linspace(0.35, 0.95, 50, dtype=np.float32)
    probability = calibrator(score, np.ones(50, np.int64))
    assert (np.diff(probability) >= 0).all()
    np.testing.assert_allclose(probability, score**2, atol=0.06)


def test_each_image_takes_the_curve_of_its_exit() -> None:
    calibrator = fit_calibrator(overconfident(2000))
    score = np.array([0.7, 0.7], np.float32)
    first, second = calibrator(score, np.array([0, 1]))
    assert first == calibrator.curves[0](score)[0]
    assert second == calibrator.curves[1](score)[0]
    assert first > second


def test_few_images_are_never_certain() -> None:
    table = overconfident(12)
    everything_right = ExitTable(
        table.exits, table.image_id, table.confidence, np.zeros_like(table.prediction), table.cost_macs, table.label
    )
    calibrator = fit_calibrator(everything_right)
    assert isinstance(calibrator, Calibrator)
    assert (calibrator(np.ones(3, np.float32), np.zeros(3, np.int64)) < 1).all()


def test_expected_calibration_error_of_known_cases() -> None:
    half = np.array([True, False] * 50)
    assert expected_calibration_error(np.full(100, 0.5), half) == pytest.approx(0.0)
    assert expected_calibration_error(np.full(100, 0.9), half) == pytest.approx(0.4)
    assert expected_calibration_error(np.ones(100), ~half | half) == pytest.approx(0.0)


def test_too_sure_here_does_not_make_good_for_too_unsure_there() -> None:
    confidence, half = np.array([0.25, 0.75]).repeat(100), np.array([True, False] * 100)
    assert expected_calibration_error(confidence, half) == pytest.approx(0.25)


def test_full_certainty_belongs_to_the_last_bin() -> None:
    confidence, right = np.array([1.0, 0.95]), np.array([False, True])
    assert expected_calibration_error(confidence, right) == pytest.approx(abs(1.95 - 1) / 2)


def test_every_image_is_judged_by_curves_that_never_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    table = overconfident(500)
    unseen: list[set[float]] = []
    everything = set(table.confidence[:, 0].tolist())
    fit = confidence_module._fit

    def recorded(confidence_NK: np.ndarray, correct_NK: np.ndarray) -> Calibrator:
        unseen.append(everything - set(confidence_NK[:, 0].tolist()))
        return fit(confidence_NK, correct_NK)

    monkeypatch.setattr(confidence_module, "_fit", recorded)
    calibration_errors(HeldOut.plain(table))
    assert len(unseen) == NUM_FOLDS
    assert set.union(*unseen) == everything
    assert sum(map(len, unseen)) == len(everything)


@given(
    st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.4000001, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40),
    st.lists(st.floats(0, 1), min_size=2, max_size=10),
)
def test_more_certain_is_never_less_probable_and_nothing_is_sure(
    images: list[tuple[float, bool]], scores: list[float]
) -> None:
    score, right = (np.array(column) for column in zip(*images, strict=True))
    table = ExitTable(
        exits=("only",),
        image_id=np.arange(len(score)),
        confidence=score[:, None].astype(np.float32),
        prediction=np.where(right, 0, 1)[:, None].astype(np.int32),
        cost_macs=np.ones((len(score), 1), np.int64),
        label=np.zeros(len(score), np.int32),
    )
    calibrator = fit_calibrator(table)
    probability = calibrator(np.sort(np.array(scores, np.float32)), np.zeros(len(scores), np.int64))
    assert (np.diff(probability) >= -1e-12).all()
    assert ((probability > 0) & (probability < 1)).all()
