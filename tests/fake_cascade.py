"""A cascade whose logits are a fixed function of the pixels: exact whatever the batch, so equality can be tested exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anchornet.cascade.protocol import Cascade, Exit, Stage, Step, rule_of
from anchornet.cascade.rows import image_layout

CLASSES = ("ant", "bee", "cow")
MACS = (5, 10, 20, 7)


@dataclass(frozen=True)
class FakeState:
    """Pixels."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


class FakeCascade(Cascade[FakeState]):
    """Four exits in two stages; with ``dynamic`` an image costs its first pixel's share of the exit's most."""

    def __init__(self, *, dynamic: bool = False) -> None:
        self.exits = [Exit(f"exit{k}", macs) for k, macs in enumerate(MACS)]
        self.stages = [Stage("stage1", 0, 1, image_layout(2)), Stage("stage2", 1, 4, image_layout(2))]
        self.classes = CLASSES
        self.num_boxes = 1
        self.combination = rule_of(self, "sum")
        self.dynamic = dynamic
        self.rows_run = [0] * len(MACS)
        self.calls = [0] * len(MACS)

    def start(self, images_NHW3: np.ndarray) -> FakeState:
        return FakeState(images_NHW3)

    def advance(self, state: FakeState, exit_index: int) -> tuple[Step, FakeState]:
        self.rows_run[exit_index] += len(state)
        self.calls[exit_index] += 1
        pixels = state.images.reshape(len(state), 12).astype(np.float32)
        mixed = np.sin(pixels[:, :3] * 0.37 + pixels[:, 3:6] * (exit_index + 1) * 0.11) * (exit_index + 1)
        macs = np.full(len(state), MACS[exit_index], np.int64)
        if self.dynamic:
            macs = macs * (1 + state.images[:, 0, 0, 0].astype(np.int64)) // 256
        boxes = state.images.reshape(len(state), -1)[:, None, :3].astype(np.int16) if exit_index == 0 else None
        return Step((torch.from_numpy(mixed.astype(np.float32)),), macs, boxes), state

    def select(self, state: FakeState, rows: Tensor) -> FakeState:
        return FakeState(state.images[rows.numpy()])

    def pack(self, state: FakeState, stage_index: int) -> dict[str, np.ndarray]:
        return {"image": state.images}

    def unpack(self, columns: Mapping[str, np.ndarray], stage_index: int) -> FakeState:
        return FakeState(columns["image"])


def fake_images(num_images: int, seed: int = 0) -> np.ndarray:
    """(N, 2, 2, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (num_images, 2, 2, 3), dtype=np.uint8)
