"""What a label job says of itself while it runs."""

from __future__ import annotations

import logging
import re
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from jobs.labelling import progress
from jobs.labelling.progress import LedgerWatch, progress_line, progress_lines
from jobs.resources.capacity import Stall

QUIET = Stall(1e9, {})


def state(*exits: int, spent: int = 0, failed: int = 0, unreadable: int = 0) -> dict[str, Any]:
    counts = {"exits_realised": list(exits), "num_failed": failed, "num_unreadable": unreadable, "num_images": 100}
    return {**counts, "spent_macs": spent, "asked_macs": 100 * 10**9}


def test_before_the_ledger_has_answered() -> None:
    line = progress_line(None, ("a", "b"), 12.3, 0.0)
    assert line.startswith("nothing labelled yet, 12 s: Ray starts the processes")


def test_before_the_first_batch() -> None:
    assert "the first batch is being read" in progress_line(state(0, 0), ("a", "b"), 12.3, 0.0)


def test_counts_spend_and_rate() -> None:
    line = progress_line(state(30, 10, spent=25 * 10**9, failed=1, unreadable=4), ("a", "b"), 20.0, 2.0)
    assert line == (
        "labelled 40 of 100 (45 %; a 30 b 10), charged 25.0 GFLOPs (25.0 % of 100.0), 5 without a label, 2.0 images/s, "
        "28 s left"
    )


@pytest.mark.parametrize(
    ("images_per_s", "left"), [(1.0, "60 s left"), (0.5, "2 min left"), (0.0111, "90 min left"), (0.001, "17 h left")]
)
def test_what_may_still_be_needed_is_told_as_coarsely_as_it_is_known(images_per_s: float, left: str) -> None:
    assert progress_line(state(40, 0), ("a", "b"), 20.0, images_per_s).endswith(left)


def test_nothing_is_foretold_before_there_is_a_rate_nor_when_all_is_done() -> None:
    assert progress_line(state(40, 0), ("a", "b"), 20.0, 0.0).endswith("(0.0 % of 100.0)")
    assert progress_line(state(60, 40), ("a", "b"), 20.0, 3.0).endswith("3.0 images/s")


def test_a_first_batch_that_is_charged_but_not_settled_is_counted_as_spent() -> None:
    line = progress_line(state(0, 0, spent=10**9), ("a", "b"), 5.0, 0.0)
    assert line.startswith("labelled 0 of 100 (0 %; a 0 b 0), charged 1.0")


class Answers:
    """A ledger that answers so, one after the other, where Ray would ask an actor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any] | Exception) -> None:
        self._left = iter(answers)
        self.report = SimpleNamespace(remote=lambda: None)
        self.take_notes = SimpleNamespace(remote=lambda: self.notes)
        self.notes: list[str] = []
        monkeypatch.setattr(progress, "answer", self._answer)

    def _answer(self, reference: object, timeout_s: float) -> Any:
        if reference is self.notes:
            return reference
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
    assert "labelled 4 of 100 (4 %; a 3 b 1)" in watch.line(4.0)
    assert "labelled 4 of 100 (4 %; a 3 b 1)" in watch.line(8.0)
    assert not caplog.messages


def test_a_ledger_that_has_died_is_a_warning_and_one_that_only_starts_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dead = ray.exceptions.RayActorError()
    watch = LedgerWatch(Answers(monkeypatch, dead, state(3, 1, spent=1), dead), ("a", "b"), QUIET)
    assert watch.line(2.0).startswith("nothing labelled yet")
    assert not caplog.messages
    watch.line(4.0)
    assert "labelled 4 of 100 (4 %; a 3 b 1)" in watch.line(8.0)
    assert caplog.messages == ["the ledger has died (RayActorError); Ray restarts it, and its mark keeps the budget"]


def test_lines_are_logged_while_the_pipeline_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = threading.Event()

    class Asked(Answers):
        def _answer(self, reference: object, timeout_s: float) -> Any:
            asked.set()
            return [] if reference is self.notes else state(2, 0, spent=1)

    with progress_lines(Asked(monkeypatch), ("a", "b"), QUIET, interval_s=0.001):
        assert asked.wait(timeout=60)
    assert "labelled 2 of 100 (2 %; a 2 b 0)" in caplog.messages[0]


def test_the_rate_is_that_of_the_last_minute_without_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [state(0, 0), state(10, 0), state(20, 0), state(50, 0), state(60, 0)]
    watch = LedgerWatch(Answers(monkeypatch, *states), ("a", "b"), QUIET)
    lines = [watch.line(at_s) for at_s in (5.0, 40.0, 50.0, 95.0, 105.0)]
    rates = [re.findall(r"([0-9.]+) images/s", line) for line in lines]
    assert rates == [[], [], ["1.0"], ["0.7"], ["0.7"]]  # 20 of 50 s to 60 at 105 s


def test_what_workers_say_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Answers(monkeypatch, state(1, 0))
    ledger.notes.append("WARNING jobs.x: an image failed (process 7 on 10.0.0.9)")
    LedgerWatch(ledger, ("a", "b"), QUIET).line(1.0)
    assert caplog.messages == ["a worker said: WARNING jobs.x: an image failed (process 7 on 10.0.0.9)"]
