"""What is told of a training, and what of it is shown."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from jobs.resources.capacity import Stall
from jobs.training import progress
from jobs.training.progress import TELL_S, TrainingWatch, told, training_lines

QUIET = Stall(1e9, {})


def notes_heard_by(heard: list[str]) -> Any:
    return SimpleNamespace(tell=SimpleNamespace(remote=heard.append))


def test_batches_pass_and_the_first_step_is_told() -> None:
    heard: list[str] = []
    assert list(told("abc", notes_heard_by(heard), "epoch 2")) == ["a", "b", "c"]
    assert heard[0] == "epoch 2, step 0"
    assert list(told("abc", None, "epoch 2")) == ["a", "b", "c"]


def test_later_steps_are_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now_s))
    heard: list[str] = []
    for _ in told(range(6), notes_heard_by(heard), "epoch 0"):
        now_s += 0.4 * TELL_S
    assert heard == ["epoch 0, step 0", "epoch 0, step 3"]


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str | Exception) -> Any:
    """Notes that answer so, one after the other, where Ray would ask an actor."""
    left = iter(answers)

    def get(reference: object, timeout: float) -> Any:
        if reference == "notes":
            return []
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray, "get", get)
    return SimpleNamespace(
        told=SimpleNamespace(remote=lambda: "told"), take_notes=SimpleNamespace(remote=lambda: "notes")
    )


def test_a_line_says_where_the_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = answering(monkeypatch, "", "epoch 1, step 7", ray.exceptions.GetTimeoutError())
    watch = TrainingWatch(str(tmp_path / "metrics.jsonl"), notes, QUIET)
    assert watch.line(3.2).startswith("waiting for the workers: Ray starts them")
    assert watch.line(8.2) == "epoch 1, step 7, 8 s"
    assert watch.line(13.2).startswith("waiting for the workers")  # busy is not dead


def test_epochs_that_ended_come_before_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "metrics.jsonl"
    watch = TrainingWatch(str(path), answering(monkeypatch, "epoch 1, step 0"), QUIET)
    path.write_text(json.dumps({"epoch": 0}) + "\n")
    assert watch.line(1.0) == "epoch 1, step 0, 1 s"
    assert caplog.messages == ["epoch=0"]


def test_each_epoch_is_shown_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"epoch": 0, "train/loss": 0.5}) + "\n")
    watch = TrainingWatch(str(path), None, QUIET)  # a resumed run: what is there already was shown by the earlier start
    watch.log_epochs()
    path.write_text(path.read_text() + json.dumps({"epoch": 1, "train/loss": 0.25}) + "\n")
    watch.log_epochs()
    watch.log_epochs()
    assert caplog.messages == ["epoch=1 train/loss=0.25"]


def test_the_last_epoch_is_shown_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "metrics.jsonl"
    with training_lines(str(path), None, QUIET):
        path.write_text(json.dumps({"epoch": 0, "train/accuracy": 1.0}) + "\n")
    assert caplog.messages == ["epoch=0 train/accuracy=1"]
