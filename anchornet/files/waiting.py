"""Storage that keeps somebody waiting is named: after some seconds, and again now and then for as long as it lasts.

Requests are patient (a gateway may be away for a while), and patience without a word looks like a job that hangs.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

log = logging.getLogger(__name__)

FIRST_S, AGAIN_S = 8.0, 30.0
"""Seconds after which somebody who waits is told, and between two times that a process says it."""
F = TypeVar("F", bound=Callable[..., Any])
_REMOTE = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_told = {"at": -AGAIN_S}
_lock = threading.Lock()


def _is_remote(uri: str) -> bool:
    """True for what lies behind a network, as far as the name says."""
    return _REMOTE.match(uri) is not None


def says_when_it_waits(function: F) -> F:
    """``function(uri, ...)``, which asks a storage something small, with a warning while the storage lets it wait."""

    @functools.wraps(function)
    def patient(uri: str, *arguments: Any, **options: Any) -> Any:
        if not _is_remote(uri):
            return function(uri, *arguments, **options)
        with said_while_waiting(uri):
            return function(uri, *arguments, **options)

    return cast(F, patient)


@contextmanager
def said_while_waiting(uri: str) -> Iterator[None]:
    """Warn while the body waits for ``uri``; of many that wait in a process only one says it."""
    done = threading.Event()
    threading.Thread(target=_watch, args=(uri, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(uri: str, done: threading.Event) -> None:
    started = time.monotonic()
    while not done.wait(FIRST_S):
        now = time.monotonic()
        with _lock:
            mine = now - _told["at"] >= AGAIN_S
            if mine:
                _told["at"] = now
        if mine:
            log.warning(
                "still waiting for %s after %.0f s, and trying again; if the storage does not answer, look at %s (docs/s3.md)",
                uri,
                now - started,
                _where(uri),
            )


def _where(uri: str) -> str:
    if not uri.lower().startswith("s3"):
        return "the network and its credentials"
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    return (
        f"AWS_ENDPOINT_URL, {endpoint}" if endpoint else "AWS_ENDPOINT_URL, which is not set, so Amazon's S3 is asked"
    )
