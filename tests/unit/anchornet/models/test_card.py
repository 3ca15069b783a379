"""Model folders, and the authors' files: built here in exactly their layout, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from anchornet.bundle import load_bundle
from anchornet.models import card as checkpoints
from anchornet.models.card import ModelCard, import_network, load_model, save_model, weights_hash
from anchornet.models.classifiers import build_classifier
from anchornet.systems.anchornet.network import AnchorNet

ARCHITECTURE = "shufflenet_v2_x0_5"
CLASSES = ("cat", "no", "1", "Ünïcode", "e5")  # YAML must not turn any of them into something else
AUTHORS_ENTRIES = 164
AUTHORS_PARAMETERS = 674_984


def randomised(network: nn.Module) -> nn.Module:
    """All tensors random, running statistics too, so that a key mixed up would show."""
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) * 0.1)
    return network.eval()


def authors_state(network: AnchorNet) -> dict[str, torch.Tensor]:
    """The state dict as the authors' class has it: with the first block's expansion, which its forward pass skips."""
    unused = {"bneck.0.conv1.weight": torch.randn(16, 16, 1, 1), "bneck.0.bn1.num_batches_tracked": torch.tensor(7)}
    for name in ("weight", "bias", "running_mean", "running_var"):
        unused[f"bneck.0.bn1.{name}"] = torch.randn(16)
    return {**network.state_dict(), **unused}


def training_checkpoint(network: nn.Module) -> dict[str, Any]:
    """What the authors' second stage saves."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    return {"net": network.state_dict(), "acc": 70.38, "epoch": 29, "optimizer": optimizer.state_dict()}


@pytest.fixture(scope="module")
def authors_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths of the three files, of the class names, and the networks that were saved, for 5 classes."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("authors")
    torch.save(authors_state(randomised(AnchorNet(len(CLASSES)))), folder / "anchornet.pth")
    for role in ("glance", "patch"):
        torch.save(
            training_checkpoint(randomised(build_classifier(ARCHITECTURE, len(CLASSES)))), folder / f"{role}.pth.tar"
        )
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return {path.name.split(".")[0]: path for path in folder.iterdir()}


def arguments(files: dict[str, Path], output: Path, **changes: Any) -> list[str]:
    paths = {
        **{role: files[role] for role in ("anchornet", "glance", "patch", "classes")},
        "architecture": ARCHITECTURE,
    }
    options = {**paths, "output": output, **changes}
    return ["import", *(text for name, value in options.items() for text in (f"--{name}", str(value)))]


def test_the_authors_layout_has_164_entries() -> None:
    state = authors_state(AnchorNet(1000))
    assert len(state) == AUTHORS_ENTRIES
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(value.numel() for key, value in state.items() if not key.endswith(buffers)) == AUTHORS_PARAMETERS
    assert sum(value.numel() for key, value in state.items() if key.endswith(buffers)) == 3_414


def test_imported_anchornet_gives_the_saved_networks_outputs(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = randomised(AnchorNet(1000))
    torch.save(authors_state(source), tmp_path / "anchornet.pth")
    network, card = import_network(
        str(tmp_path / "anchornet.pth"), "anchornet", "anchornet", [str(i) for i in range(1000)]
    )
    images = torch.randn(2, 3, 120, 120)
    with torch.no_grad():
        for found, expected in zip(network(images), source(images), strict=True):
            assert torch.equal(found, expected)
    assert (card.role, card.architecture, len(card.classes)) == ("anchornet", "anchornet", 1000)
    assert not network.training


def test_imported_classifier_gives_the_saved_networks_outputs(tmp_path: Path) -> None:
    source = randomised(build_classifier(ARCHITECTURE, len(CLASSES)))
    path = tmp_path / "densenet201_resized_95_best.pth.tar"
    torch.save(training_checkpoint(source), path)
    network, card = import_network(str(path), "glance", ARCHITECTURE, CLASSES)
    images = torch.randn(1, 3, 95, 95)
    with torch.no_grad():
        assert torch.equal(network(images), source(images))
    assert card.metrics == {"acc": 70.38, "epoch": 29}


def test_import_writes_a_bundle(
    authors_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        checkpoints.main(
            [*arguments(authors_files, tmp_path / "bundle"), "--order", "glance_first", "--no-anchor-exit"]
        )
        == 0
    )
    assert "wrote" in capsys.readouterr().out
    bundle = load_bundle(str(tmp_path / "bundle"))
    assert bundle.classes == CLASSES
    assert (bundle.settings.order, bundle.settings.anchor_exit, bundle.settings.num_patches) == (
        "glance_first",
        False,
        4,
    )
    for role, network in (("glance", bundle.glance), ("patch", bundle.patch)):
        saved = torch.load(authors_files[role], weights_only=True)["net"]
        assert all(torch.equal(value, saved[key]) for key, value in network.state_dict().items())
    assert bundle.cards["patch"].metrics["acc"] == 70.38


def broken(path: Path, change: Callable[[dict[str, Any]], Any], folder: Path) -> Path:
    """A copy of the file after change."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, folder / "broken.pth")
    return folder / "broken.pth"


@pytest.mark.parametrize(
    ("role", "change", "message"),
    [
        ("anchornet", lambda state: state.pop("exp_conv.bias"), "missing: exp_conv.bias"),
        ("anchornet", lambda state: state.update({"head.weight": torch.zeros(1)}), "unknown: head.weight"),
        (
            "anchornet",
            lambda state: state.update({"fc.weight": torch.zeros(9, 512)}),
            "fc.weight (9, 512) instead of (5, 512)",
        ),
        ("glance", lambda content: content["net"].pop("conv1.0.weight"), "missing: conv1.0.weight"),
        ("patch", lambda content: content.pop("net"), "holds no state dict"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_key(
    role: str, change: Callable[[dict[str, Any]], Any], message: str, authors_files: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    wrong = broken(authors_files[role], change, tmp_path)
    assert checkpoints.main(arguments(authors_files, tmp_path / "bundle", **{role: wrong})) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_the_wrong_architecture_names_keys(
    authors_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoints.main(arguments(authors_files, tmp_path / "bundle", architecture="squeezenet1_1")) == 2
    assert "does not fit SqueezeNet; missing: features.0.weight" in capsys.readouterr().err


def test_a_missing_file_and_a_wrong_number_of_classes_are_refused(
    authors_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoints.main(arguments(authors_files, tmp_path / "bundle", glance=tmp_path / "absent.pth")) == 2
    assert "absent.pth" in capsys.readouterr().err
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    assert checkpoints.main(arguments(authors_files, tmp_path / "bundle", classes=tmp_path / "two.txt")) == 2
    assert "fc.weight (5, 512) instead of (2, 512)" in capsys.readouterr().err


def a_card(**changes: Any) -> ModelCard:
    fields = {"role": "glance", "architecture": ARCHITECTURE, "classes": CLASSES, "metrics": {"accuracy": 0.5}}
    return ModelCard(**{**fields, **changes})


@pytest.mark.parametrize("role", ["anchornet", "glance"])
def test_a_model_comes_back_as_it_was(role: str, tmp_path: Path) -> None:
    architecture = "anchornet" if role == "anchornet" else ARCHITECTURE
    source = randomised(checkpoints.build_network(architecture, len(CLASSES))).to(memory_format=torch.channels_last)
    card = a_card(role=role, architecture=architecture, training={"epochs": 3, "lr": (0.1, 0.01)})
    save_model(str(tmp_path), source.train(), card)
    network, read = load_model(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.yaml", "weights.safetensors"]
    assert not network.training
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in network.state_dict().items())
    assert (read.role, read.classes, read.metrics) == (role, CLASSES, {"accuracy": 0.5})
    assert read.training == {"epochs": 3, "lr": [0.1, 0.01]}
    assert set(read.versions) == {"anchornet", "torch", "torchvision"}


@pytest.mark.s3
def test_a_model_lies_on_s3_as_well(s3_bucket: str) -> None:
    source = randomised(AnchorNet(2))
    save_model(f"{s3_bucket}/run/model", source, a_card(role="anchornet", architecture="anchornet", classes=("a", "b")))
    network, _ = load_model(f"{s3_bucket}/run/model")
    assert weights_hash(network) == weights_hash(source)


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
        ({"role": "nose"}, "unknown role 'nose'"),
        ({"role": "anchornet"}, "role 'anchornet' cannot have architecture"),
        ({"classes": []}, "classes must be names"),
        ({"classes": [1, 2]}, "classes must be names"),
        ({"classes": ["a", "a"]}, "classes named twice: a"),
        ({"classes": ["a", "b"]}, "does not fit ShuffleNetV2; wrong shape: fc.weight"),
        ({"colour": "red"}, "no model card of this version"),
    ],
)
def test_cards_that_cannot_be_are_refused(change: dict[str, Any], message: str, folder: Path) -> None:
    card = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump({**card, **change}))
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))


@pytest.mark.parametrize(("text", "message"), [("- a", "must hold a mapping, got list"), ("a: [", "not valid YAML")])
def test_cards_that_are_no_mapping_are_refused(text: str, message: str, folder: Path) -> None:
    (folder / "model.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))
