"""What calibration decides: the combination, the exits that are not worth their price, the frontier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anchornet.budget.combination import RULES, Combine
from anchornet.budget.frontier import fit_frontier
from anchornet.bundle import Bundle
from anchornet.calibration import calibrate
from anchornet.cascade.protocol import rule_of
from anchornet.cascade.view_table import ViewTable, by_fit
from anchornet.systems.anchornet.settings import AnchorNetSettings
from tests.tiny_bundle import CLASSES, tiny_bundle

COUNT = 600
GOOD = {"anchornet": 1.5, "glance": 1.0, "patch1": 1.5, "patch2": 1.2, "patch3": 0.8, "patch4": 0.6}


def views_of(bundle: Bundle, strength: dict[str, float] | None = None, count: int = COUNT, seed: int = 0) -> ViewTable:
    """Views of noise in which the true class stands out by ``strength``, at the costs of the bundle's cascade."""
    cascade = bundle.as_built()
    names, generator = cascade.combination.views, np.random.default_rng(seed)
    label = generator.integers(0, len(CLASSES), count).astype(np.int32)
    views = generator.normal(size=(count, len(names), len(CLASSES))).astype(np.float32)
    views[np.arange(count), :, label] += np.array([{**GOOD, **(strength or {})}[name] for name in names], np.float32)
    return ViewTable(
        exits=tuple(exit.name for exit in cascade.exits),
        views=names,
        image_id=np.arange(count),
        logits_RWC=views,
        row=np.arange(count),
        cost_macs=np.tile(np.cumsum([exit.macs for exit in cascade.exits]), (count, 1)),
        label=label,
        columns=tuple(range(len(names))),
    )


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def test_fitted_weights_and_the_frontier_on_what_they_say(bundle: Bundle) -> None:
    table = views_of(bundle)
    found = calibrate(bundle, table, "fitted")
    expected = by_fit(table, bundle.as_built().combination)
    assert found.combined.combination == expected.combination
    assert found.frontier == fit_frontier(expected.held)
    assert found.settings == bundle.system
    assert found.said == ()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_taken_as_it_is(bundle: Bundle, rule: Combine) -> None:
    found = calibrate(bundle, views_of(bundle), rule)
    assert found.combined.combination == rule_of(bundle.as_built(), rule)  # type: ignore[arg-type]
    assert found.said == ()


def test_auto_takes_what_is_most_accurate_on_images_it_was_not_fitted_on(bundle: Bundle) -> None:
    [said] = calibrate(bundle, views_of(bundle), "auto").said
    assert said.startswith("Chosen: fitted. Cross-fitted accuracy, averaged over the budgets: fitted ")
    assert all(f"{rule} " in said for rule in RULES)


def test_without_labels_it_is_what_an_earlier_calibration_left_or_the_rule(bundle: Bundle) -> None:
    table = views_of(bundle)
    fitted = calibrate(bundle, table, "fitted").combined.combination
    blind = replace(table, label=None)
    found = calibrate(bundle, blind, "fitted", drop_exits=True)
    assert found.combined.combination == bundle.as_built().combination
    assert found.said == ("Without labels weights of views cannot be fitted; the combination is: sum.",)
    found = calibrate(replace(bundle, combination=fitted), blind, "auto")
    assert found.combined.combination == fitted
    assert found.said == ("Without labels weights of views cannot be fitted; the combination is: fitted.",)
    assert not found.frontier.labelled
    earlier = replace(bundle, combination=rule_of(bundle.as_built(), "last"))
    assert calibrate(earlier, blind, "fitted").combined.combination.name == "sum"
    assert calibrate(bundle, blind, "mean").said == ()


def test_an_exit_that_says_nothing_is_dropped(bundle: Bundle) -> None:
    found = calibrate(bundle, views_of(bundle, {"glance": 0.0}), "fitted", drop_exits=True)
    assert found.settings == AnchorNetSettings(skip=("glance",))
    assert found.frontier.exits == found.combined.held.table.exits == ("anchor", "patch1", "patch2", "patch3", "patch4")
    assert found.combined.combination.views == ("anchornet", "patch1", "patch2", "patch3", "patch4")
    [said] = found.said
    assert said.startswith("Dropped: exit glance. Without it the cross-fitted accuracy, averaged over the budgets, is ")
    cascade = replace(bundle, system=found.settings).as_built()
    assert found.combined.held.table.cost_macs[0].tolist() == np.cumsum([exit.macs for exit in cascade.exits]).tolist()


def test_an_exit_that_is_worth_its_price_stays(bundle: Bundle) -> None:
    table = views_of(bundle, {"glance": 2.5, "patch1": 0.1, "patch2": 0.1})
    found = calibrate(bundle, table, "fitted", drop_exits=True)
    assert found.settings == bundle.system
    assert found.said == ()
    assert found.frontier == calibrate(bundle, table, "fitted", drop_exits=False).frontier


def test_nothing_is_dropped_unasked(bundle: Bundle) -> None:
    assert calibrate(bundle, views_of(bundle, {"glance": 0.0}), "fitted").settings == bundle.system


def test_what_is_promised_holds_for_new_images(bundle: Bundle) -> None:
    """Accuracy of the fitted combination and its policies on images that nothing was fitted on, three standard errors."""
    found = calibrate(bundle, views_of(bundle, count=1500), "fitted", drop_exits=True)
    system = replace(bundle, system=found.settings)
    new = views_of(system, count=4000, seed=5).exit_table(found.combined.combination)
    for point in found.frontier.points[::8]:
        leaves = np.argmax(new.confidence >= np.array(point.policy.thresholds, np.float32), axis=1)
        right = new.correct[np.arange(len(new)), leaves].mean()
        assert point.accuracy is not None
        assert abs(right - point.accuracy) < 3 * np.sqrt(0.25 / 1500 + 0.25 / 4000)
