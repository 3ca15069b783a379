"""What a ledger is opened with, and what it hands out.

Shapes: K exits, S stages.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from anchornet.budget.frontier import Frontier, MixedPolicy
from anchornet.units import GIGA, gflops_text


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
    """``budget.mode: fixed``: every lease gets this policy and room for everything; spend is counted, not bounded."""
    chunk_fraction: float = 0.001
    """Part of the budget that one write of the mark authorises; also what a killed ledger may lose."""
    contingency_fraction: float = 0.003
    """Part of the budget kept for retries of lost batches until the end."""

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

    @property
    def minimum_macs(self) -> int:
        """The first exit of every image: the least that labels them all."""
        return self.num_images * self.exit_macs[0]

    def stage_most_macs(self, stage: int) -> int:
        """The most that one row can cost in ``stage``."""
        stop = self.stage_starts[stage + 1] if stage + 1 < len(self.stage_starts) else len(self.exit_macs)
        return sum(self.exit_macs[self.stage_starts[stage] : stop])


@dataclass(frozen=True)
class Lease:
    """Permission to compute one batch in one stage."""

    lease_id: int
    policy: MixedPolicy
    allowance_macs: int
    """The batch must not compute more than this."""
