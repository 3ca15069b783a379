"""In which precision a network learns, and how its rate climbs and falls, epoch by epoch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from anchornet.models.training import arithmetic, learning_rate
from anchornet.models.training_settings import TrainingSettings


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_layers_compute_in_the_precision_that_was_set_and_keep_their_weights(
    precision: str, dtype: torch.dtype
) -> None:
    layer = nn.Linear(4, 2)
    with arithmetic(torch.device("cpu"), precision):
        assert layer(torch.ones(1, 4)).dtype == dtype
    assert layer(torch.ones(1, 4)).dtype == layer.weight.dtype == torch.float32


def rates(settings: TrainingSettings) -> list[float]:
    return [learning_rate(settings, epoch) for epoch in range(settings.epochs)]


def test_a_milestone_at_the_end_of_the_warm_up_counts() -> None:
    settings = TrainingSettings(epochs=4, learning_rate=0.3, warmup_epochs=2, schedule="step", milestones=(2,))
    assert rates(settings) == pytest.approx([0.1, 0.2, 0.03, 0.03])


@pytest.mark.parametrize("schedule", ["step", "cosine"])
@pytest.mark.parametrize("warmup_epochs", [0, 1, 3])
def test_a_rate_climbs_to_its_highest_and_never_again(schedule: str, warmup_epochs: int) -> None:
    settings = TrainingSettings(
        epochs=9,
        learning_rate=0.4,
        warmup_epochs=warmup_epochs,
        schedule=schedule,
        milestones=(5, 7),  # type: ignore[arg-type]
    )
    found = rates(settings)
    climb, fall = found[: warmup_epochs + 1], found[warmup_epochs:]
    assert found[warmup_epochs] == pytest.approx(0.4)
    assert all(a < b for a, b in itertools.pairwise(climb))
    assert all(a >= b for a, b in itertools.pairwise(fall))
    assert min(found) > 0
