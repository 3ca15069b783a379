"""What a label job knows of each image between the exits; plain numpy, so that rows travel without torch.

Shapes: N images, P patches, T most likely classes, D values of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NO_EXIT = -1
"""Exit index of an image for which nothing has been computed yet."""


class Extras(NamedTuple):
    """What is kept of an image beside its label."""

    top_k: int = 0
    """T: most likely classes."""
    embedding: int = 0
    """D: values of the longest embedding of any exit."""


NO_EXTRAS = Extras()


@dataclass(frozen=True)
class Standing:
    """Where each of N images stands: the best label so far and what was spent on it."""

    label_id: np.ndarray
    """(N,) int32: argmax at the last exit computed; -1 when there is none yet."""
    score: np.ndarray
    """(N,) float32: max softmax at the last exit computed; -1 when there is none yet."""
    exit: np.ndarray
    """(N,) int16: the last exit computed, NO_EXIT when there is none yet."""
    macs: np.ndarray
    """(N,) int64: multiply-adds computed for the image."""
    boxes: np.ndarray
    """(N, P, 3) int16: top, left, size of each chosen patch in pixels; -1 before they are chosen."""
    top_id: np.ndarray
    """(N, T) int32: the most likely classes at the last exit computed, the likeliest first."""
    top_probability: np.ndarray
    """(N, T) float32: their softmax."""
    embedding: np.ndarray
    """(N, D) float16: what the head of the last exit's network was given; that of a shorter one fills the first places."""

    @classmethod
    def fresh(cls, num_images: int, num_boxes: int, extras: Extras = NO_EXTRAS) -> Standing:
        """The standing of images for which nothing has been computed."""
        return cls(
            label_id=np.full(num_images, -1, np.int32),
            score=np.full(num_images, -1, np.float32),
            exit=np.full(num_images, NO_EXIT, np.int16),
            macs=np.zeros(num_images, np.int64),
            boxes=np.full((num_images, num_boxes, 3), -1, np.int16),
            top_id=np.full((num_images, extras.top_k), -1, np.int32),
            top_probability=np.zeros((num_images, extras.top_k), np.float32),
            embedding=np.zeros((num_images, extras.embedding), np.float16),
        )

    @property
    def extras(self) -> Extras:
        """What is kept beside the label."""
        return Extras(self.top_id.shape[1], self.embedding.shape[1])


def merge(standing: Standing, rows: np.ndarray, part: Standing) -> Standing:
    """``standing`` with ``rows`` replaced by ``part``."""
    changed = {}
    for name in Standing.__dataclass_fields__:
        column = getattr(standing, name).copy()
        column[rows] = getattr(part, name)
        changed[name] = column
    return Standing(**changed)
