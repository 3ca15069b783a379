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
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO

from anchornet.files import storage
from jobs.shell.run_folder import RunFolder

STDERR = 2
OURS = ("anchornet", "jobs", "benchmarks", "__main__")
"""Loggers whose records are for the terminal; those of libraries go where their other output goes."""
FORMAT = "%(asctime)s %(run)s%(name)s %(levelname)s %(message)s"
ERASE = "\r\x1b[K"
"""Back to the start of the line, and nothing on it (ECMA-48)."""


def configure_logging() -> None:
    """One format for every job, on stderr; stdout is left to the job's own answer. A second call changes nothing."""
    root = logging.getLogger()
    if not any(isinstance(handler, Lines) for handler in root.handlers):
        root.addHandler(Lines())
        root.setLevel(os.environ.get("ANCHORNET_LOG_LEVEL", "INFO"))
        logging.getLogger("botocore").setLevel(logging.WARNING)  # else each listing says where its credentials are from


@contextmanager
def lines_of(run: str) -> Iterator[None]:
    """Every line of the body names the run."""
    before, Lines.run = Lines.run, run
    try:
        yield
    finally:
        Lines.run = before


def say(text: str) -> None:
    """A line of the job's own on the terminal's stderr, wherever descriptor 2 leads at the moment."""
    Lines.write(Lines.terminal or sys.stderr, text)


def result(text: str) -> None:
    """What a job was run for, on stdout, where nothing else is written."""
    stream = Lines.stdout or sys.stdout
    stream.write(text)
    stream.flush()


def is_live() -> bool:
    """True where a line can be rewritten in place: on a terminal that knows how to."""
    return (Lines.terminal or sys.stderr).isatty() and os.environ.get("TERM", "dumb") != "dumb"


def live(text: str) -> None:
    """Show ``text`` as the last line, in place of the one before; other lines are written above it. Empty takes it away."""
    stream = Lines.terminal or sys.stderr
    with Lines.lock:
        Lines.last = text[: shutil.get_terminal_size().columns - 1]
        stream.write(ERASE + Lines.last)
        stream.flush()


class Lines(logging.Handler):
    """Writes this project's own records to the terminal, wherever descriptor 2 leads at the moment; others to stderr."""

    terminal: IO[str] | None = None
    """The real stderr while descriptor 2 leads elsewhere; None: ``sys.stderr``, whichever it is."""
    stdout: IO[str] | None = None
    """The real one while ``sys.stdout`` leads elsewhere."""
    run: str = ""
    """Named in every line; empty before a job knows its run folder."""
    last: str = ""
    """The live line at the bottom of the terminal; empty when there is none."""
    lock = threading.RLock()
    """Of what is on the screen."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line (and a traceback below it where the record has one)."""
        ours = record.name.split(".")[0] in OURS
        Lines.write((Lines.terminal if ours else None) or sys.stderr, self.format(record))

    def format(self, record: logging.LogRecord) -> str:
        """The record in the one format, with the run."""
        record.run = Lines.run and f"{Lines.run} "
        return super().format(record)

    @staticmethod
    def write(stream: IO[str], text: str) -> None:
        """A line above the live one."""
        with Lines.lock:
            stream.write(f"{ERASE}{text}\n{Lines.last}" if Lines.last else f"{text}\n")
            stream.flush()


@contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Descriptor 2 and ``sys.stdout`` lead to the end of ``log`` while the body runs.

    The job's own lines and its :func:`result` still reach the terminal. What nodes say of dead workers Ray prints on stdout.
    """
    sys.stderr.flush()
    with (
        os.fdopen(os.dup(STDERR), "w", encoding="utf-8", errors="replace") as real,
        log.open("a", encoding="utf-8", errors="replace", buffering=1) as file,
    ):
        os.dup2(file.fileno(), STDERR)
        before = Lines.terminal, Lines.stdout
        Lines.terminal, Lines.stdout = real if _writes_to(STDERR) else Lines.terminal, Lines.stdout or sys.stdout
        try:
            with redirect_stdout(file):
                yield
        finally:
            Lines.terminal, Lines.stdout = before
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
