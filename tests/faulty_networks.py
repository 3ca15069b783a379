"""Networks whose process is killed, in an actor of a job and nowhere else: while they are loaded, or for the memory they hold.

The environment says how: ``FAULT_LOADS`` loads end in SIGKILL, ``FAULT_BATCHES`` batches hold ``FAULT_MB`` megabytes until
somebody ends the process; each leaves a file in the folder ``FAULT_FOLDER``.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import ray
from ray._private.worker import global_worker
from torch import Tensor, nn

from tests.tiny_bundle import LoggingClassifier

FAULTY_ARCHITECTURE = "tests.faulty_networks:faulty_classifier"
_HELD_S = 120.0
"""How long a batch holds its memory if nobody ends it."""


class FaultyClassifier(LoggingClassifier):
    """A logging classifier that is killed."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        if _happens("FAULT_LOADS"):
            os.kill(os.getpid(), signal.SIGKILL)

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if len(x) > 1 and _happens("FAULT_BATCHES"):
            held = [b"\1" * (1 << 20) for _ in range(int(os.environ["FAULT_MB"]))]
            threading.Event().wait(_HELD_S)
            held.clear()
        return logits


def faulty_classifier(num_classes: int) -> nn.Module:
    return FaultyClassifier(num_classes)


def _happens(fault: str) -> bool:
    """Whether it happens once more; only in Ray's workers."""
    if global_worker.mode != ray.WORKER_MODE:
        return False
    for number in range(int(os.environ.get(fault, 0))):
        try:
            (Path(os.environ["FAULT_FOLDER"]) / f"{fault}-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return False
