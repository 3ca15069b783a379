"""Systems of a user's own, small and exact: one stage or three, pixels or features between them, costs that differ per image.

Named in a configuration as ``system: {kind: own, name: "tests.own_systems:SYSTEM", options: {...}}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anchornet.cascade.protocol import Cascade, Exit, Placement, Stage, Step, rule_of
from anchornet.cascade.rows import Layout, image_layout
from anchornet.images.preprocess import Preprocessing
from anchornet.models.card import ModelCard
from anchornet.systems.own import OwnSettings
from anchornet.systems.system import Networks, Reference, Trained

NAME = "tests.own_systems:SYSTEM"
SIZE, CELLS, NUM_CLASSES, NUM_EXITS = 32, 12, 3, 4
MACS = (40_000_000, 90_000_000, 160_000_000, 250_000_000)
"""Dense cost of each exit, so that budgets are readable numbers of GFLOPs; nothing here is that expensive."""
CHEAP = 8
"""With ``dynamic``, all but every eighth image (by its pixels) cost a ``CHEAP``-th of an exit."""


class TinyNet(nn.Module):
    """Logits of each exit from 2x2 mean colours: (N, 12) -> (N, K, C)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.exits = nn.ModuleList(nn.Linear(CELLS, num_classes) for _ in range(NUM_EXITS))

    def forward(self, cells_ND: Tensor) -> Tensor:
        return torch.stack([layer(cells_ND) for layer in self.exits], 1)


def tiny_net(num_classes: int) -> nn.Module:
    torch.manual_seed(3)
    return TinyNet(num_classes)


@dataclass(frozen=True)
class OwnState:
    """Images, or what is left of them."""

    images: np.ndarray | None
    cells: Tensor
    costly: np.ndarray
    """(n,) bool: costs the dense amount."""

    def __len__(self) -> int:
        return len(self.cells)


class OwnCascade(Cascade[OwnState]):
    """Four exits in ``stages`` stages."""

    def __init__(self, options: Mapping[str, Any], network: TinyNet, classes: Sequence[str]) -> None:
        self.classes = classes
        self.num_boxes = 0
        self.network = network
        self.dynamic, self.features = bool(options.get("dynamic")), bool(options.get("features"))
        self.exits = [Exit(f"look{k + 1}", macs) for k, macs in enumerate(MACS)]
        self.combination = rule_of(self, "sum")
        starts = {1: (0,), 2: (0, 2), 3: (0, 1, 3)}[int(options.get("stages", 2))]
        stops = (*starts[1:], NUM_EXITS)
        self.stages = [
            Stage(f"stage{i + 1}", a, b, self._takes() if a else image_layout(SIZE))
            for i, (a, b) in enumerate(zip(starts, stops, strict=True))
        ]

    def _takes(self) -> Layout:
        carried = {"cells": (np.dtype(np.float32), (CELLS,))} if self.features else dict(image_layout(SIZE))
        carried["costly"] = (np.dtype(np.bool_), ())
        return carried

    def start(self, images_NHW3: np.ndarray) -> OwnState:
        costly = images_NHW3.reshape(len(images_NHW3), -1).sum(axis=1, dtype=np.int64) % 8 == 0
        return OwnState(images_NHW3, cells(images_NHW3), costly)

    @torch.inference_mode()
    def advance(self, state: OwnState, exit_index: int) -> tuple[Step, OwnState]:
        logits = 3 * self.network(state.cells)[:, exit_index]
        macs = np.full(len(state), MACS[exit_index], np.int64)
        if self.dynamic:
            macs = np.where(state.costly, macs, macs // CHEAP)
        return Step((logits,), macs), state

    def select(self, state: OwnState, rows: Tensor) -> OwnState:
        images = None if state.images is None else state.images[rows.numpy()]
        return OwnState(images, state.cells[rows], state.costly[rows.numpy()])

    def pack(self, state: OwnState, stage_index: int) -> dict[str, np.ndarray]:
        packed = {"costly": state.costly}
        if self.features:
            return {**packed, "cells": state.cells.numpy()}
        assert state.images is not None
        return {**packed, "image": state.images}

    def unpack(self, columns: Mapping[str, np.ndarray], stage_index: int) -> OwnState:
        images = columns.get("image")
        seen = torch.from_numpy(columns["cells"]) if images is None else cells(images)
        return OwnState(images, seen, columns["costly"])


def cells(images_NHW3: np.ndarray) -> Tensor:
    """(N, 12): mean of each colour over each quarter, in [-1, 1]."""
    quarters = images_NHW3.reshape(-1, 2, SIZE // 2, 2, SIZE // 2, 3).mean(axis=(2, 4), dtype=np.float64)
    return torch.from_numpy((quarters.reshape(-1, CELLS) / 127.5 - 1).astype(np.float32))


class OwnSystem:
    """One network ``net``; options: stages (1, 2, 3), features, dynamic."""

    def roles(self, settings: OwnSettings) -> tuple[str, ...]:
        return ("net",)

    def trained_as(self, settings: OwnSettings) -> dict[str, str]:
        return {"net": "net"}

    def complete(self, settings: OwnSettings, cards: Mapping[str, ModelCard]) -> OwnSettings:
        return settings

    def preprocessing(self, settings: OwnSettings) -> Preprocessing:
        return Preprocessing.of_size(SIZE)

    def check(self, settings: OwnSettings, networks: Networks, num_classes: int) -> None:
        if not isinstance(networks["net"], TinyNet):
            raise ValueError("net must be a TinyNet; train one")

    def cascade(
        self, settings: OwnSettings, networks: Networks, classes: Sequence[str], placement: Placement
    ) -> OwnCascade:
        network = networks["net"]
        assert isinstance(network, TinyNet)
        return OwnCascade(settings.options, network.eval(), classes)

    def fewer_exits(self, settings: OwnSettings) -> dict[str, OwnSettings]:
        return {}

    def references(
        self, settings: OwnSettings, networks: Networks, classes: Sequence[str], placement: Placement
    ) -> list[Reference]:
        return []

    def import_weights(
        self, settings: OwnSettings, files: Mapping[str, str], architectures: Mapping[str, str], classes: Sequence[str]
    ) -> dict[str, Trained]:
        raise ValueError("this system has no published weights; train it")


SYSTEM = OwnSystem()
