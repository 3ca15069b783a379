"""Warnings of workers, carried to the driver's log: a person looks there, and not into the logs of a hundred nodes.

A worker's process sends the project's own warnings and errors to an actor of the job (:class:`Notes`), the driver fetches them
with its progress and logs them. Ray's own way (``log_to_driver``) carries everything that any library prints.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray._private.worker import global_worker

from jobs.shell.terminal import OURS, Lines, configure_logging

logger = logging.getLogger(__name__)

MOST_NOTES = 20
"""Lines kept between two visits of the driver; of more only the number is told."""


class Notes:
    """What workers have to say, until the driver fetches it; a part of an actor."""

    def __init__(self) -> None:
        super().__init__()
        self._notes: list[str] = []
        self._num_more = 0

    def note(self, line: str) -> None:
        """Keep a line, or count it when there are too many."""
        if len(self._notes) < MOST_NOTES:
            self._notes.append(line)
        else:
            self._num_more += 1

    def take_notes(self) -> list[str]:
        """The lines since the last call."""
        notes, more = self._notes, self._num_more
        self._notes, self._num_more = [], 0
        return [*notes, f"and {more:,} more warnings, which are in the workers' own logs"] if more else notes


class ToDriver(logging.Handler):
    """Sends warnings of the project's own loggers to an actor with :class:`Notes`."""

    def __init__(self, notes: Any) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes
        self._where = f"process {os.getpid()} on {ray.util.get_node_ip_address()}"

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line; nobody waits until it has arrived."""
        if record.name.split(".")[0] in OURS:
            self._notes.note.remote(f"{record.levelname} {record.name}: {record.getMessage()} ({self._where})")


def tell_driver(notes: Any, run: str) -> None:
    """From now on this worker's lines name the run and its warnings go to ``notes``; nothing changes in a driver.

    notes: handle of an actor with :class:`Notes`.
    """
    if global_worker.mode != ray.WORKER_MODE:
        return
    root = logging.getLogger()
    if Lines.run == run and any(isinstance(handler, ToDriver) for handler in root.handlers):
        return
    configure_logging()
    Lines.run = run
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, ToDriver)]
    root.addHandler(ToDriver(notes))


def log_notes(notes: list[str]) -> None:
    """Log on the driver what :meth:`Notes.take_notes` gave."""
    for line in notes:
        logger.warning("a worker said: %s", line)


@dataclass(frozen=True)
class Telling:
    """A function over tables, for tasks that tell the driver what goes wrong in them."""

    work: Callable[[pa.Table], Any]
    notes: Any
    run: str

    def __call__(self, table: pa.Table) -> Any:
        """What ``work`` gives."""
        tell_driver(self.notes, self.run)
        return self.work(table)
