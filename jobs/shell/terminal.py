"""What a person sees while a job runs: the job's own lines, and nothing of what Ray says to itself.

Ray speaks on the file descriptor 2 of the driver: from Python (its loggers, warnings) and from C++ (lines such as
``core_worker.cc:2465: Actor with class name ...``), which no Python setting reaches. So the descriptor itself is turned to a
log file while Ray is up, and the job's logger keeps a copy of the real one. Whatever leaves the body as an exception is
printed after the descriptor is back.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from anchornet.files import storage
from jobs.shell.run_folder import RunFolder

STDERR = 2
OURS = ("anchornet", "jobs", "benchmarks", "__main__")
"""Loggers whose records are for the terminal; those of libraries go where their other output goes."""
FORMAT = "%(asctime)s %(name)s %(levelname)s %(message)s"


def configure_logging() -> None:
    """One format for every job, on stderr; stdout is left to the job's own answer. A second call changes nothing."""
    root = logging.getLogger()
    if not any(isinstance(handler, Lines) for handler in root.handlers):
        root.addHandler(Lines())
        root.setLevel(os.environ.get("ANCHORNET_LOG_LEVEL", "INFO"))
        logging.getLogger("botocore").setLevel(logging.WARNING)  # else each listing says where its credentials are from


def say(text: str) -> None:
    """A line of the job's own on the terminal's stderr, wherever descriptor 2 leads at the moment."""
    stream = Lines.terminal or sys.stderr
    stream.write(text + "\n")
    stream.flush()


class Lines(logging.Handler):
    """Writes this project's own records to the terminal, wherever descriptor 2 leads at the moment; others to stderr."""

    terminal: IO[str] | None = None
    """The real stderr while descriptor 2 leads elsewhere; None: ``sys.stderr``, whichever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line (and a traceback below it where the record has one)."""
        ours = record.name.split(".")[0] in OURS
        stream = (Lines.terminal if ours else None) or sys.stderr
        stream.write(self.format(record) + "\n")
        stream.flush()


@contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Descriptor 2 leads to the end of ``log`` while the body runs; the job's own lines still reach the terminal."""
    sys.stderr.flush()
    with os.fdopen(os.dup(STDERR), "w", encoding="utf-8", errors="replace") as real, log.open("ab") as file:
        os.dup2(file.fileno(), STDERR)
        before = Lines.terminal
        Lines.terminal = real if _writes_to(STDERR) else before
        try:
            yield
        finally:
            Lines.terminal = before
            sys.stderr.flush()
            os.dup2(real.fileno(), STDERR)


def _writes_to(descriptor: int) -> bool:
    """Whether ``sys.stderr`` ends in this descriptor; under pytest it may not, and what it captures is left to it."""
    try:
        return sys.stderr.fileno() == descriptor
    except io.UnsupportedOperation:
        return False


def log_file(run_folder: str) -> Path:
    """Where Ray's own messages go: into the run folder when it is local, else into a temporary file."""
    if storage.is_remote(run_folder):
        return Path(tempfile.mkstemp(prefix="ray-", suffix=".log")[1])
    log = Path(RunFolder(run_folder).absolute.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    return log
