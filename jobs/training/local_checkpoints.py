"""Checkpoints of a run in the driver's own process: Ray Train keeps those of its workers, and none in its local mode.

Two files below the run folder: ``last.pt``, from which the same command goes on, and ``best.pt``, the epoch to keep.
"""

from __future__ import annotations

import io
from typing import Any

import torch

from anchornet.files import storage

SCORE = "score"
"""Metric that chooses the epoch to keep: validation accuracy, or the epoch number without validation."""


class LocalCheckpoints:
    """The checkpoints in one folder, local or ``s3://``; each file is whole or absent."""

    def __init__(self, folder: str) -> None:
        self._last, self._best = storage.join(folder, "last.pt"), storage.join(folder, "best.pt")

    def last(self) -> dict[str, Any] | None:
        """The state of the newest finished epoch, None before the first."""
        return _read(self._last) if storage.exists(self._last) else None

    def best(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model's state dict of the epoch to keep, and its metrics; the later one of equals."""
        content = _read(self._best)
        return content["model"], content["metrics"]

    def save(self, state: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Keep an epoch that just ended; ``last.pt`` comes last, so an epoch that was cut off is computed again."""
        if not storage.exists(self._best) or metrics[SCORE] >= self.best()[1][SCORE]:
            _write(self._best, {"model": state["model"], "metrics": metrics})
        _write(self._last, state)


def _write(uri: str, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    storage.write_bytes(uri, buffer.getvalue())


def _read(uri: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(io.BytesIO(storage.read_bytes(uri)), map_location="cpu", weights_only=True)
    return content
