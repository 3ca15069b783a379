"""A line at least every few seconds while something lasts, so that nobody wonders whether a job still lives.

On a terminal it is one line that is rewritten; in a log, or through a pipe, lines one below the other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.shell import terminal

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
"""Between two lines. A line may take as long again to be found, which makes ten seconds at most."""
LIVE_S = 1.0
"""Between two states of a line that is rewritten."""
Line = Callable[[float], str]
"""Seconds since the start -> what to say now."""


@contextmanager
def progress(line: Line | str, interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Log ``line`` every ``interval_s`` seconds while the body runs; a text gets the seconds so far."""
    stop = threading.Event()
    thread = threading.Thread(target=_report, args=(_as_line(line), interval_s, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=INTERVAL_S)  # a line that is being found is still said


def _as_line(line: Line | str) -> Line:
    return (lambda elapsed_s: f"{line}, {elapsed_s:.0f} s") if isinstance(line, str) else line


def _report(line: Line, interval_s: float, stop: threading.Event) -> None:
    started = time.perf_counter()
    while not stop.wait(min(interval_s, LIVE_S) if terminal.is_live() else interval_s):
        text = line(time.perf_counter() - started)
        if terminal.is_live():
            terminal.live(text)
        else:
            logger.info(text)
    if terminal.is_live():
        terminal.live("")
