"""A bundle of untrained networks, small and the same every time."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anchornet.budget.exit_table import ExitTable
from anchornet.bundle import Bundle
from anchornet.images.preprocess import Preprocessing
from anchornet.models.card import ModelCard, save_model
from anchornet.systems.anchornet.cascade import anchor_cascade
from anchornet.systems.anchornet.network import AnchorNet
from anchornet.systems.anchornet.settings import ARCHITECTURE as ANCHORNET
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.systems.anchornet.system import ROLES
from anchornet.systems.looks import LooksCascade

CLASSES = ("ant", "bee", "cow")
ARCHITECTURE = "tests.tiny_bundle:tiny_classifier"
LOGGING_ARCHITECTURE = "tests.tiny_bundle:logging_classifier"
LOG_VARIABLE = "MACS_LOG"
_REPEATS = 50
"""Passes that LoggingClassifier makes for nothing: some 0.1 s for a batch, so that a kill finds it at work."""


class TinyClassifier(nn.Module):
    """Three convolutions and a linear layer; any image size."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3)
        )
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


def tiny_classifier(num_classes: int) -> nn.Module:
    return TinyClassifier(num_classes)


def tiny_networks() -> dict[str, nn.Module]:
    """``anchornet``, ``glance`` and ``patch``, never trained, but with logits that differ from image to image."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        networks = {"anchornet": AnchorNet(len(CLASSES)), "glance": tiny_classifier(3), "patch": tiny_classifier(3)}
        blocks = torch.randn(24, 3, 14, 14).repeat_interleave(16, 2).repeat_interleave(16, 3)
        for name, network in networks.items():
            network.eval()
            logits = network(blocks).logits if name == "anchornet" else network(blocks[:, :, :95, :95])
            _spread(network.fc, logits)  # type: ignore[arg-type]
    return networks


def _spread(head: nn.Linear, logits: Tensor) -> None:
    """Change a last layer so that ``logits`` would have had mean 0 and standard deviation 1.5 in each class."""
    scale = 1.5 / logits.std(dim=0)
    head.bias.copy_((head.bias - logits.mean(dim=0)) * scale)
    head.weight.mul_(scale[:, None])


def tiny_cards(architecture: str = ARCHITECTURE) -> dict[str, ModelCard]:
    """What ``tiny_networks`` are."""
    return {
        role: ModelCard(role=role, architecture=ANCHORNET if role == "anchornet" else architecture, classes=CLASSES)
        for role in ROLES
    }


def tiny_bundle(settings: AnchorNetSettings | None = None) -> Bundle:
    """The networks as a bundle without calibration."""
    return Bundle(
        system=settings or AnchorNetSettings(),
        networks=tiny_networks(),
        cards=tiny_cards(),
        classes=CLASSES,
        preprocessing=Preprocessing(),
    )


def tiny_cascade(settings: AnchorNetSettings | None = None, **options: Any) -> LooksCascade:
    """The networks as a cascade; options: those of anchor_cascade."""
    return anchor_cascade(settings or AnchorNetSettings(), tiny_networks(), CLASSES, **options)


def made_up_table() -> ExitTable:
    """Answers of 200 images to the tiny cascade's exits, of which later ones are better: a frontier of many points."""
    exits, random = tiny_cascade().exits, np.random.default_rng(0)
    confidence = random.uniform(0.3, 1, (200, len(exits)))
    return ExitTable(
        exits=tuple(each.name for each in exits),
        image_id=np.arange(200),
        confidence=confidence.astype(np.float32),
        prediction=(random.uniform(size=confidence.shape) > np.linspace(0.4, 0.9, len(exits))).astype(np.int32),
        cost_macs=np.tile(np.cumsum([each.macs for each in exits]), (200, 1)),
        label=np.zeros(200, np.int32),
    )


def save_tiny_models(folder: str, architecture: str = ARCHITECTURE) -> dict[str, str]:
    """The networks as the model folders that train jobs leave: name -> folder."""
    folders = {role: f"{folder}/{role}" for role in ROLES}
    for role, network in tiny_networks().items():
        save_model(folders[role], network, tiny_cards(architecture)[role])
    return folders


class LoggingClassifier(TinyClassifier):
    """Slow, and writes down what it is about to compute, so that a test can add it up whatever becomes of the process.

    One line per forward pass (rows, process id), written before it, to the file that the environment variable MACS_LOG names.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.log = os.environ.get(LOG_VARIABLE)

    def forward(self, x: Tensor) -> Tensor:
        if self.log and len(x) > 1:  # costs are measured on a single row, which is no part of a job
            with open(self.log, "a") as file:
                file.write(f"{len(x)} {os.getpid()}\n")
            for _ in range(_REPEATS):
                super().forward(x)
        return super().forward(x)


def logging_classifier(num_classes: int) -> nn.Module:
    return LoggingClassifier(num_classes)
