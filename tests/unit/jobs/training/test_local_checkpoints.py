"""Checkpoints of a run in the driver's process: the last to go on from, the best to keep."""

from __future__ import annotations

from pathlib import Path

import torch

from jobs.training.local_checkpoints import LocalCheckpoints


def state(value: float) -> dict[str, object]:
    return {"model": {"w": torch.tensor([value])}, "optimizer": {}, "history": [{"epoch": int(value)}]}


def test_nothing_before_the_first_epoch(tmp_path: Path) -> None:
    assert LocalCheckpoints(str(tmp_path / "none")).last() is None


def test_the_later_of_equals_is_kept_and_a_worse_one_is_not(tmp_path: Path) -> None:
    kept = LocalCheckpoints(str(tmp_path))
    for epoch, score in enumerate([0.5, 0.7, 0.7, 0.6]):
        kept.save(state(epoch), {"score": score, "epoch": epoch})
    model, metrics = LocalCheckpoints(str(tmp_path)).best()
    assert (model["w"].item(), metrics["epoch"]) == (2.0, 2)
    last = LocalCheckpoints(str(tmp_path)).last()
    assert last is not None
    assert last["history"] == [{"epoch": 3}]
