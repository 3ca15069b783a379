"""What users may choose of the cascade and of training; checked on construction, and free of torch.

``jobs/settings.py`` nests these in the configurations of its jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Order = Literal["anchor_first", "glance_first"]


@dataclass(frozen=True, kw_only=True)
class CascadeSettings:
    """How the networks are put together. Raises ValueError for values outside their range."""

    order: Order = "anchor_first"
    """anchor_first: AnchorNet sees every image; glance_first: the paper's order, AnchorNet only what the glance
    leaves."""
    anchor_exit: bool = True
    """Whether an image may leave with AnchorNet's own label."""
    num_patches: int = 4
    """Patches per image that the last exits look at, one after the other."""
    iou_threshold: float = 0.3
    """Two patches of an image overlap at most this much (intersection over union)."""
    compat: bool = False
    """Choose patches as the released code does, its corner bug included; for comparisons with published numbers."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.order not in get_args(Order):
            raise ValueError(f"cascade.order must be one of {', '.join(get_args(Order))}, got {self.order!r}")
        if self.num_patches < 1:
            raise ValueError(f"cascade.num_patches must be >= 1, got {self.num_patches}")
        if not 0 <= self.iou_threshold < 1:
            raise ValueError(f"cascade.iou_threshold must be in [0, 1), got {self.iou_threshold}")

    @property
    def num_exits(self) -> int:
        """Exits K of the cascade: glance, the patches, and AnchorNet's own if it is on."""
        return 1 + self.num_patches + int(self.anchor_exit)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What one training run does; the defaults are those of the two stages below."""

    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 256
    """Images per optimizer step, all workers together."""
    learning_rate: float = 0.1
    """Highest learning rate, the one that ``schedule`` starts from."""
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    """``step``: times ``gamma`` at each of ``milestones``; ``cosine``: half a cosine down to 0. Set once per epoch."""
    milestones: tuple[int, ...] = (30, 60, 90)
    """Epochs at which the rate falls, with ``schedule: step``."""
    gamma: float = 0.1
    """Factor of each fall."""
    warmup_epochs: int = 0
    """Epochs in which the rate climbs in equal steps to ``learning_rate``; a cosine starts after them."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of convolutions and linear layers in training (autocast); weights and the loss stay float32."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require(self.epochs >= 1, f"training.epochs must be >= 1, got {self.epochs}")
        _require(self.batch_size >= 1, f"training.batch_size must be >= 1, got {self.batch_size}")
        _require(self.learning_rate > 0, f"training.learning_rate must be > 0, got {self.learning_rate}")
        _require(0 <= self.momentum < 1, f"training.momentum must be in [0, 1), got {self.momentum}")
        _require(self.momentum > 0 or not self.nesterov, "training.nesterov needs training.momentum > 0, got 0")
        _require(self.weight_decay >= 0, f"training.weight_decay must be >= 0, got {self.weight_decay}")
        _require(self.gamma > 0, f"training.gamma must be > 0, got {self.gamma}")
        _require(
            0 <= self.warmup_epochs < self.epochs,
            f"training.warmup_epochs must be >= 0 and below training.epochs ({self.epochs}), got {self.warmup_epochs}",
        )
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, f"training.label_smoothing must be in [0, 1), got {smoothing}")


@dataclass(frozen=True, kw_only=True)
class AnchorNetTraining(TrainingSettings):
    """Stage I: AnchorNet from scratch, 100 epochs of SGD at 0.1 with Nesterov, times 0.1 at 30, 60 and 90."""


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining(TrainingSettings):
    """Stage II: a trained backbone fine-tuned for 30 epochs, cosine from 0.01, no Nesterov."""

    epochs: int = 30
    learning_rate: float = 0.01
    nesterov: bool = False
    schedule: Literal["step", "cosine"] = "cosine"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
