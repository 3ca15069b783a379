"""The account: what a job has spent and may still spend. Everything the promise rests on is in this file, in integers.

The bound. ``charged_macs`` = everything that was computed + everything that somebody is still permitted to compute. It
grows when a purse is filled and shrinks only when a worker gives back what it did not use; a purse is filled only up to
the budget. A worker never computes more than its purse holds, so ``computed <= charged <= budget``, whatever dies:

* a dead worker: its purse is never given back and stays charged for good;
* a message that arrives twice: the second one has a number that counted before, and changes nothing;
* a dead ledger: ``headroom_macs`` is what may be granted before the next write-ahead mark, and money that came back since
  the last mark is not part of it. So all grants are covered by the number in the mark, and a ledger that is opened on a
  mark takes that number as charged. Purses that are out stay good: each worker says itself what its purse held.

The reserve. The first exit of every image that nobody reported yet, and that no purse promises, is set aside.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from anchornet.ledger.mark import OpenPurse
from anchornet.ledger.purse import Statement


class Offer(NamedTuple):
    """What pacing wants a purse to get."""

    num_rows: int
    macs: int
    room_macs: int
    """Part of it beyond what is expected to be used."""
    position: float


class Account:
    """Multiply-adds of one job. Not thread-safe."""

    def __init__(self, budget_macs: int | None, first_macs: int = 0, charged_macs: int = 0) -> None:
        """budget_macs: None counts without a bound. first_macs: set aside for the first exit of an image.

        charged_macs: what the mark of an earlier ledger authorised.
        """
        self.budget_macs = budget_macs
        self.first_macs = first_macs
        self.charged_macs = charged_macs
        self.headroom_macs = 0
        """What may still be granted before a mark must be written; below 0 it must be written first."""
        self.purses: dict[bytes, OpenPurse] = {}
        """The last purse of every worker that was ever heard of, also when it is empty: its number must not count twice."""
        self._heard_s: dict[bytes, float] = {}
        """When the workers with open purses were last heard, the longest silence first."""
        self._num_open: Counter[int] = Counter()
        self.open_macs = 0
        """Permitted and not yet reported, by workers that are taken for alive."""
        self.promised_rows: Counter[int] = Counter()
        """Rows that these purses are for, by stage."""
        self.lent_macs = 0
        """Part of ``open_macs`` that is expected to come back."""
        self.lost_macs = 0
        """In purses of workers that are taken for dead: charged, as long as they do not come back."""

    def settle(self, statement: Statement, now_s: float) -> bool:
        """Count what a worker did, and free what it gives back; False when this statement counted before.

        Raises RuntimeError, after charging it, when more was computed than the purse held.
        """
        known = self.purses.get(statement.worker)
        if known is not None and statement.number <= known.number:
            return False
        self._drop(statement.worker)
        used = statement.spent_macs + statement.kept_macs
        self.charged_macs += used - statement.purse_macs
        room = statement.kept_macs * known.room_macs // max(known.open_macs, 1) if known else 0
        said = (statement.worker, statement.number, statement.stage)
        self.hold(OpenPurse(*said, 0, 0, room, statement.kept_rows, statement.kept_macs, 0.0), now_s)
        if used > statement.purse_macs:
            raise RuntimeError(
                f"a worker computed {used} multiply-adds, its purse held {statement.purse_macs}; they are charged, but "
                "the budget may be exceeded: the worker's counter or the exit costs are wrong"
            )
        return True

    def grant(self, worker: bytes, offer: Offer, now_s: float) -> OpenPurse:
        """Put what is offered into a worker's purse, beside what it kept; the mark may have to be written first."""
        macs = offer.macs
        assert macs >= 0 and (self.budget_macs is None or not macs or self.charged_macs + macs <= self.budget_macs)
        self._drop(worker)
        self.charged_macs += macs
        self.headroom_macs -= macs
        purse = self.purses[worker]._replace(
            num_rows=offer.num_rows,
            granted_macs=macs,
            room_macs=self.purses[worker].room_macs + offer.room_macs,
            position=offer.position,
        )
        self.hold(purse, now_s)
        return purse

    def hold(self, purse: OpenPurse, now_s: float) -> None:
        """Remember an open purse; also one that a mark names, whose money is charged already."""
        self.purses[purse.worker] = purse
        if purse.open_macs or purse.open_rows:
            self._heard_s[purse.worker] = now_s
            self._count(purse, 1)

    def give_up(self, before_s: float) -> None:
        """Take workers for dead that were not heard since ``before_s``.

        Their money stays charged; the rows they were for will come again, so these go back into the reserve.
        """
        while self._heard_s:
            worker, heard_s = next(iter(self._heard_s.items()))
            if heard_s >= before_s:
                return
            del self._heard_s[worker]
            self._count(self.purses[worker], -1)
            self.lost_macs += self.purses[worker].open_macs

    def for_mark(self, now_s: float) -> list[tuple[OpenPurse, float]]:
        """All purses and silences; those of the dead as if empty, so that the next ledger does not take them for alive."""
        alive = [(self.purses[worker], now_s - heard_s) for worker, heard_s in self._heard_s.items()]
        others = [purse for worker, purse in self.purses.items() if worker not in self._heard_s]
        return alive + [(OpenPurse(*purse[:3], 0, 0, 0, 0, 0, 0.0), 0.0) for purse in others]

    def overdue_rows(self, before_s: float) -> int:
        """Rows of the first stage in purses of workers that were not heard since ``before_s``."""
        rows = 0
        for worker, heard_s in self._heard_s.items():
            if heard_s >= before_s:
                break
            rows += self.purses[worker].open_rows if self.purses[worker].stage == 0 else 0
        return rows

    def left_macs(self) -> int:
        """Budget that is neither spent nor promised; without a bound, all that can be counted."""
        return 2**62 if self.budget_macs is None else self.budget_macs - self.charged_macs

    def reserve_macs(self, num_unseen: int) -> int:
        """The first exits of ``num_unseen`` images, but for those that open purses promise."""
        return max(0, num_unseen - self.promised_rows[0]) * self.first_macs

    def num_open(self, stage: int | None = None) -> int:
        """Workers with an open purse that are taken for alive, of one stage or of all."""
        return len(self._heard_s) if stage is None else self._num_open[stage]

    def silence_s(self, worker: bytes, now_s: float) -> float:
        """Since a worker with an open purse was last heard; 0 for any other."""
        return now_s - self._heard_s.get(worker, now_s)

    def _drop(self, worker: bytes) -> None:
        """The purse of this worker is no longer open."""
        purse = self.purses.get(worker)
        if self._heard_s.pop(worker, None) is not None:
            assert purse is not None
            self._count(purse, -1)
        elif purse is not None:
            self.lost_macs -= purse.open_macs

    def _count(self, purse: OpenPurse, sign: int) -> None:
        self._num_open[purse.stage] += sign
        self.open_macs += sign * purse.open_macs
        self.lent_macs += sign * purse.room_macs
        self.promised_rows[purse.stage] += sign * purse.open_rows
