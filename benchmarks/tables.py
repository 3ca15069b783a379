"""Exit tables for benchmarks: read from a file of confidences, or made up with similar statistics.

Shapes: N images, K = 5 exits: the shrunken image, then four patches, of AnchorNet with DenseNet-201; with AnchorNet as an
exit of its own, K = 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anchornet.budget.exit_table import ExitTable

EXITS = ("glance", "patch1", "patch2", "patch3", "patch4")
EXIT_MACS = (789_800_000, 850_300_000, 789_800_000, 789_800_000, 789_800_000)
"""Marginal multiply-adds: 0.7898 G per look, and AnchorNet's 0.0605 G before the first patch."""
ANCHOR_FIRST_MACS = (60_538_544, *[752_746_496] * 5)
"""The layout of label jobs: AnchorNet's own answer, then five looks."""


def make_table(
    confidence_NK: np.ndarray,
    correct_NK: np.ndarray,
    exit_macs: Sequence[int] = EXIT_MACS,
    names: Sequence[str] = EXITS,
) -> ExitTable:
    """Exit table of the first K columns; class 0 is true everywhere, class 1 stands for every wrong answer."""
    num_images, num_exits = len(confidence_NK), len(names)
    return ExitTable(
        exits=tuple(names),
        image_id=np.arange(num_images),
        confidence=confidence_NK[:, :num_exits],
        prediction=(~correct_NK[:, :num_exits]).astype(np.int32),
        cost_macs=np.tile(np.cumsum(np.array(exit_macs, np.int64)), (num_images, 1)),
        label=np.zeros(num_images, np.int32),
    )


def anchor_first(table: ExitTable, seed: int) -> ExitTable:
    """``table`` with AnchorNet as its first exit: less certain than the glance, and right on a part of what that has right."""
    random = np.random.default_rng(seed)
    glance, right = table.confidence[:, 0], table.correct[:, 0]
    blurred = glance**1.6 * np.exp(0.25 * random.normal(size=len(table)))
    confidence_NK = np.column_stack([np.clip(blurred, 0.01, 0.999), table.confidence]).astype(np.float32)
    correct_NK = np.column_stack([right & (random.random(len(table)) < np.sqrt(glance)), table.correct])
    return make_table(confidence_NK, correct_NK, ANCHOR_FIRST_MACS, ("anchor", *EXITS))


def sparse(table: ExitTable, seed: int) -> ExitTable:
    """``table`` computed by networks that skip: each exit of an image costs a part of the dense cost, 0.4 on average."""
    part_N1 = np.random.default_rng(seed).beta(2.0, 3.0, (len(table), 1))
    steps_NK = np.ceil(part_N1 * np.diff(table.cost_macs, axis=1, prepend=0)).astype(np.int64)
    return ExitTable(
        exits=table.exits,
        image_id=table.image_id,
        confidence=table.confidence,
        prediction=table.prediction,
        cost_macs=np.cumsum(steps_NK, axis=1),
        label=table.label,
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
