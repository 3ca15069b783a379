"""What a ledger is opened with.

Shapes: K exits, S stages.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

from anchornet.budget.frontier import Frontier, MixedPolicy
from anchornet.units import GIGA, gflops_text

_MARGIN = 0.05
"""Where between mean and dense cost a first exit is reserved: room for a calibration whose mean is a little low (for a
dense cost of 2.5 times the mean, 7 %)."""


@dataclass(frozen=True, kw_only=True)
class LedgerPlan:
    """What a ledger is opened with.

    Raises ValueError when the budget does not cover the first exit of every image, or a number is impossible.
    """

    budget_macs: int
    """Multiply-adds for the whole job, earlier sessions of it included."""
    num_images: int
    """Images still to be labelled in this session."""
    exit_macs: tuple[int, ...]
    """(K,) multiply-adds of one more row at each exit; the most it can cost when that differs by image."""
    stage_starts: tuple[int, ...]
    """(S,) index of the first exit of each stage; the first is 0."""
    frontier: Frontier
    id_limit: int = 0
    """Every image_id is below it; sizes the bitmap of seen images at once (it grows by itself otherwise)."""
    session: str = ""
    """Unique per start of the driver. A ledger restarted in the same session still knows which images were seen; a new
    session starts with none seen, since whatever was in flight comes again."""
    fixed_policy: MixedPolicy | None = None
    """``budget.mode: fixed``: every purse gets this policy and room for everything; spend is counted, not bounded."""
    chunk_fraction: float = 0.001
    """Part of the budget, and of the images, for which one write of the mark is good; also what a killed ledger may lose."""

    def __post_init__(self) -> None:
        """Refuse what can never work."""
        if self.num_images < 0 or not self.exit_macs or min(self.exit_macs) < 0:
            raise ValueError(
                f"ledger plan needs num_images >= 0 and exit costs >= 0, got {self.num_images}, {self.exit_macs}"
            )
        starts = (*self.stage_starts, len(self.exit_macs))
        if not self.stage_starts or starts[0] != 0 or any(b <= a for a, b in itertools.pairwise(starts)):
            raise ValueError(
                f"stage_starts must begin with 0 and increase below {len(self.exit_macs)}, got {self.stage_starts}"
            )
        if len(self.frontier.exits) != len(self.exit_macs):
            raise ValueError(
                f"frontier has {len(self.frontier.exits)} exits, the cascade has {len(self.exit_macs)}; calibrate again"
            )
        if self.fixed_policy is None and self.budget_macs < self.minimum_macs:
            raise ValueError(
                f"budget of {self.budget_macs / GIGA:.6g} GFLOPs is below the first exit of all {self.num_images} images "
                f"({self.minimum_macs / GIGA:.6g}); raise the budget to at least {gflops_text(self.minimum_macs / GIGA)}"
            )

    @cached_property
    def first_macs(self) -> int:
        """What is set aside for the first exit of an image: the mean of the calibration and a margin, at most the dense cost.

        Without a saving per image the mean is the dense cost, and the margin nothing.
        """
        expected, dense = self.frontier.points[0].exit_spend_macs[0], self.exit_macs[0]
        return min(dense, math.ceil(expected + _MARGIN * max(0.0, dense - expected)))

    @property
    def minimum_macs(self) -> int:
        """The first exit of every image: the least that labels them all."""
        return self.num_images * self.first_macs

    def stage_most_macs(self, stage: int) -> int:
        """The most that one row can cost in ``stage``."""
        stop = self.stage_starts[stage + 1] if stage + 1 < len(self.stage_starts) else len(self.exit_macs)
        return sum(self.exit_macs[self.stage_starts[stage] : stop])
