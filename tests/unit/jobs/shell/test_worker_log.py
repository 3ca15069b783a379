"""Warnings of workers: which are sent, how many are kept, what a driver does. With Ray: tests/ray/test_seen.py."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pyarrow as pa
import pytest

from jobs.shell.terminal import Lines
from jobs.shell.worker_log import MOST_NOTES, Notes, Telling, ToDriver, log_notes, tell_driver


def test_notes_are_fetched_once_and_of_too_many_only_the_number() -> None:
    notes = Notes()
    assert notes.take_notes() == []
    for k in range(MOST_NOTES + 1234):
        notes.note(f"line {k}")
    taken = notes.take_notes()
    assert taken[:2] == ["line 0", "line 1"]
    assert taken[MOST_NOTES:] == ["and 1,234 more warnings, which are in the workers' own logs"]
    notes.note("later")
    assert notes.take_notes() == ["later"]


def test_warnings_of_the_projects_own_loggers_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.9")
    root = logging.getLogger()
    handler = ToDriver(SimpleNamespace(note=SimpleNamespace(remote=sent.append)))
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.setattr(root, "level", logging.DEBUG)
    logging.getLogger("jobs.labelling.actors").warning("image %s failed", "a.jpg")
    logging.getLogger("anchornet.files").error("gone")
    logging.getLogger("jobs.labelling.actors").info("all is well")
    logging.getLogger("botocore").warning("of a library")
    assert [line.partition(" (process ")[0] for line in sent] == [
        "WARNING jobs.labelling.actors: image a.jpg failed",
        "ERROR anchornet.files: gone",
    ]
    assert all(line.endswith(" on 10.0.0.9)") for line in sent)


def test_a_process_that_is_no_worker_keeps_its_log_to_itself() -> None:
    before, run = list(logging.getLogger().handlers), Lines.run
    tell_driver(object(), "run-1a2b3c")
    assert (logging.getLogger().handlers, Lines.run) == (before, run)


def test_a_function_that_tells_gives_what_the_function_gives() -> None:
    table = pa.table({"x": [1, 2]})
    assert Telling(lambda given: given.slice(1), None, "run")(table) == table.slice(1)


def test_the_driver_logs_what_it_fetched(caplog: pytest.LogCaptureFixture) -> None:
    log_notes(["WARNING jobs.x: a", "ERROR jobs.y: b"])
    assert caplog.messages == ["a worker said: WARNING jobs.x: a", "a worker said: ERROR jobs.y: b"]
