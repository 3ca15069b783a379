"""Tables that are printed row by row, as a long run goes on; ``anchornet.report.scores.markdown`` makes whole ones."""

from __future__ import annotations

from collections.abc import Sequence


def percent(accuracy: float) -> str:
    """For people."""
    return f"{100 * accuracy:.1f} %"


def line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"
