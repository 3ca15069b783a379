"""How far a training is: workers tell an actor now and then, the driver shows it and the lines of ``metrics.jsonl``."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray

from anchornet.files import storage
from jobs.resources.capacity import Stall
from jobs.shell.progress import progress
from jobs.shell.worker_log import log_notes

T = TypeVar("T")
logger = logging.getLogger(__name__)

TELL_S = 2.0
"""Seconds between two messages of a worker."""
ANSWER_S = 3.0


def told(batches: Iterable[T], notes: Any, where: str) -> Iterator[T]:
    """The batches; ``notes`` hears every few seconds how many of them are done. notes: None tells nobody."""
    last = time.perf_counter()
    for step, batch in enumerate(batches):
        if notes is not None and (not step or time.perf_counter() - last > TELL_S):
            notes.tell.remote(f"{where}, step {step}")
            last = time.perf_counter()
        yield batch


@contextmanager
def training_lines(metrics_uri: str, notes: Any, stall: Stall) -> Iterator[None]:
    """Log each finished epoch and, between them, the step that is being computed, while the body runs; and what is waited for."""
    watch = TrainingWatch(metrics_uri, notes, stall)
    with progress(watch.line):
        yield
    watch.log_epochs()


class TrainingWatch:
    """What was shown of a training so far."""

    def __init__(self, metrics_uri: str, notes: Any, stall: Stall) -> None:
        self._stall = stall
        self._uri = metrics_uri
        self._notes = notes
        self._shown = len(self._lines())

    def line(self, elapsed_s: float) -> str:
        """What to say now; epochs that have ended since the last line are logged before it."""
        self.log_epochs()
        try:
            where = ray.get(self._notes.told.remote(), timeout=ANSWER_S)
            log_notes(ray.get(self._notes.take_notes.remote(), timeout=ANSWER_S))
        except ray.exceptions.GetTimeoutError:
            where = ""
        self._stall.watch((self._shown, where), elapsed_s)
        return (
            f"{where or 'waiting for the workers: Ray starts them, and the first images are read'}, {elapsed_s:.0f} s"
        )

    def log_epochs(self) -> None:
        """Log the epochs that ended since the last call."""
        lines = self._lines()
        for line in lines[self._shown :]:
            logger.info(" ".join(f"{name}={value:.4g}" for name, value in json.loads(line).items()))
        self._shown = max(self._shown, len(lines))

    def _lines(self) -> list[bytes]:
        return storage.read_bytes(self._uri).splitlines() if storage.exists(self._uri) else []
