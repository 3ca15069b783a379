"""What combining views is worth: the paper's sum, fitted weights, a recursive form, dropped exits, few calibration images.

Called by ``benchmarks.photographs``, which makes the views. Everything is fitted on calibration photographs and shown on test
photographs. N images, V views, K exits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from unittest import mock

import numpy as np

from anchornet.budget import combination_fit
from anchornet.budget.combination import Combination
from anchornet.budget.combination_fit import Examples, fit_combination, fit_weights
from anchornet.budget.confidence import calibration_errors
from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier, first_exit
from anchornet.bundle import Bundle
from anchornet.calibration import Calibration, calibrate
from anchornet.cascade.protocol import rule_of
from anchornet.cascade.view_table import ViewTable
from anchornet.units import GIGA
from benchmarks.last_layers import standard_error
from benchmarks.markdown import line, percent

SPENDS = (0.08, 0.10, 0.13, 0.16, 0.20, 0.25, 0.30, 0.40)
"""GFLOPs per image at which frontiers are shown."""
RIDGES = (1.0, 10.0, 100.0)
FEW = (30, 100, 300, 1000)
DRAWS = 5
"""Random subsets of calibration images of each size."""


@dataclass(frozen=True)
class Ways:
    """A calibrated way of answering, and what it says of the test images."""

    name: str
    calibration: Calibration
    test: ExitTable


@dataclass(frozen=True)
class Judged:
    """What a policy did on the test images."""

    right_N: np.ndarray
    gflops: float


def report(
    bundle: Bundle,
    tables: Mapping[str, ViewTable],
    random: Mapping[str, ViewTable],
    full_right_N: np.ndarray,
    full_gflops: float,
) -> str:
    """All tables as Markdown. tables, random: views of ``validation`` and ``test``, with AnchorNet's patches and random ones."""
    rule = way("the paper's sum", bundle, tables, "sum")
    fitted = way("fitted", bundle, tables, "fitted")
    dropped = way("fitted, exits dropped", bundle, tables, "fitted", drop_exits=True)
    luck = way("fitted, random patches", bundle, random, "fitted")
    parts = [
        f"{len(tables['validation'].image_id):,} calibration and {len(tables['test'].image_id):,} test photographs, "
        f"{len(bundle.classes)} classes. Full network: {_accuracy(full_right_N)} for {full_gflops:.3f} GFLOPs. "
        f"{glance_alone(bundle, tables['test'], full_right_N)}",
        "Every image leaves at (test photographs; calibration error cross-fitted on calibration photographs):",
        "\n".join(exit_lines(rule, fitted)),
        "Along the frontier (test photographs):",
        "\n".join(frontier_lines([rule, fitted, dropped, luck])),
        "What ships, fitted with exits dropped, against the full network (paired differences on the test photographs):",
        "\n".join(against_full_lines(dropped, full_right_N, full_gflops)),
        as_good_as_full([rule, fitted, dropped], full_right_N, full_gflops),
        f"{' '.join(dropped.calibration.said) or 'No exit was dropped.'} {shipped_errors(dropped)}",
        "A recursive form, one running vector and two numbers per exit, against one weight per view and exit:",
        "\n".join(recursive_lines(bundle, tables, fitted)),
        f"Few calibration images: accuracy over the exits after the first, fitted minus sum, mean of {DRAWS} draws:",
        "\n".join(few_lines(bundle, tables)),
    ]
    return "\n\n".join(parts) + "\n"


def way(name: str, bundle: Bundle, tables: Mapping[str, ViewTable], combine: str, *, drop_exits: bool = False) -> Ways:
    """Calibrated on ``validation``, applied to ``test``."""
    found = calibrate(bundle, tables["validation"], combine, drop_exits=drop_exits)  # type: ignore[arg-type]
    cascade = replace(bundle, system=found.settings).as_built()
    exits, macs = [exit.name for exit in cascade.exits], [exit.macs for exit in cascade.exits]
    test = tables["test"].through(exits, cascade.combination.views, macs)
    return Ways(name, found, test.exit_table(found.combined.combination))


def exit_lines(rule: Ways, fitted: Ways) -> Iterator[str]:
    """One line per exit."""
    yield line(("exit", "GFLOPs", "sum", "fitted", "difference", "calibration error, sum", "fitted", "weights"))
    yield line(["---"] * 8)
    errors = [calibration_errors(each.calibration.combined.held) for each in (rule, fitted)]
    weights = fitted.calibration.combined.combination.weights
    for k, name in enumerate(rule.test.exits):
        before, after = (each.test.correct[:, k].astype(float) for each in (rule, fitted))
        yield line(
            (
                name,
                f"{rule.test.cost_macs[0, k] / GIGA:.3f}",
                percent(before.mean()),
                percent(after.mean()),
                _difference(after, before),
                *(f"{float(error[k]['before']):.3f} -> {float(error[k]['after']):.3f}" for error in errors),
                " ".join(f"{weight:.2f}" for weight in weights[k]),
            )
        )


def judge(test: ExitTable, frontier: Frontier, gflops: float) -> Judged:
    """Which images are right under the frontier's policy, and what was spent."""
    policy = frontier.at(gflops)
    leaves = first_exit(test.confidence, policy.thresholds_for(test.image_id))
    rows = np.arange(len(leaves))
    return Judged(test.correct[rows, leaves], float(test.cost_macs[rows, leaves].mean()) / GIGA)


def frontier_lines(ways: Sequence[Ways]) -> Iterator[str]:
    """One line per spend: accuracy and what was spent, and the paired differences of the others to the first way."""
    yield line(
        ("GFLOPs asked", *(f"{each.name} (spent)" for each in ways), *(f"{each.name} - sum" for each in ways[1:]))
    )
    yield line(["---"] * 2 * len(ways))
    for asked in SPENDS:
        found = [judge(each.test, each.calibration.frontier, asked) for each in ways]
        cells = [f"{percent(one.right_N.mean())} ({one.gflops:.3f})" for one in found]
        yield line((f"{asked:.2f}", *cells, *(_difference(one.right_N, found[0].right_N) for one in found[1:])))


def against_full_lines(each: Ways, full_right_N: np.ndarray, full_gflops: float) -> Iterator[str]:
    """One line per spend: how many times less than the full network, and the paired difference to it."""
    yield line(("GFLOPs asked", "spent", "times less than the full network", "accuracy - full network"))
    yield line(["---"] * 4)
    for asked in SPENDS:
        found = judge(each.test, each.calibration.frontier, asked)
        times = f"{full_gflops / found.gflops:.1f}"
        yield line((f"{asked:.2f}", f"{found.gflops:.3f}", times, _difference(found.right_N, full_right_N)))


def glance_alone(bundle: Bundle, test: ViewTable, full_right_N: np.ndarray) -> str:
    """The glance without AnchorNet before it."""
    cascade = bundle.as_built()
    [exit] = [exit for exit in cascade.exits if exit.name == "glance"]
    place = cascade.combination.views.index("glance")
    assert test.label is not None
    right_N = test.read(np.arange(len(test.label)), place + 1)[:, place].argmax(1) == test.label
    against = _difference(right_N, full_right_N)
    return f"Glance alone: {_accuracy(right_N)} for {exit.macs / GIGA:.3f} GFLOPs, {against} against the full network."


def shipped_errors(each: Ways) -> str:
    """Calibration error of every exit that is left, cross-fitted."""
    errors = calibration_errors(each.calibration.combined.held)
    said = [f"{name} {float(error['after']):.3f}" for name, error in zip(each.test.exits, errors, strict=True)]
    return f"Calibration error of the exits that are left: {', '.join(said)}."


def as_good_as_full(ways: Sequence[Ways], full_right_N: np.ndarray, full_gflops: float) -> str:
    """For each way: the least spend at which it is as accurate as the full network on the test photographs."""
    said = []
    for each in ways:
        points = [judge(each.test, each.calibration.frontier, spend) for spend in _fine(each.calibration.frontier)]
        enough = [point.gflops for point in points if point.right_N.mean() >= full_right_N.mean()]
        best = max(float(point.right_N.mean()) for point in points)
        said.append(
            f"{each.name}: from {min(enough):.3f} GFLOPs, {full_gflops / min(enough):.1f} times less"
            if enough
            else f"{each.name}: never, at most {percent(best)}"
        )
    return f"As accurate as the full network: {'; '.join(said)}."


def _fine(frontier: Frontier) -> np.ndarray:
    return np.linspace(frontier.minimum_gflops, frontier.maximum_gflops, 200)


def recursive_lines(bundle: Bundle, tables: Mapping[str, ViewTable], fitted: Ways) -> Iterator[str]:
    """Each exit: keep x (what was said) + add x (the new view), both fitted, what was said before being fixed by then."""
    base, calibration, test = bundle.as_built().combination, tables["validation"], tables["test"]
    assert calibration.label is not None and test.label is not None
    everyone = [np.arange(len(each.image_id)) for each in (calibration, test)]
    views = [each.read(rows, len(each.views)) for each, rows in zip((calibration, test), everyone, strict=True)]
    said = [each[:, 0] * 0.0 for each in views]
    yield line(("exit", "one weight per view", "recursive", "recursive - per view"))
    yield line(["---"] * 4)
    for k in range(len(base.weights)):
        [new] = base.added(k)
        pairs = [np.stack([before, each[:, new]], 1) for before, each in zip(said, views, strict=True)]
        target = np.array([1.0, 1.0]) if base.rule == "sum" and k > 1 else np.array([0.0, 1.0])
        given = Examples(partial(_rows_of, pairs[0]), everyone[0], calibration.label, pairs[0].shape[2])
        keep, add = fit_weights(given, target)
        said = [keep * pair[:, 0] + add * pair[:, 1] for pair in pairs]
        recursive = said[1].argmax(1) == test.label
        yield line(
            (
                fitted.test.exits[k],
                percent(fitted.test.correct[:, k].mean()),
                percent(recursive.mean()),
                _difference(recursive, fitted.test.correct[:, k]),
            )
        )


def _rows_of(views_NVC: np.ndarray, rows_n: np.ndarray, num_views: int) -> np.ndarray:
    return views_NVC[rows_n, :num_views]


def few_lines(bundle: Bundle, tables: Mapping[str, ViewTable]) -> Iterator[str]:
    """Gain of fitted weights over the sum when there are few calibration images, for several ridges."""
    cascade, calibration, test = bundle.as_built(), tables["validation"], tables["test"]
    rule = rule_of(cascade, "sum")
    before = test.exit_table(rule).correct[:, 1:].mean()
    assert calibration.label is not None
    yield line(("calibration images", *(f"ridge {ridge:g}" for ridge in RIDGES)))
    yield line(["---"] * (len(RIDGES) + 1))
    one_class = np.flatnonzero(calibration.label == np.bincount(calibration.label).argmax())
    sizes = [size for size in FEW if size < len(calibration.label)]
    for size in (*sizes, len(calibration.label)):
        draws = [np.random.default_rng(draw).permutation(len(calibration.label))[:size] for draw in range(DRAWS)]
        yield line((f"{size:,}", *(_gain(calibration, test, rule, draws, ridge, before) for ridge in RIDGES)))
    alone = (_gain(calibration, test, rule, [one_class], ridge, before) for ridge in RIDGES)
    yield line((f"{len(one_class)}, all of one class", *alone))


def _gain(
    calibration: ViewTable, test: ViewTable, rule: Combination, draws: Sequence[np.ndarray], ridge: float, before: float
) -> str:
    assert calibration.label is not None
    gains = []
    with mock.patch.object(combination_fit, "RIDGE", ridge):
        for rows in draws:
            examples = Examples(calibration.read, rows, calibration.label[rows], calibration.logits_RWC.shape[2])
            gains.append(test.exit_table(fit_combination(examples, rule)).correct[:, 1:].mean() - before)
    return f"{100 * float(np.mean(gains)):+.1f}"


def _accuracy(right_N: np.ndarray) -> str:
    return f"{percent(right_N.mean())} +- {100 * standard_error(right_N):.1f}"


def _difference(after_N: np.ndarray, before_N: np.ndarray) -> str:
    """Mean of the paired differences and its standard error, in points."""
    paired = after_N.astype(float) - before_N.astype(float)
    return f"{100 * paired.mean():+.1f} +- {100 * standard_error(paired):.1f}"
