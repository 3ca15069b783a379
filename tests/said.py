"""What the exits of a cascade say, straight from its steps, without the loop that runs survivors."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from anchornet.budget.combination import Rule
from anchornet.cascade.protocol import Cascade, rule_of


def combined(cascade: Any, rule: Rule | None) -> Any:
    """The cascade, under a rule where one is given."""
    if rule is not None:
        cascade.combination = rule_of(cascade, rule)
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
