"""How much one batch may compute: what is expected of it, and room for chance while others can spare it."""

from __future__ import annotations

import math
from typing import NamedTuple

_SPREADS = 4.0
"""Standard deviations of a batch's cost that its allowance leaves room for, when there is room."""


class Wish(NamedTuple):
    """A batch that asks for an allowance; all but the number of rows in multiply-adds."""

    num_rows: int
    owed: int
    """The first exit of its rows, which was reserved for them until now (in the first stage)."""
    most: int
    """More than this it cannot spend."""
    expected: float
    spread: float
    """Standard deviation of its cost."""


class Purse(NamedTuple):
    """What there is to give."""

    left_macs: int
    """Budget less everything charged and less the first exit of all images that are not seen yet."""
    contingency_macs: int
    """Part of it that only ``owed`` may use: retries of lost batches are owed their first exit a second time."""
    num_open: int
    """Open leases."""
    waiting: int
    """Rows that wait for a lease, at any stage, without this batch."""
    computing: int
    """Rows in open leases, this batch included."""

    def grant(self, wish: Wish, eager: float) -> int:
        """The allowance; eager >= 1 widens it after batches that used all they were given.

        Never more than ``left_macs``, or, for what is not owed, than ``left_macs`` less the contingency.
        """
        free = self.left_macs - self.contingency_macs
        wanted = _SPREADS * wish.spread
        wanted += (eager - 1.0) * max(wanted, 0.1 * wish.expected)
        room = max(max(0.0, free - wish.expected) * self._share(), self._fair_macs(wish, free) - wish.expected)
        allowance = min(math.ceil(wish.expected + min(wanted, room)), free)
        return max(0, min(max(allowance, min(wish.owed, self.left_macs)), wish.most))

    def _share(self) -> float:
        """Part of the free money that one batch may take beyond what is expected of it.

        Half of it over all open leases while most images are still to come, less and less towards the end: what is lent
        then comes back when nobody is left to use it.
        """
        return 0.5 * (self.waiting / max(1, self.waiting + self.computing)) ** 2 / (1 + self.num_open)

    def _fair_macs(self, wish: Wish, free_macs: int) -> float:
        """What a batch gets when the free money is divided evenly over all rows that still wait, itself included."""
        return wish.owed + (free_macs - wish.owed) * wish.num_rows / max(1, wish.num_rows + self.waiting)
