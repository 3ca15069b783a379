"""Why a job stops before its work is done: SIGTERM, or something outside that it cannot mend.

``ray job stop``, Kubernetes and a machine that shuts down send SIGTERM, and kill what is still there some seconds later. It
ends a job as Ctrl-C does: what was done is written down first, then the process leaves with 143.
"""

from __future__ import annotations

import builtins
import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ray.exceptions import RayError

from jobs.resources.loading import CannotLoadError

_NAMED = re.compile(r"^(?:[\w.]+\.)?([A-Za-z]\w*): (\S.*)$", re.MULTILINE)
"""A line of a traceback that names an exception and its text."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has come; whatever lets a KeyboardInterrupt pass lets this pass."""


class FolderTakenError(RuntimeError):
    """Another job works in this run folder; its text is for the user."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` in the body, once; a second one is not heard while the job leaves."""
    before = signal.getsignal(signal.SIGTERM)
    listen()
    try:
        yield
    except SystemExit as end:
        if end.code == signal.SIGTERM:  # heard by the handler that ``ray.init`` puts in place before it has begun
            raise Terminated from None
        raise
    finally:
        if _in_main_thread():
            signal.signal(signal.SIGTERM, before)


def listen() -> None:
    """Hear SIGTERM again: ``ray.init`` puts a handler of its own in place, which leaves at once and with code 15."""
    if _in_main_thread():  # no other thread may set handlers, and none is interrupted by them
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, _go_on)
    raise Terminated


def _go_on(number: int, frame: FrameType | None) -> None:
    """The job is leaving already."""


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def of_machine(error: RayError) -> OSError | CannotLoadError | None:
    """What a process elsewhere met at a disk, an object storage or its memory and ended of, None when it was something else.

    Ray hands an actor's own exception over, but of a function that Ray Data called only the text, with every traceback in it;
    the first exception that is named there began it.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, OSError):
        return cause
    for name, text in _NAMED.findall(str(error)):
        if name == CannotLoadError.__name__:
            return CannotLoadError(text)
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, OSError):
            return OSError(text)
    return None
