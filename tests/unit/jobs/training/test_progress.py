"""What is told of a training, and what of it is shown."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.training.progress import TrainingWatch, told


def test_batches_pass_and_the_first_step_is_told() -> None:
    heard: list[str] = []
    notes = SimpleNamespace(tell=SimpleNamespace(remote=heard.append))
    assert list(told("abc", notes, "epoch 2")) == ["a", "b", "c"]
    assert heard[0] == "epoch 2, step 0"
    assert list(told("abc", None, "epoch 2")) == ["a", "b", "c"]


def test_each_epoch_is_shown_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"epoch": 0, "train/loss": 0.5}) + "\n")
    watch = TrainingWatch(str(path), None)  # a resumed run: what is there already was shown by the earlier start
    watch.log_epochs()
    path.write_text(path.read_text() + json.dumps({"epoch": 1, "train/loss": 0.25}) + "\n")
    watch.log_epochs()
    watch.log_epochs()
    assert caplog.messages == ["epoch=1 train/loss=0.25"]
