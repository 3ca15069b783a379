"""The numbers of fixed seeds that a change which claims to alter nothing must leave as they are.

python -m tests.golden.make          writes tests/golden/numbers.json anew; say in the commit why they changed
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anchornet.budget.frontier import fit_frontier
from anchornet.cascade.run import run_cascade
from anchornet.images import synthetic
from anchornet.images.preprocess import preprocess
from anchornet.images.tensors import normalise
from anchornet.models import training
from anchornet.models.training_settings import FromScratch
from anchornet.systems.anchornet.network import AnchorNet
from benchmarks.tables import synthetic_table
from tests.tiny_bundle import tiny_cascade

FILE = Path(__file__).with_name("numbers.json")
NUM_IMAGES, NUM_STEPS = 64, 10


def numbers() -> dict[str, Any]:
    """Everything that is pinned, in plain JSON types."""
    generated = [synthetic.make_image(7, i) for i in range(NUM_IMAGES)]
    pixels = np.stack([preprocess(image.pixels) for image in generated])
    labels = torch.tensor([image.label for image in generated])
    return {
        "image_means": pixels.mean(axis=(1, 2, 3)).round(6).tolist(),
        "losses": losses(pixels[:16], labels[:16]),
        **labelled(pixels),
        "frontier": frontier(),
    }


def losses(pixels: np.ndarray, labels: torch.Tensor) -> list[float]:
    """Training losses of AnchorNet from seed 0, batches of 8 in turn."""
    torch.manual_seed(0)
    settings = FromScratch(learning_rate=0.02)
    network = AnchorNet(len(synthetic.CLASSES)).train()
    optimizer = training.build_optimizer(network, settings)
    images = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    found = []
    for step in range(NUM_STEPS):
        part = slice(8 * (step % 2), 8 * (step % 2) + 8)
        result = training.train_step(network, optimizer, training.whole_view, images[part], labels[part], settings)
        found.append(round(result.loss / result.views, 6))
    return found


def labelled(pixels: np.ndarray) -> dict[str, list[int]]:
    """Label, exit and multiply-adds of each image under one threshold for all exits."""
    cascade = tiny_cascade()
    thresholds = np.full((len(pixels), len(cascade.exits)), 0.9, np.float32)
    standing = run_cascade(cascade, pixels, thresholds)
    return {name: getattr(standing, name).tolist() for name in ("label_id", "exit", "macs")}


def frontier() -> list[dict[str, float | None]]:
    """Accuracy and spend error at five budgets of a frontier that is fitted on a made-up table."""
    made = fit_frontier(synthetic_table(4000, 0))
    budgets = np.linspace(made.minimum_gflops, made.maximum_gflops, 5)
    policies = [made.at(float(budget)) for budget in budgets]
    return [{"gflops": p.expected_gflops, "accuracy": p.accuracy, "spend_error": p.spend_error} for p in policies]


if __name__ == "__main__":
    FILE.write_text(json.dumps(numbers(), indent=1) + "\n")
