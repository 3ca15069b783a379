"""What a ledger counts for its report; nothing here decides anything.

Shapes: K exits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anchornet.ledger.mark import MarkState
from anchornet.ledger.purse import Statement
from anchornet.units import GIGA

_MOST_MOMENTS = 256


class LedgerCounts:
    """Counts of one ledger."""

    def __init__(self, num_exits: int, num_stages: int, state: MarkState | None, same_session: bool) -> None:
        """state: what an earlier ledger of the job left behind, in this session or in an earlier start of the job."""
        kept = state if state is not None and same_session else None
        self.exits_realised = list(kept.exits_realised) if kept else [0] * num_exits
        self.gone_on = list(kept.gone_on) if kept else [0] * num_stages
        """Rows that left each stage for the next."""
        self.settled_macs = state.settled_macs if state else 0
        """Multiply-adds that workers stated."""
        self.num_grants = self.num_statements = self.mark_writes = 0
        self.num_repeated_statements = 0
        self.repeated_rows = self.repeated_macs = 0
        self.num_failed = self.num_unreadable = 0
        self.stage_rows = [0] * num_stages
        self.stage_macs = [0] * num_stages
        self.stage_compute_s = [0.0] * num_stages
        self._moments: list[tuple[int, float]] = []
        self._stride = 1

    def granted(self, num_seen: int, position: float) -> None:
        """Count a grant and, now and then, where on the frontier it stood."""
        if self.num_grants % self._stride == 0:
            self._moments.append((num_seen, position))
            if len(self._moments) >= _MOST_MOMENTS:
                self._moments = self._moments[::2]
                self._stride *= 2
        self.num_grants += 1

    def stated(self, statement: Statement, num_new: int) -> None:
        """Count a statement; rows that were stated before at this stage are repeated work."""
        stage, num_rows = statement.stage, len(statement.image_ids)
        self.num_statements += 1
        self.settled_macs += statement.spent_macs
        self.stage_rows[stage] += num_rows
        self.stage_macs[stage] += statement.spent_macs
        self.stage_compute_s[stage] += statement.compute_s
        self.repeated_rows += num_rows - num_new
        share = num_new / num_rows if num_rows else 0.0
        self.repeated_macs += round(statement.spent_macs * (1.0 - share)) if num_rows else 0
        for k, count in enumerate(statement.exit_counts):
            self.exits_realised[k] += round(count * share)
        self.num_failed += round(statement.num_failed * share)
        self.gone_on[stage] += round(going_on(statement) * share)

    def report(self, costs_macs: np.ndarray) -> dict[str, Any]:
        """The part of the ledger's report that is only counted; costs_macs (P,): those of the frontier's points."""
        places = np.arange(len(costs_macs))
        return {
            "exits_realised": list(self.exits_realised),
            "num_failed": self.num_failed,
            "num_unreadable": self.num_unreadable,
            "policy_over_time": [
                (seen, float(np.interp(position, places, costs_macs)) / GIGA) for seen, position in self._moments
            ],
            "repeated_macs": self.repeated_macs,
            "repeated_rows": self.repeated_rows,
            "stage_rows": list(self.stage_rows),
            "stage_macs": list(self.stage_macs),
            "stage_compute_s": list(self.stage_compute_s),
            "num_grants": self.num_grants,
            "num_statements": self.num_statements,
            "num_repeated_statements": self.num_repeated_statements,
            "num_mark_writes": self.mark_writes,
        }


def going_on(statement: Statement) -> int:
    """Rows of a statement that want the next stage."""
    return max(0, len(statement.image_ids) - sum(statement.exit_counts) - statement.num_failed)
