"""Progress lines of a label job, from the ledger's counts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from anchornet.units import GIGA
from jobs.labelling.ledger_actor import LedgerHandle, answer
from jobs.resources.capacity import Stall
from jobs.shell.progress import INTERVAL_S, progress

logger = logging.getLogger(__name__)

ANSWER_S = 3.0
"""How long a line waits for the ledger's counts; later it says the last ones again."""


@contextlib.contextmanager
def progress_lines(
    ledger: LedgerHandle, exit_names: Sequence[str], stall: Stall, interval_s: float = INTERVAL_S
) -> Iterator[None]:
    """Log a line every ``interval_s`` seconds while the body runs, and what is waited for when nothing moves."""
    with progress(LedgerWatch(ledger, exit_names, stall).line, interval_s):
        yield


class LedgerWatch:
    """What the ledger last said of the job."""

    def __init__(self, ledger: LedgerHandle, exit_names: Sequence[str], stall: Stall) -> None:
        self._stall = stall
        self._ledger = ledger
        self._exit_names = exit_names
        self._state: dict[str, Any] | None = None

    def line(self, elapsed_s: float) -> str:
        """What to say now. A ledger that has answered before and is dead now gets a warning; Ray restarts it."""
        try:
            self._state = answer(self._ledger.report.remote(), ANSWER_S)
        except ray.exceptions.RayActorError as error:
            # Until it has answered once it is only starting; how that may fail is said by those who lease from it.
            if self._state is not None:
                logger.warning(
                    "the ledger has died (%s); Ray restarts it, and its mark keeps the budget", type(error).__name__
                )
        except ray.exceptions.GetTimeoutError:
            pass  # it starts, or it is busy: the last counts are still true
        self._stall.watch(self._state and (self._state["exits_realised"], self._state["spent_macs"]), elapsed_s)
        return progress_line(self._state, self._exit_names, elapsed_s)


def progress_line(state: dict[str, Any] | None, exit_names: Sequence[str], elapsed_s: float) -> str:
    """Images labelled so far, where they left, the spend, and images per second since the start.

    Before the first label it says what the job is waiting for. state: the ledger's report; None before it ever answered.
    """
    if state is None:
        return (
            f"nothing labelled yet, {elapsed_s:.0f} s: Ray starts the processes that keep the budget, decode and label"
        )
    counts = state["exits_realised"]
    labelled = sum(counts)
    if not labelled and not state["spent_macs"]:
        return (
            f"nothing labelled yet, {elapsed_s:.0f} s: the first batch is being read, or its networks are being loaded"
        )
    exits = " ".join(f"{name} {count}" for name, count in zip(exit_names, counts, strict=True))
    spent, asked = state["spent_macs"] / GIGA, state["asked_macs"] / GIGA
    share = f"{100 * spent / asked:.1f} % of {asked:,.1f}"
    return (
        f"labelled {labelled:,} ({exits}), charged {spent:,.1f} GFLOPs ({share}), {labelled / elapsed_s:.1f} images/s"
    )
