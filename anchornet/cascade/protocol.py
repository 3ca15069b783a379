"""What an adaptive classifier has to say of itself: ordered exits, the stages that compute them, and how a state travels.

Shapes: N images, n survivors among them, K exits, C classes, P boxes. A **view** is the logits of one network on one part or form
of an image; the loop, not the cascade, makes an answer of all views so far (``anchornet/budget/combination.py``).

The loop that runs it is in ``run.py``; a system's own cascade lies in ``anchornet/systems/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from anchornet.budget.combination import Combination, Rule, View
from anchornet.cascade.rows import IMAGE, Layout


@dataclass(frozen=True)
class Exit:
    """A point where a label can be given."""

    name: str
    macs: int
    """Multiply-adds that one more image costs at this exit; for costs that differ per image, the most it can cost."""
    views: tuple[View, ...] = ()
    """The logits that it adds; unless said one, called like the exit."""
    embedding: int = 0
    """Values of the embedding that its step gives; 0: it gives none."""

    def __post_init__(self) -> None:
        """Name what nobody named."""
        if not self.views:
            object.__setattr__(self, "views", (View(self.name),))


@dataclass(frozen=True)
class Stage:
    """A run of consecutive exits that one actor pool computes."""

    name: str
    first: int
    """Index of its first exit."""
    stop: int
    """Index after its last exit."""
    takes: Layout
    """What a row that wants this stage carries; ``image`` and nothing else for the first one."""

    @property
    def exits(self) -> range:
        """Indices of the exits of this stage."""
        return range(self.first, self.stop)


@dataclass(frozen=True)
class Placement:
    """Where and in which arithmetic networks run."""

    device: str = "cpu"
    precision: torch.dtype = torch.float32
    embedding: bool = False
    """Whether steps shall hold an embedding, where the networks have one."""


class State(Protocol):
    """What survivors carry from exit to exit; a batch of n rows."""

    def __len__(self) -> int:
        """Number of rows n."""
        ...


S = TypeVar("S", bound=State)


class Step(NamedTuple):
    """What one exit gave for a dense batch of n survivors."""

    views: tuple[Tensor, ...]
    """(n, C) float32 each: the logits that this exit adds, one for each of ``Exit.views``."""
    macs_n: np.ndarray
    """(n,) int64: multiply-adds that were computed for each row, from the shapes that were run; at most ``Exit.macs``."""
    boxes_nP3: np.ndarray | None = None
    """(n, P, 3) int16: top, left, size of the patches when this exit chose them, else None."""
    embedding_nD: Tensor | None = None
    """(n, D): what the head of the newest network was given, D = ``Exit.embedding``; None unless it was asked for."""


class Cascade(Protocol[S]):
    """An adaptive classifier. ``state`` holds survivors only; ``advance`` runs all its rows."""

    exits: Sequence[Exit]
    stages: Sequence[Stage]
    classes: Sequence[str]
    num_boxes: int
    """P: patches that the cascade chooses per image; 0 when it chooses none."""
    combination: Combination
    """How views become answers: the rule that the cascade was made for, unless a bundle put another in its place."""

    def start(self, images_NHW3: np.ndarray) -> S:
        """State of N fresh images, uint8 of the shape that the first stage takes: (N, H, W, 3) unless views are several."""
        ...

    def advance(self, state: S, exit_index: int) -> tuple[Step, S]:
        """Compute exit ``exit_index`` for every row of ``state``; returns the step and the state after it."""
        ...

    def select(self, state: S, rows: Tensor) -> S:
        """The state of ``rows`` (int64 indices), dense."""
        ...

    def pack(self, state: S, stage_index: int) -> dict[str, np.ndarray]:
        """The state as plain arrays of n rows each: the columns that stage ``stage_index`` >= 1 takes."""
        ...

    def unpack(self, columns: Mapping[str, np.ndarray], stage_index: int) -> S:
        """The state that ``pack`` gave for stage ``stage_index``, on this process's device."""
        ...


def image_shape(cascade: Cascade[Any]) -> tuple[int, ...]:
    """Shape of one image's pixels as ``start`` takes them."""
    _, shape = cascade.stages[0].takes[IMAGE]
    return shape


def rule_of(cascade: Cascade[Any], rule: Rule) -> Combination:
    """The combination of a rule over the views of a cascade."""
    return Combination.of(rule, [exit.views for exit in cascade.exits])


def stage_starts(cascade: Cascade[Any]) -> tuple[int, ...]:
    """Index of the first exit of each stage."""
    return tuple(stage.first for stage in cascade.stages)
