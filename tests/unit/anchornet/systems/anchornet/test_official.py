"""The authors' files: built here in exactly their layout, with random weights, and imported by the job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anchornet.bundle import load_bundle
from anchornet.models.classifiers import build_classifier
from anchornet.systems.anchornet.network import AnchorNet
from anchornet.systems.anchornet.official import import_network
from anchornet.systems.anchornet.settings import ARCHITECTURE as ANCHORNET
from anchornet.systems.anchornet.settings import AnchorNetSettings
from jobs import import_weights

ARCHITECTURE = "shufflenet_v2_x0_5"
CLASSES = ("cat", "no", "1", "Ünïcode", "e5")
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
    settings = {
        **{f"weights.{role}": files[role] for role in ("anchornet", "glance", "patch")},
        **{f"architectures.{role}": ARCHITECTURE for role in ("glance", "patch")},
        "classes": files["classes"],
        "bundle": output,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]


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
        str(tmp_path / "anchornet.pth"), "anchornet", ANCHORNET, [str(i) for i in range(1000)]
    )
    images = torch.randn(2, 3, 120, 120)
    with torch.no_grad():
        for found, expected in zip(network(images), source(images), strict=True):
            assert torch.equal(found, expected)
    assert (card.role, card.architecture, len(card.classes)) == ("anchornet", ANCHORNET, 1000)
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
    order = {"system__order": "glance_first", "system__skip": "[anchor]"}
    assert import_weights.main(arguments(authors_files, tmp_path / "bundle", **order)) == 0
    assert "wrote" in capsys.readouterr().out
    bundle = load_bundle(str(tmp_path / "bundle"))
    assert bundle.classes == CLASSES
    assert bundle.system == AnchorNetSettings(order="glance_first", skip=("anchor",))
    for role in ("glance", "patch"):
        saved = torch.load(authors_files[role], weights_only=True)["net"]
        assert all(torch.equal(value, saved[key]) for key, value in bundle.networks[role].state_dict().items())
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
    assert import_weights.main(arguments(authors_files, tmp_path / "bundle", **{f"weights__{role}": wrong})) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_the_wrong_architecture_names_keys(
    authors_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        import_weights.main(arguments(authors_files, tmp_path / "bundle", architectures__glance="squeezenet1_1")) == 2
    )
    assert "does not fit SqueezeNet; missing: features.0.weight" in capsys.readouterr().err


def test_a_missing_file_and_a_wrong_number_of_classes_are_refused(
    authors_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        import_weights.main(arguments(authors_files, tmp_path / "bundle", weights__glance=tmp_path / "absent.pth")) == 2
    )
    assert "absent.pth" in capsys.readouterr().err
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    assert import_weights.main(arguments(authors_files, tmp_path / "bundle", classes=tmp_path / "two.txt")) == 2
    assert "fc.weight (5, 512) instead of (2, 512)" in capsys.readouterr().err


def test_what_is_not_named_is_asked_for(
    authors_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(authors_files, tmp_path / "bundle")
    no_patch = [
        part
        for pair in zip(command[::2], command[1::2], strict=True)
        if "architectures.patch" not in pair[1]
        for part in pair
    ]
    assert import_weights.main(no_patch) == 2
    assert "architectures names none for 'patch'" in capsys.readouterr().err
    no_weights = [
        part
        for pair in zip(command[::2], command[1::2], strict=True)
        if "weights.patch" not in pair[1]
        for part in pair
    ]
    assert import_weights.main(no_weights) == 2
    assert "has the networks anchornet, glance, patch, got anchornet, glance" in capsys.readouterr().err
    (tmp_path / "none.txt").write_text("\n")
    assert import_weights.main(arguments(authors_files, tmp_path / "bundle", classes=tmp_path / "none.txt")) == 2
    assert "names no class" in capsys.readouterr().err
