"""What a ledger counts for its report; nothing here decides anything.

Shapes: K exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anchornet.ledger.mark import MarkState
from anchornet.units import GIGA

_MOST_MOMENTS = 256


class LedgerTally:
    """Counts of one ledger."""

    def __init__(self, num_exits: int, state: MarkState | None, same_session: bool) -> None:
        """state: what an earlier ledger of the job left behind, in this session or in an earlier start of the job."""
        self.exits_realised = list(state.exits_realised) if state and same_session else [0] * num_exits
        self.restart_macs = 0
        if state is not None:
            self.restart_macs = state.wasted_macs + state.authorised_macs - state.settled_macs
        self.num_leases = self.num_settlements = 0
        self.unknown_settlements = self.mark_writes = 0
        self.repeated_rows = self.repeated_macs = self.overdrawn_macs = 0
        self.first_rows = state.first_rows if state else 0
        self.first_rows_repeated = state.first_rows_repeated if state else 0
        self._moments: list[tuple[int, float]] = []
        self._stride = 1

    def leased(self, num_rows: int, num_new: int, stage: int, num_seen: int, position: float) -> None:
        """Count a lease and, now and then, where on the frontier it stood."""
        self.repeated_rows += num_rows - num_new
        if stage == 0:
            self.first_rows += num_rows
            self.first_rows_repeated += num_rows - num_new
        if self.num_leases % self._stride == 0:
            self._moments.append((num_seen, position))
            if len(self._moments) >= _MOST_MOMENTS:
                self._moments = self._moments[::2]
                self._stride *= 2
        self.num_leases += 1

    def settled(self, num_rows: int, newly: int, spent_macs: int, exit_counts: Sequence[int]) -> None:
        """Count a settlement; rows that another lease had settled before are repeated work."""
        self.num_settlements += 1
        if newly < num_rows:
            self.repeated_macs += spent_macs * (num_rows - newly) // num_rows
        for k, count in enumerate(exit_counts):
            self.exits_realised[k] += int(count) if newly == num_rows else round(int(count) * newly / max(num_rows, 1))

    def repeated_share(self) -> float:
        """Fraction of the rows of the first stage that were leased before: batches that were lost."""
        return self.first_rows_repeated / self.first_rows if self.first_rows else 0.0

    def report(self, costs_macs: np.ndarray) -> dict[str, Any]:
        """The part of the ledger's report that is only counted; costs_macs (P,): those of the frontier's points."""
        places = np.arange(len(costs_macs))
        return {
            "exits_realised": list(self.exits_realised),
            "policy_over_time": [
                (seen, float(np.interp(position, places, costs_macs)) / GIGA) for seen, position in self._moments
            ],
            "restart_macs": self.restart_macs,
            "repeated_macs": self.repeated_macs,
            "repeated_rows": self.repeated_rows,
            "overdrawn_macs": self.overdrawn_macs,
            "num_leases": self.num_leases,
            "num_settlements": self.num_settlements,
            "num_unknown_settlements": self.unknown_settlements,
            "num_mark_writes": self.mark_writes,
        }
