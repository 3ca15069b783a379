"""Lines while something lasts."""

from __future__ import annotations

import logging
import threading

import pytest

from jobs.shell.progress import progress


def test_lines_come_until_the_body_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    enough = threading.Event()
    seen: list[float] = []

    def line(elapsed_s: float) -> str:
        seen.append(elapsed_s)
        if len(seen) == 3:
            enough.set()
        return f"line {len(seen)}"

    with progress(line, interval_s=0.001):
        assert enough.wait(timeout=60)
    count = len(seen)
    assert caplog.messages[:3] == ["line 1", "line 2", "line 3"]
    assert seen == sorted(seen)
    assert len(caplog.messages) == count == len(seen)


def test_a_text_gets_the_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    said = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: said.set()  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)  # the last one to hear
    try:
        with progress("listing photos", interval_s=0.001):
            assert said.wait(timeout=60)
    finally:
        logging.getLogger().removeHandler(handler)
    assert caplog.messages[0] == "listing photos, 0 s"


def test_a_body_that_fails_fails() -> None:
    with pytest.raises(ZeroDivisionError), progress("dividing", interval_s=60):
        raise ZeroDivisionError
