"""An actor's hold on its purse: asks the ledger ahead of time, waits where money will come back, gives back when idle."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Sequence

import numpy as np
import ray

from anchornet.ledger.purse import Draw, Grant, Purse
from jobs.labelling.ledger_actor import LedgerHandle, answer

logger = logging.getLogger(__name__)

_TICK_S = 0.25
"""How often an idle purse is looked at."""
_LAST_S = 2.0
"""What giving back may take when the actor ends."""


class PurseHolder:
    """The purse of one actor, for as many threads as it has; one of them computes at a time.

    A purse that is not used for as long as statements may be apart goes back by itself, and so does that of an actor that
    ends. Only an actor that dies keeps it.
    """

    def __init__(self, ledger: LedgerHandle, stage: int, num_exits: int) -> None:
        self._ledger = ledger
        self._purse = Purse(stage, num_exits)
        self._lock = threading.Lock()
        """Of the purse, held for moments."""
        self._asking = threading.Lock()
        """Held from a statement to its answer, so that statements keep their order."""
        self._used_s = time.monotonic()
        threading.Thread(target=_watch, args=(weakref.ref(self),), daemon=True).start()

    def prepare(self, num_rows: int) -> None:
        """Ask for the next batch while one computes, so that nobody waits for the ledger; it may refuse until that is done."""
        with self._asking:
            if self._purse.needs_grant(num_rows, time.monotonic()):
                self._exchange(num_rows)

    def draw(self, num_rows: int) -> Draw:
        """Permission for the batch that is computed now."""
        with self._asking:
            if self._purse.left_rows < num_rows:  # refused, or the other thread was faster
                since_s = time.monotonic()
                self._ask(num_rows)
                self._purse.waited(time.monotonic() - since_s)
            with self._lock:
                return self._purse.draw(num_rows)

    def done(
        self,
        draw: Draw,
        image_ids: np.ndarray,
        spent_macs: int,
        exit_counts: Sequence[int],
        num_failed: int,
        compute_s: float,
    ) -> None:
        """What the drawn batch did; the ledger hears of it with the next statement."""
        with self._lock:
            self._purse.done(draw, image_ids, spent_macs, exit_counts, num_failed, compute_s)
            self._used_s = time.monotonic()

    def give_back(self, *, now: bool) -> None:
        """Hand the purse back, with what was done: now, or when it has been idle for long enough."""
        with self._asking:
            if self._purse.is_idle and (now or time.monotonic() - self._used_s >= self._purse.idle_s):
                self._exchange(0, _LAST_S)

    def _ask(self, num_rows: int) -> None:
        """Exchange until there is a grant; the ledger says when to come again while others hold what is left."""
        while not (grant := self._exchange(num_rows)).num_rows:
            time.sleep(grant.retry_s)

    def _exchange(self, num_rows: int, timeout_s: float | None = None) -> Grant:
        with self._lock:
            statement = self._purse.statement(num_rows, time.monotonic())
            self._used_s = time.monotonic() if num_rows else self._used_s
        grant: Grant = answer(self._ledger.exchange.remote(statement), timeout_s)
        with self._lock:
            self._purse.fill(grant)
        return grant

    def __del__(self) -> None:
        """Ray lets go of the actor's object before it ends the process. A holder that outlives Ray must not start one."""
        if not ray.is_initialized():
            return
        try:
            self.give_back(now=True)
        except Exception as error:  # nobody is left to hear it; the purse then stays charged
            logger.debug("purse not given back: %s", error)


def _watch(holder_of: weakref.ref[PurseHolder]) -> None:
    """Give back idle purses as long as there is a holder."""
    while (holder := holder_of()) is not None:
        try:
            holder.give_back(now=False)
        except ray.exceptions.RayError as error:
            logger.warning("an idle purse was not given back (%s)", type(error).__name__)
        del holder
        time.sleep(_TICK_S)
