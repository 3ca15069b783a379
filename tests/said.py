"""What the exits of a cascade say, straight from its steps, without the loop that runs survivors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from anchornet.budget.combination import Rule
from anchornet.cascade.protocol import Cascade, rule_of


def combined(cascade: Any, rule: Rule | Literal["fitted"]) -> Any:
    """The cascade under a rule, or under weights as calibration could have fitted them, another for every view and exit."""
    cascade.combination = rule_of(cascade, "sum" if rule == "fitted" else rule)
    if rule == "fitted":
        rows = cascade.combination.weights
        weights = tuple(tuple(0.3 + 0.2 * view - 0.1 * k for view in range(len(row))) for k, row in enumerate(rows))
        cascade.combination = replace(cascade.combination, weights=weights, fitted=True)
    return cascade


def said_by(cascade: Cascade[Any], rows: np.ndarray) -> dict[str, Tensor]:
    """Logits (N, C) by name of the exit, everything computed for every image."""
    state, views, found = cascade.start(rows), dict[int, Tensor](), {}
    for k, exit in enumerate(cascade.exits):
        step, state = cascade.advance(state, k)
        views |= dict(zip(cascade.combination.added(k), step.views, strict=True))
        found[exit.name] = cascade.combination.logits(views, k)
    assert not getattr(state, "views", None)
    return found
