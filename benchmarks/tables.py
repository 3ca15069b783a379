"""Exit tables for benchmarks: read from a file of confidences, or made up with similar statistics.

Shapes: N images, K = 5 exits: the shrunken image, then four patches, of AnchorNet with DenseNet-201.
"""

from __future__ import annotations

import numpy as np

from anchornet.budget.exit_table import ExitTable

EXITS = ("glance", "patch1", "patch2", "patch3", "patch4")
EXIT_MACS = (789_800_000, 850_300_000, 789_800_000, 789_800_000, 789_800_000)
"""Marginal multiply-adds: 0.7898 G per look, and AnchorNet's 0.0605 G before the first patch."""


def make_table(confidence_NK: np.ndarray, correct_NK: np.ndarray) -> ExitTable:
    """Exit table of the first five columns; class 0 is true everywhere, class 1 stands for every wrong answer."""
    num_images, num_exits = len(confidence_NK), len(EXITS)
    cost_K = np.cumsum(np.array(EXIT_MACS, np.int64))
    return ExitTable(
        exits=EXITS,
        image_id=np.arange(num_images),
        confidence=confidence_NK[:, :num_exits],
        prediction=(~correct_NK[:, :num_exits]).astype(np.int32),
        cost_macs=np.tile(cost_K, (num_images, 1)),
        label=np.zeros(num_images, np.int32),
    )


def read_table(path: str) -> ExitTable:
    """Exit table of an npz file with ``confidence`` (N, >= 5) float and ``correct`` (N, >= 5) bool.

    Raises ValueError when an array is missing or too narrow.
    """
    with np.load(path) as arrays:
        missing = {"confidence", "correct"} - set(arrays.files)
        if missing or arrays["confidence"].ndim != 2 or arrays["confidence"].shape[1] < len(EXITS):
            raise ValueError(f"{path} must hold confidence and correct, each (N, >= {len(EXITS)}), got {arrays.files}")
        return make_table(arrays["confidence"], arrays["correct"].astype(bool))


def synthetic_table(num_images: int, seed: int) -> ExitTable:
    """A made-up table: each look adds evidence, confidence grows faster than accuracy, as with summed logits."""
    random = np.random.default_rng(seed)
    clarity_N1 = random.normal(1.15, 1.75, (num_images, 1))
    gain_K = np.array([0.0, 0.22, 0.28, 0.30, 0.305])
    margin_NK = clarity_N1 + gain_K + 0.55 * random.normal(size=(num_images, len(EXITS)))
    sharpness_K = np.array([1.35, 2.0, 2.6, 3.1, 3.5])
    confidence_NK = 1.0 / (1.0 + np.exp(-sharpness_K * margin_NK))
    right_NK = random.logistic(size=(num_images, 1)) * 0.45 < margin_NK - 0.1
    return make_table(np.maximum(confidence_NK, 0.02).astype(np.float32), right_NK)
