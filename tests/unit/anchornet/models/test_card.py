"""Model folders: what is written comes back, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from anchornet.images.preprocess import Preprocessing
from anchornet.models.card import ModelCard, load_model, save_model
from anchornet.models.classifiers import build_classifier
from anchornet.models.weights import weights_hash
from anchornet.systems.anchornet.network import AnchorNet
from anchornet.systems.anchornet.settings import ARCHITECTURE as ANCHORNET

ARCHITECTURE = "shufflenet_v2_x0_5"
CLASSES = ("cat", "no", "1", "Ünïcode", "e5")  # YAML must not turn any of them into something else


def randomised(network: nn.Module) -> nn.Module:
    """All tensors random, running statistics too, so that a key mixed up would show."""
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) * 0.1)
    return network.eval()


def a_card(**changes: Any) -> ModelCard:
    fields = {"role": "glance", "architecture": ARCHITECTURE, "classes": CLASSES, "metrics": {"accuracy": 0.5}}
    return ModelCard(**{**fields, **changes})


@pytest.mark.parametrize("role", ["anchornet", "glance"])
def test_a_model_comes_back_as_it_was(role: str, tmp_path: Path) -> None:
    architecture = ANCHORNET if role == "anchornet" else ARCHITECTURE
    source = randomised(build_classifier(architecture, len(CLASSES))).to(memory_format=torch.channels_last)
    card = a_card(role=role, architecture=architecture, training={"epochs": 3, "lr": (0.1, 0.01)})
    save_model(str(tmp_path), source.train(), card)
    network, read = load_model(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.yaml", "weights.safetensors"]
    assert not network.training
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in network.state_dict().items())
    assert (read.role, read.classes, read.metrics) == (role, CLASSES, {"accuracy": 0.5})
    assert read.training == {"epochs": 3, "lr": [0.1, 0.01]}
    assert set(read.versions) == {"anchornet", "torch", "torchvision"}


@pytest.mark.parametrize(
    "preprocessing", [None, Preprocessing(), Preprocessing(crop=96, interpolation="bicubic", mean=(0.5,) * 3)]
)
def test_a_card_says_how_the_network_is_fed(preprocessing: Preprocessing | None, tmp_path: Path) -> None:
    save_model(str(tmp_path), build_classifier(ARCHITECTURE, len(CLASSES)), a_card(preprocessing=preprocessing))
    assert load_model(str(tmp_path))[1].preprocessing == preprocessing


@pytest.mark.s3
def test_a_model_lies_on_s3_as_well(s3_bucket: str) -> None:
    source = randomised(AnchorNet(2))
    save_model(f"{s3_bucket}/run/model", source, a_card(role="anchornet", architecture=ANCHORNET, classes=("a", "b")))
    network, _ = load_model(f"{s3_bucket}/run/model")
    assert weights_hash(network) == weights_hash(source)


def test_hash_tells_the_same_tensors_under_other_names_apart() -> None:
    layer = nn.Linear(2, 2)
    first, second = nn.Module(), nn.Module()
    first.glance, second.patch = layer, layer
    assert weights_hash(first) != weights_hash(second)


def test_hash_sees_every_value_and_name() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = weights_hash(network)
    assert weights_hash(network) == before
    network[0], network[1] = network[1], network[0]
    assert weights_hash(network) != before
    network[0], network[1] = network[1], network[0]
    with torch.no_grad():
        network[1].bias[1] += 1e-7
    assert weights_hash(network) != before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(str(tmp_path), randomised(build_classifier(ARCHITECTURE, len(CLASSES))), a_card())
    return tmp_path


def test_an_interrupted_save_is_no_model(folder: Path) -> None:
    (folder / "model.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.yaml, so no finished model"):
        load_model(str(folder))


def test_weights_of_another_save_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    save_model(str(other), randomised(build_classifier(ARCHITECTURE, len(CLASSES))), a_card())
    (other / "weights.safetensors").replace(folder / "weights.safetensors")
    with pytest.raises(ValueError, match="holds other weights than those recorded"):
        load_model(str(folder))


def test_damaged_weights_are_refused(folder: Path) -> None:
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": ""}, "the role must have a name"),
        ({"classes": []}, "classes must be names"),
        ({"classes": [1, 2]}, "classes must be names"),
        ({"classes": ["a", "a"]}, "classes named twice: a"),
        ({"classes": ["a", "b"]}, "does not fit ShuffleNetV2; wrong shape: fc.weight"),
        ({"colour": "red"}, "no model card of this version"),
        (
            {"preprocessing": {"crop": 300}},
            r"model\.yaml: preprocessing\.crop must be 1 \.\. resize \(256\) pixels, got",
        ),
        ({"preprocessing": {"side": 96}}, "unknown key 'side' at section 'preprocessing'"),
    ],
)
def test_cards_that_cannot_be_are_refused(change: dict[str, Any], message: str, folder: Path) -> None:
    card = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump({**card, **change}))
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a", "must hold a mapping, got list"), ("a: [", r"model\.yaml is not valid YAML \(")],
)
def test_cards_that_are_no_mapping_are_refused(text: str, message: str, folder: Path) -> None:
    (folder / "model.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))
