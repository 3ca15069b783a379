"""What users may choose of training; checked on construction, and free of torch.

The recipes of the systems nest these, and ``jobs.train`` nests the recipes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from anchornet.files.ranges import check_number


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
    """Of SGD."""
    nesterov: bool = True
    """Nesterov's form of momentum."""
    weight_decay: float = 1e-4
    """L2, on every parameter."""
    schedule: Literal["step", "cosine"] = "step"
    """``step``: times ``gamma`` at each of ``milestones``; ``cosine``: half a cosine down to 0."""
    schedule_every: Literal["epoch", "step"] = "epoch"
    """When ``schedule`` sets the rate anew; ``step`` is for runs of few epochs, which else learn at the highest rates only."""
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
        check_number("training.epochs", self.epochs, least=1)
        check_number("training.batch_size", self.batch_size, least=1)
        check_number("training.learning_rate", self.learning_rate, above=0)
        _require(0 <= self.momentum < 1, f"training.momentum must be in [0, 1), got {self.momentum}")
        _require(self.momentum > 0 or not self.nesterov, "training.nesterov needs training.momentum > 0, got 0")
        check_number("training.weight_decay", self.weight_decay, least=0)
        check_number("training.gamma", self.gamma, above=0)
        for position, epoch in enumerate(self.milestones):
            check_number(f"training.milestones[{position}]", epoch, least=1)
        _require(
            0 <= self.warmup_epochs < self.epochs,
            f"training.warmup_epochs must be >= 0 and below training.epochs ({self.epochs}), got {self.warmup_epochs}",
        )
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, f"training.label_smoothing must be in [0, 1), got {smoothing}")


@dataclass(frozen=True, kw_only=True)
class FromScratch(TrainingSettings):
    """100 epochs of SGD at 0.1 with Nesterov, times 0.1 at 30, 60 and 90: the paper's stage I."""


@dataclass(frozen=True, kw_only=True)
class FineTuning(TrainingSettings):
    """A trained backbone for 30 more epochs, cosine from 0.01, no Nesterov: the paper's stage II."""

    epochs: int = 30
    learning_rate: float = 0.01
    nesterov: bool = False
    """Nesterov's form of momentum."""
    schedule: Literal["step", "cosine"] = "cosine"
    """``step``: times ``gamma`` at each of ``milestones``; ``cosine``: half a cosine down to 0."""


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """Part of recipes whose network may also learn from what a trained one says of the same image.

    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.
    """

    teacher: str | None = None
    """Run folder of a trained classifier of whole images to learn from as well; null learns from labels alone."""
    teacher_weight: float = 0.5
    """Share of the loss that is agreement with the teacher; labels have the rest."""
    temperature: float = 2.0
    """Both networks' logits are divided by this before they are compared."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        weight = self.teacher_weight
        _require(0 < weight <= 1, f"recipe.teacher_weight must be in (0, 1], got {weight}")
        check_number("recipe.temperature", self.temperature, above=0)


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """An ordinary classifier on whole images; the reference that a cascade is compared with."""

    kind: Literal["classifier"]
    """A classifier of its own, part of no cascade."""
    architecture: str
    """torchvision's name of the network, or ``module:function`` called with the number of classes."""
    training: FineTuning = field(default_factory=FineTuning)

    implementation: ClassVar[str] = "anchornet.models.training"
    folders: ClassVar[tuple[str, ...]] = ()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
