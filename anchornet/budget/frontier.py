"""From an exit table to the policies worth having: frontier, policies, and who goes on when money is short.

Shapes: N images, K exits, P points of a frontier. Costs are multiply-adds (GFLOPs here are multiply-adds / 1e9).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from anchornet.budget import search
from anchornet.budget.exit_table import ExitTable, HeldOut
from anchornet.budget.policy import MixedPolicy, Policy, first_exit, fold_of, hash_fraction, rows_to_advance
from anchornet.units import GIGA, gflops_text

__all__ = [
    "Frontier",
    "FrontierPoint",
    "MixedPolicy",
    "Policy",
    "check_enough",
    "first_exit",
    "fit_frontier",
    "hash_fraction",
    "rows_to_advance",
]

log = logging.getLogger(__name__)

FEW_IMAGES = 1000
FEWEST_IMAGES = 10
_NOT_TOLD_APART = 0.1
"""Part of the standard error of a comparison within which two accuracies count as equal when the useful end is sought."""
_LEVEL = 1e-9
"""Difference of two accuracies that is nothing but the arithmetic of a fit."""
_NUM_TARGETS = 48
_ANSWERS_THAT_DIFFER = 0.05
"""Fraction of images on which two policies of equal spend typically disagree; gives the noise of comparing them."""


@dataclass(frozen=True)
class FrontierPoint:
    """One policy worth having and what it did on the calibration images."""

    policy: Policy
    expected_macs: float
    """Mean multiply-adds per image."""
    spend_sd_macs: float
    """Standard deviation of the multiply-adds over images."""
    exit_fractions: tuple[float, ...]
    """Fraction of images that leaves at each exit (K)."""
    exit_spend_macs: tuple[float, ...]
    """Mean multiply-adds per image that are computed at each exit (K); they add up to ``expected_macs``."""
    accuracy: float | None = None
    """Cross-fitted accuracy (fraction); None without labels."""


@dataclass(frozen=True)
class Frontier:
    """The policies worth having, from cheapest to dearest, and everything between them by mixing.

    Raises ValueError when there is no point or the points are not in order of cost.
    """

    exits: tuple[str, ...]
    points: tuple[FrontierPoint, ...]
    num_images: int
    """Calibration images it was fitted on."""
    labelled: bool
    """True when labels were known, so that accuracies are."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """sha256 of what it belongs to: ``weights``, ``cascade`` (system, preprocessing, classes), ``exit_table`` (the file)."""

    def __post_init__(self) -> None:
        """Refuse an order that mixing could not use."""
        if not self.points or (len(self.points) > 1 and (np.diff(self.costs_macs) <= 0).any()):
            raise ValueError(f"frontier needs points of increasing cost, got {self.costs_macs.tolist()}; fit it again")

    @cached_property
    def costs_macs(self) -> np.ndarray:
        """(P,) float64 expected multiply-adds per image."""
        return np.array([point.expected_macs for point in self.points])

    @property
    def minimum_gflops(self) -> float:
        """Every image leaves at the first exit; nothing cheaper exists."""
        return float(self.costs_macs[0]) / GIGA

    @property
    def maximum_gflops(self) -> float:
        """The useful maximum: beyond it more spend buys no accuracy (without labels: every exit of every image)."""
        return float(self.costs_macs[-1]) / GIGA

    @property
    def spend_error(self) -> float:
        """The largest relative standard error of the spend over the points (fraction); see :class:`MixedPolicy`."""
        return max(self._spend_error(point) for point in self.points)

    def _spend_error(self, point: FrontierPoint) -> float:
        return point.spend_sd_macs / max(point.expected_macs, 1.0) / math.sqrt(self.num_images)

    def at(self, gflops: float) -> MixedPolicy:
        """The policy whose expected spend is exactly ``gflops`` per image.

        Beyond the useful maximum it warns and gives the useful maximum. Raises ValueError below the minimum.
        """
        if not gflops >= self.minimum_gflops * (1 - 1e-12):
            raise ValueError(
                f"budget of {gflops:.6g} GFLOPs per image is below the first exit ({gflops_text(self.minimum_gflops)}); "
                f"raise the budget to at least {gflops_text(self.minimum_gflops)} or use a smaller network"
            )
        if gflops > float(gflops_text(self.maximum_gflops)):
            log.warning(
                "budget of %s GFLOPs per image is beyond the useful maximum; no more than %s will be spent",
                gflops_text(gflops), gflops_text(self.maximum_gflops),
            )  # fmt: skip
        return self.describe(float(np.interp(gflops * GIGA, self.costs_macs, np.arange(len(self.points)))))

    def mix(self, position: float) -> MixedPolicy:
        """The policy at ``position`` in [0, P - 1]: whole numbers are points, fractions mix two. Thresholds and cost only."""
        low = min(int(position), len(self.points) - 1)
        high = min(low + 1, len(self.points) - 1)
        fraction = position - low if high > low else 0.0
        a, b = self.points[low], self.points[high]
        cost = a.expected_macs + fraction * (b.expected_macs - a.expected_macs)
        return MixedPolicy(a.policy, b.policy, fraction, cost)

    def describe(self, position: float) -> MixedPolicy:
        """:meth:`mix` with expected accuracy, errors and exit fractions."""
        mixed = self.mix(position)
        low = min(int(position), len(self.points) - 1)
        a, b = self.points[low], self.points[min(low + 1, len(self.points) - 1)]
        share = mixed.high_fraction
        exits = tuple(x + share * (y - x) for x, y in zip(a.exit_fractions, b.exit_fractions, strict=True))
        accuracy = error = None
        if a.accuracy is not None and b.accuracy is not None:
            accuracy = a.accuracy + share * (b.accuracy - a.accuracy)
            error = math.sqrt(max(accuracy * (1 - accuracy), 0.0) / self.num_images)
        spend_error = max(self._spend_error(a), self._spend_error(b))
        return replace(mixed, accuracy=accuracy, accuracy_se=error, spend_error=spend_error, exit_fractions=exits)

    def check(self, hashes: Mapping[str, str]) -> None:
        """Refuse to serve another bundle.

        Raises ValueError naming the first part whose hash differs from the one this frontier was fitted for.
        """
        for part in sorted(set(self.hashes) | set(hashes)):
            if self.hashes.get(part) != hashes.get(part):
                raise ValueError(
                    f"frontier does not belong to this bundle: hash of {part} is {hashes.get(part)}, the frontier was "
                    f"fitted for {self.hashes.get(part)}; calibrate this bundle again"
                )

    def to_json(self) -> str:
        """Text of ``frontier.json``: standard JSON, infinite thresholds as the texts "inf" and "-inf"."""
        points = [{**vars(point), "policy": [_number_out(t) for t in point.policy.thresholds]} for point in self.points]
        content = {
            "version": 1, "exits": self.exits, "num_images": self.num_images, "labelled": self.labelled,
            "minimum_gflops": self.minimum_gflops, "maximum_gflops": self.maximum_gflops,
            "spend_error": self.spend_error, "hashes": dict(self.hashes), "points": points,
        }  # fmt: skip
        return json.dumps(content, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Frontier:
        """Read what :meth:`to_json` wrote.

        Raises ValueError when the text is something else.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("version") != 1 or "points" not in content:
            raise ValueError("frontier.json is not a frontier of version 1; calibrate the bundle again")
        points = tuple(_point_in(point) for point in content["points"])
        return cls(tuple(content["exits"]), points, content["num_images"], content["labelled"], content["hashes"])


def _number_out(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _point_in(content: dict[str, Any]) -> FrontierPoint:
    tuples = {name: tuple(content[name]) for name in ("exit_fractions", "exit_spend_macs")}
    return FrontierPoint(**{**content, **tuples, "policy": Policy(tuple(float(t) for t in content["policy"]))})


def check_enough(num_images: int) -> None:
    """Raises ValueError for fewer images than a frontier can be fitted on."""
    if num_images < FEWEST_IMAGES:
        raise ValueError(f"calibration needs at least {FEWEST_IMAGES} images, got {num_images}; give 5,000 if you can")


def fit_frontier(table: ExitTable | HeldOut, hashes: Mapping[str, str] | None = None) -> Frontier:
    """The frontier of a table of images that no network was trained on.

    With labels: the price family and the geometric family (see ``frontier_fit``), each where it is better on images it was
    not fitted on; accuracies are concave in the spend and cross-fitted. Without labels: the geometric family on confidences
    alone. ``hashes`` name what the frontier belongs to. Warns when there are few images; raises ValueError for fewer than 10.
    """
    held = table if isinstance(table, HeldOut) else HeldOut.plain(table)
    table = held.table
    check_enough(len(table))
    labelled = table.label is not None
    thresholds_PK, accuracy_P = _labelled_path(held) if labelled else (_unlabelled_path(table), None)
    points = _points(table, thresholds_PK, accuracy_P)
    frontier = Frontier(table.exits, points, len(table), labelled, dict(hashes or {}))
    if len(table) < FEW_IMAGES:
        log.warning(
            "only %d calibration images: expect the spend to be off by up to %.1f %% (one standard error); "
            "use %d or more", len(table), 100 * frontier.spend_error, FEW_IMAGES,
        )  # fmt: skip
    return frontier


def _labelled_path(held: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds (P, K), cheapest to dearest, and their cross-fitted accuracy (P,)."""
    table = held.table
    confidence, correct, cost = table.confidence, table.correct, table.cost_macs
    prices = search.price_grid(cost)
    fold_N = fold_of(table.image_id)

    def by_price(seen: ExitTable) -> np.ndarray:
        return search.induction_path(seen.confidence, seen.correct, seen.cost_macs, prices)

    def by_ratio(seen: ExitTable) -> np.ndarray:
        return search.GeometricFamily(seen.confidence, seen.cost_macs).path()

    families = (by_price, by_ratio)
    judged = []
    for fit in families:
        paths = [fit(seen.select(fold_N != fold)) for fold, seen in enumerate(held.folds)]
        judged.append(search.cross_fit(paths, fold_N, confidence, correct, cost))
    margin = comparison_noise(len(table)) / 4
    switch = search.switch_spend(judged[0], judged[1], margin)
    thresholds, spend, accuracy = [_cheapest(table)], [cost[:, :1].mean(axis=0)], [correct[:, :1].mean(axis=0)]
    for fit, held_out, low, high in zip(families, judged, (-np.inf, switch), (switch, np.inf), strict=True):
        path = fit(table)
        path_cost = search.mean_at_exit(cost, search.leave_at(confidence, path))
        kept = (path_cost > low) & (path_cost <= high)
        thresholds.append(path[kept])
        spend.append(path_cost[kept])
        accuracy.append(np.interp(path_cost[kept], held_out.cost_macs, held_out.accuracy))
    return _useful(len(table), np.concatenate(thresholds), np.concatenate(spend), np.concatenate(accuracy))


def comparison_noise(num_images: int) -> float:
    """Standard error (fraction) of comparing the accuracies of two policies of equal spend on the same images."""
    return math.sqrt(_ANSWERS_THAT_DIFFER / num_images)


def _useful(
    num_images: int, thresholds_PK: np.ndarray, cost_P: np.ndarray, accuracy_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Path and accuracies in order of cost, made concave, cut behind the last spend that is as good as the best.

    Where the first exit of every image is as good as the best, nothing else is kept; nor is the rest of a level stretch.
    """
    _, order = np.unique(cost_P, return_index=True)
    accuracy_P = search.concave_fit(cost_P[order], accuracy_P[order])
    alike = _NOT_TOLD_APART * comparison_noise(num_images)
    as_good = np.flatnonzero(accuracy_P >= accuracy_P.max() - alike)
    stop = 1 if as_good[0] == 0 else int(as_good[-1]) + 1
    while stop > 1 and abs(accuracy_P[stop - 2] - accuracy_P[stop - 1]) < _LEVEL:
        stop -= 1
    return thresholds_PK[order[:stop]], np.minimum(accuracy_P, accuracy_P[stop - 1])[:stop]


def _unlabelled_path(table: ExitTable) -> np.ndarray:
    """Thresholds (P, K) of the geometric family for evenly spaced spends, cheapest to dearest."""
    family = search.GeometricFamily(table.confidence, table.cost_macs)
    low, high = table.cost_macs[:, 0].mean(), table.cost_macs[:, -1].mean()
    targets = np.linspace(low, high, _NUM_TARGETS)[1:]
    path = np.stack([*_cheapest(table), *(family.solve(target) for target in targets)])
    cost = search.mean_at_exit(table.cost_macs, search.leave_at(table.confidence, path))
    order = np.argsort(cost, kind="stable")
    return path[order[np.concatenate([[True], np.diff(cost[order]) > 0])]]


def _cheapest(table: ExitTable) -> np.ndarray:
    """(1, K) thresholds of the policy under which every image leaves at the first exit."""
    return np.full((1, table.num_exits), -np.inf, np.float32)


def _points(table: ExitTable, thresholds_PK: np.ndarray, accuracy_P: np.ndarray | None) -> tuple[FrontierPoint, ...]:
    """Points with everything a ledger or a report asks of them."""
    step_NK = np.diff(table.cost_macs, axis=1, prepend=0)
    points = []
    for p, exit_N in enumerate(search.leave_at(table.confidence, thresholds_PK)):
        spend_N = table.cost_macs[np.arange(len(table)), exit_N]
        computed_NK = exit_N[:, None] >= np.arange(table.num_exits)
        points.append(
            FrontierPoint(
                policy=Policy(tuple(float(t) for t in thresholds_PK[p])),
                expected_macs=float(spend_N.mean()),
                spend_sd_macs=float(spend_N.std()),
                exit_fractions=tuple((np.bincount(exit_N, minlength=table.num_exits) / len(table)).tolist()),
                exit_spend_macs=tuple(np.where(computed_NK, step_NK, 0).mean(axis=0).tolist()),
                accuracy=None if accuracy_P is None else float(accuracy_P[p]),
            )
        )
    return tuple(points)
