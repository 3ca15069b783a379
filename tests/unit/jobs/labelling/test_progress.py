"""What a label job says of itself while it runs."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from jobs.labelling import progress
from jobs.labelling.progress import LedgerWatch, progress_line, progress_lines
from jobs.resources.capacity import Stall

QUIET = Stall(1e9, {})


def state(*exits: int, spent: int = 0) -> dict[str, Any]:
    return {"exits_realised": list(exits), "spent_macs": spent, "asked_macs": 100 * 10**9}


def test_before_the_ledger_has_answered() -> None:
    line = progress_line(None, ("a", "b"), 12.3)
    assert line.startswith("nothing labelled yet, 12 s: Ray starts the processes")


def test_before_the_first_batch() -> None:
    assert "the first batch is being read" in progress_line(state(0, 0), ("a", "b"), 12.3)


def test_counts_spend_and_rate() -> None:
    line = progress_line(state(30, 10, spent=25 * 10**9), ("a", "b"), 20.0)
    assert line == "labelled 40 (a 30 b 10), charged 25.0 GFLOPs (25.0 % of 100.0), 2.0 images/s"


def test_a_first_batch_that_is_charged_but_not_settled_is_counted_as_spent() -> None:
    assert progress_line(state(0, 0, spent=10**9), ("a", "b"), 5.0).startswith("labelled 0 (a 0 b 0), charged 1.0")


class Answers:
    """A ledger that answers so, one after the other, where Ray would ask an actor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any] | Exception) -> None:
        self._left = iter(answers)
        self.report = SimpleNamespace(remote=lambda: None)
        monkeypatch.setattr(progress, "answer", self._answer)

    def _answer(self, reference: object, timeout_s: float) -> dict[str, Any]:
        answer = next(self._left)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_busy_ledger_is_quoted_with_its_last_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    busy = ray.exceptions.GetTimeoutError()
    watch = LedgerWatch(Answers(monkeypatch, busy, state(3, 1, spent=1), busy), ("a", "b"), QUIET)
    assert watch.line(2.0).startswith("nothing labelled yet, 2 s: Ray starts")
    assert "labelled 4 (a 3 b 1)" in watch.line(4.0)
    assert "labelled 4 (a 3 b 1)" in watch.line(8.0)
    assert not caplog.messages


def test_a_ledger_that_has_died_is_a_warning_and_one_that_only_starts_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dead = ray.exceptions.RayActorError()
    watch = LedgerWatch(Answers(monkeypatch, dead, state(3, 1, spent=1), dead), ("a", "b"), QUIET)
    assert watch.line(2.0).startswith("nothing labelled yet")
    assert not caplog.messages
    watch.line(4.0)
    assert "labelled 4 (a 3 b 1)" in watch.line(8.0)
    assert caplog.messages == ["the ledger has died (RayActorError); Ray restarts it, and its mark keeps the budget"]


def test_lines_are_logged_while_the_pipeline_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = threading.Event()

    class Asked(Answers):
        def _answer(self, reference: object, timeout_s: float) -> dict[str, Any]:
            asked.set()
            return state(2, 0, spent=1)

    with progress_lines(Asked(monkeypatch), ("a", "b"), QUIET, interval_s=0.001):
        assert asked.wait(timeout=60)
    assert "labelled 2 (a 2 b 0)" in caplog.messages[0]
