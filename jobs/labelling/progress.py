"""Progress lines while a label job runs, from the ledger's counts."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from anchornet.units import GIGA

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0


@contextlib.contextmanager
def progress_lines(ledger: ActorHandle, exit_names: Sequence[str], interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Log a line every ``interval_s`` seconds while the body runs."""
    stop = threading.Event()
    thread = threading.Thread(target=_report, args=(ledger, exit_names, interval_s, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=interval_s)


def _report(ledger: ActorHandle, exit_names: Sequence[str], interval_s: float, stop: threading.Event) -> None:
    started = time.perf_counter()
    while not stop.wait(interval_s):
        try:
            state = ray.get(ledger.report.remote(), timeout=interval_s)
        except ray.exceptions.RayError as error:
            logger.warning("the ledger does not answer (%s); Ray restarts it", type(error).__name__)
            continue
        logger.info(progress_line(state, exit_names, time.perf_counter() - started))


def progress_line(state: dict[str, Any], exit_names: Sequence[str], elapsed_s: float) -> str:
    """Images labelled so far, where they left, the spend, and images per second since the start."""
    counts = state["exits_realised"]
    labelled = sum(counts)
    exits = " ".join(f"{name} {count}" for name, count in zip(exit_names, counts, strict=True))
    spent, asked = state["spent_macs"] / GIGA, state["asked_macs"] / GIGA
    share = f"{100 * spent / asked:.1f} % of {asked:,.1f}"
    return (
        f"labelled {labelled:,} ({exits}), charged {spent:,.1f} GFLOPs ({share}), {labelled / elapsed_s:.1f} images/s"
    )
