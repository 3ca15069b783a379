"""How views become one answer: what every exit says is a weighted sum of the logits that were computed so far.

A **view** is the logits of one network on one part or form of an image. An exit adds one or more of them. K exits, V views,
C classes.

    sum      every view that counts has weight 1: the paper's rule (AnchorNet's own logits do not count)
    mean     the same, divided by how many they are
    last     the newest view alone
    fitted   one weight per view and exit, learned in calibration (``combination_fit.py``) and pulled towards one of these rules

Source of the idea that earlier exits are worth reusing: Zero Time Waste, arXiv:2106.05409, section 3; there as weighted
geometric means, of which a weighted sum of logits under softmax is one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

Rule: TypeAlias = Literal["sum", "mean", "last"]
Combine: TypeAlias = Literal["fitted", "auto", "sum", "mean", "last"]
FITTED: Final = "fitted"
AUTO: Final = "auto"
RULES: Final[tuple[Rule, ...]] = get_args(Rule)


class View(NamedTuple):
    """Logits that an exit adds."""

    name: str
    counted: bool = True
    """Whether ``sum`` and ``mean`` count it; one that is not labels an exit that adds nothing else."""


@dataclass(frozen=True)
class Combination:
    """Weights of the views at every exit. Raises ValueError unless each exit adds a view and all weights are finite."""

    rule: Rule
    """The rule that the weights are, or that they were pulled towards."""
    views: tuple[str, ...]
    """Names of the V views in the order in which they are computed."""
    weights: tuple[tuple[float, ...], ...]
    """K rows; row k holds a weight for each view computed up to exit k."""
    fitted: bool = False
    """Whether the weights were learned."""

    def __post_init__(self) -> None:
        """Refuse rows that cannot be those of exits."""
        if self.rule not in RULES:
            raise ValueError(f"combination: rule must be one of {', '.join(RULES)}, got {self.rule!r}")
        lengths = [0, *map(len, self.weights)]
        grows = all(before < after for before, after in itertools.pairwise(lengths))
        if not self.weights or not grows or lengths[-1] != len(self.views):
            raise ValueError(
                f"combination {self.name}: rows must grow to the {len(self.views)} views, got lengths {lengths[1:]}; "
                f"calibrate the bundle again"
            )
        if not all(math.isfinite(weight) for row in self.weights for weight in row):
            raise ValueError(f"combination {self.name}: weights must be finite numbers; calibrate the bundle again")

    @classmethod
    def of(cls, rule: Rule, exits: Sequence[Sequence[View]]) -> Combination:
        """The combination of a rule. exits: the views that each of them adds."""
        rows, so_far = [], list[View]()
        for added in exits:
            so_far += added
            rows.append(_row(rule, so_far, any(view.counted for view in added)))
        return cls(rule, tuple(view.name for view in so_far), tuple(rows))

    @property
    def name(self) -> str:
        """What people call it: ``fitted``, or its rule."""
        return FITTED if self.fitted else self.rule

    def logits(self, views: Mapping[int, Any], exit_index: int) -> Any:
        """What an exit says: (..., C) like the arrays or tensors in ``views``, which are named by their position.

        Added in the order of the views, those of weight 0 left out; a view of weight 1 is added as it is.
        """
        total = None
        for position, weight in enumerate(self.weights[exit_index]):
            if weight:
                part = views[position] if weight == 1.0 else views[position] * weight
                total = part if total is None else total + part
        return next(iter(views.values())) * 0.0 if total is None else total

    def added(self, exit_index: int) -> range:
        """Positions of the views that an exit adds."""
        return range(len(self.weights[exit_index - 1]) if exit_index else 0, len(self.weights[exit_index]))

    def kept(self, first: int) -> tuple[int, ...]:
        """Positions of the views computed before exit ``first`` that it or a later exit still needs."""
        computed = len(self.weights[first - 1]) if first else 0
        later = self.weights[first:]
        return tuple(view for view in range(computed) if any(row[view] for row in later))

    def to_plain(self, exits: Sequence[str]) -> dict[str, Any]:
        """For a YAML file and for people: rule, fitted, and weights as exit -> view -> weight."""
        rows = [dict(zip(self.views, row, strict=False)) for row in self.weights]
        return {"rule": self.rule, "fitted": self.fitted, "weights": dict(zip(exits, rows, strict=True))}

    @classmethod
    def from_plain(cls, content: Any, where: str) -> Combination:
        """What ``to_plain`` gave. Raises ValueError, naming ``where``, when it is something else."""
        try:
            rows = list(content["weights"].values())
            weights = tuple(tuple(float(weight) for weight in row.values()) for row in rows)
            found = cls(content["rule"], tuple(rows[-1]), weights, bool(content["fitted"]))
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{where}: combination is not rule, fitted and weights by exit and view ({error!r}); calibrate the bundle again"
            ) from error
        if any(tuple(row) != found.views[: len(row)] for row in rows):
            raise ValueError(f"{where}: combination names its views in different orders; calibrate the bundle again")
        return found


def _row(rule: Rule, so_far: Sequence[View], adds_counted: bool) -> tuple[float, ...]:
    if rule == "last" or not adds_counted:
        return (*(0.0 for _ in so_far[1:]), 1.0)
    share = 1.0 / sum(view.counted for view in so_far) if rule == "mean" else 1.0
    return tuple(share if view.counted else 0.0 for view in so_far)
