"""Progress lines of a label job, from the ledger's counts."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from anchornet.units import GIGA
from jobs.labelling.ledger_actor import LedgerHandle, answer
from jobs.resources.capacity import Stall
from jobs.shell.progress import INTERVAL_S, progress
from jobs.shell.worker_log import log_notes

logger = logging.getLogger(__name__)

WINDOW_S = 60.0
"""The rate is that of the last minute."""
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
        self._done: deque[tuple[float, int]] = deque()
        self._exit_names = exit_names
        self._state: dict[str, Any] | None = None

    def line(self, elapsed_s: float) -> str:
        """What to say now. A ledger that has answered before and is dead now gets a warning; Ray restarts it."""
        try:
            self._state = answer(self._ledger.report.remote(), ANSWER_S)
            log_notes(answer(self._ledger.take_notes.remote(), ANSWER_S))
        except ray.exceptions.RayActorError as error:
            # Until it has answered once it is only starting; how that may fail is said by those who lease from it.
            if self._state is not None:
                logger.warning(
                    "the ledger has died (%s); Ray restarts it, and its mark keeps the budget", type(error).__name__
                )
        except ray.exceptions.GetTimeoutError:
            pass  # it starts, or it is busy: the last counts are still true
        self._stall.watch(self._state and (self._state["exits_realised"], self._state["spent_macs"]), elapsed_s)
        return progress_line(self._state, self._exit_names, elapsed_s, self._images_per_s(elapsed_s))

    def _images_per_s(self, elapsed_s: float) -> float:
        """Over the last minute, the start of the processes left out; 0 before there is anything to tell."""
        done = num_done(self._state) if self._state else 0
        while len(self._done) > 1 and elapsed_s - self._done[0][0] > WINDOW_S:
            self._done.popleft()
        if done:
            self._done.append((elapsed_s, done))
        first_s, first = self._done[0] if self._done else (elapsed_s, done)
        return (done - first) / (elapsed_s - first_s) if elapsed_s > first_s else 0.0


def num_done(state: dict[str, Any]) -> int:
    """Images that have left the job, with a label or without."""
    return int(sum(state["exits_realised"]) + state["num_failed"] + state["num_unreadable"])


def progress_line(
    state: dict[str, Any] | None, exit_names: Sequence[str], elapsed_s: float, images_per_s: float
) -> str:
    """Images labelled so far, where they left, the spend, the rate, what has no label, and how long it may still take.

    Before the first label it says what the job is waiting for. state: the ledger's report; None before it ever answered.
    """
    if state is None:
        return (
            f"nothing labelled yet, {elapsed_s:.0f} s: Ray starts the processes that keep the budget, decode and label"
        )
    counts, images = state["exits_realised"], state["num_images"]
    labelled, done = sum(counts), num_done(state)
    if not labelled and not state["spent_macs"]:
        return (
            f"nothing labelled yet, {elapsed_s:.0f} s: the first batch is being read, or its networks are being loaded"
        )
    exits = " ".join(f"{name} {count}" for name, count in zip(exit_names, counts, strict=True))
    spent, asked = state["spent_macs"] / GIGA, state["asked_macs"] / GIGA
    share = f"{100 * spent / asked:.1f} % of {asked:,.1f}"
    parts = [f"labelled {labelled:,} of {images:,} ({_percent(done, images)}; {exits})"]
    parts.append(f"charged {spent:,.1f} GFLOPs ({share})")
    parts += [f"{done - labelled:,} without a label"] if done > labelled else []
    parts += [f"{images_per_s:.1f} images/s"] if images_per_s else []
    parts += [f"{_duration((images - done) / images_per_s)} left"] if images_per_s and done < images else []
    return ", ".join(parts)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / max(whole, 1):.0f} %"


def _duration(seconds: float) -> str:
    """In the two largest units that are worth it."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{hours} h"
