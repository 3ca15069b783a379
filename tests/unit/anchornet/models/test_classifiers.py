"""Downstream networks by name, and weights files from disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from anchornet.models import classifiers
from anchornet.models.classifiers import build_classifier, check_input
from anchornet.models.weights import load_torchvision_weights


@pytest.mark.parametrize(
    "name",
    [
        "googlenet",
        "inception_v3",
        "swin_t",
        "squeezenet1_1",
        "shufflenet_v2_x0_5",
        "mobilenet_v3_small",
        "efficientnet_b0",
    ],
)
def test_torchvision_networks_take_patches_and_any_number_of_classes(name: str) -> None:
    with torch.device("meta"):
        check_input(build_classifier(name, 7), 95, 7)


def test_every_torchvision_classifier_is_known() -> None:
    known = classifiers.names()
    assert {"resnet50", "densenet201", "regnet_y_800mf", "vit_b_16", "mobilenet_v2", "efficientnet_b3"} <= set(known)
    assert not any("quantized" in name or "fcn" in name or "raft" in name for name in known)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_no_auxiliary_outputs_in_training(name: str) -> None:
    with torch.device("meta"):
        network = build_classifier(name, 3)
        assert network.training
        assert network(torch.zeros(2, 3, 95, 95)).shape == (2, 3)


def test_own_function() -> None:
    network = build_classifier(f"{__name__}:tiny", 4)
    assert isinstance(network, nn.Sequential)
    check_input(network, 32, 4)


def tiny(num_classes: int) -> nn.Module:
    """A user's own network; its head is called 1."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", "unknown classifier 'resnet5', did you mean 'resnet50'"),
        ("qqqq", "unknown classifier 'qqqq'; give a torchvision name"),
        ("no_such_module_here:net", "cannot import 'no_such_module_here'"),
        ("json:loadz", "no function 'loadz' there, did you mean 'load'"),
        ("json:", "classifier 'json:' must be module:function; give both names"),
        (":net", "classifier ':net' must be module:function; give both names"),
        ("math:sqrt", "gave a float; the function must return a torch.nn.Module"),
        ("json:loads", r"called with \d+ classes it ends in TypeError: .*; mend it"),
        ("builtins:str", "gave a str; the function must return a torch.nn.Module"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_classifier(name, 3)


def test_no_classes_are_refused() -> None:
    with pytest.raises(
        ValueError, match="classifier 'resnet18' needs num_classes >= 1, got 0; give the number of labels"
    ):
        build_classifier("resnet18", 0)


def test_networks_that_cannot_take_the_size_are_refused_with_the_reason() -> None:
    vit = torchvision.models.VisionTransformer(224, 16, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)
    with pytest.raises(ValueError, match=r"VisionTransformer cannot take 95x95 images \(Wrong image height"):
        check_input(vit, 95, 1000)
    assert vit.training


def test_wrong_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must give logits \(1, 5\) for one image, got \(1, 4\)"):
        check_input(tiny(4), 32, 5)


def small_densenet(num_classes: int) -> nn.Module:
    return torchvision.models.DenseNet(4, (2, 2), 8, num_classes=num_classes)


def saved(state: object, folder: Path) -> str:
    path = folder / "weights.pth"
    torch.save(state, path)
    return str(path)


def old_name(key: str) -> str:
    """The key as files from before torchvision 0.3 spell it."""
    for part in ("norm", "conv"):
        for number in "12":
            key = key.replace(f"{part}{number}.", f"{part}.{number}.") if "denselayer" in key else key
    return key


def same(first: nn.Module, second: nn.Module, but: str = "-") -> bool:
    own = second.state_dict()
    return all(torch.equal(value, own[key]) for key, value in first.state_dict().items() if not key.startswith(but))


@pytest.mark.parametrize("wrapper", [None, "net", "state_dict", "model"])
def test_loads_plain_and_wrapped_files(wrapper: str | None, tmp_path: Path) -> None:
    source, target = small_densenet(5), small_densenet(5)
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    load_torchvision_weights(target, saved(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path))
    assert same(source, target)


def test_safetensors_are_understood_as_well(tmp_path: Path) -> None:
    source, target = small_densenet(5), small_densenet(5)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({f"module.{key}": value for key, value in source.state_dict().items()}, path)
    load_torchvision_weights(target, str(path))
    assert same(source, target)
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged or no safetensors file"):
        load_torchvision_weights(target, str(path))


def test_old_densenet_names_are_understood(tmp_path: Path) -> None:
    source, target = small_densenet(5), small_densenet(5)
    state = {old_name(key): value for key, value in source.state_dict().items() if "num_batches" not in key}
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    load_torchvision_weights(target, saved(state, tmp_path))
    assert same(source, target)


def test_head_is_kept_fresh_where_class_counts_differ(tmp_path: Path) -> None:
    source, target = small_densenet(1000), small_densenet(5)
    fresh = target.classifier.weight.clone()
    load_torchvision_weights(target, saved(source.state_dict(), tmp_path))
    assert same(target, source, but="classifier")
    assert torch.equal(target.classifier.weight, fresh)


def test_a_head_that_differs_in_more_than_its_classes_is_refused(tmp_path: Path) -> None:
    target = small_densenet(5)
    state = {**small_densenet(7).state_dict(), "classifier.weight": torch.zeros(7, 3)}
    with pytest.raises(ValueError, match=r"wrong shape: classifier\.weight \(7, 3\) instead of"):
        load_torchvision_weights(target, saved(state, tmp_path))


def test_a_convolution_as_head_is_found(tmp_path: Path) -> None:
    source, target = build_classifier("squeezenet1_1", 10), build_classifier("squeezenet1_1", 3)
    load_torchvision_weights(target, saved(source.state_dict(), tmp_path))
    assert same(target, source, but="classifier")


def test_auxiliary_heads_in_the_file_are_left_out(tmp_path: Path) -> None:
    target = small_densenet(5)
    state = {**small_densenet(5).state_dict(), "aux1.fc1.weight": torch.zeros(2), "AuxLogits.fc.bias": torch.zeros(2)}
    load_torchvision_weights(target, saved(state, tmp_path))


def test_keys_that_do_not_fit_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    target = small_densenet(5)
    before = small_densenet(5)
    before.load_state_dict(target.state_dict())
    state = {
        **small_densenet(5).state_dict(),
        "layer9.weight": torch.zeros(2),
        "features.conv0.weight": torch.zeros(8, 3, 5, 5),
    }
    del state["features.norm0.weight"]
    with pytest.raises(
        ValueError, match=r"missing: features.norm0.weight; unknown: layer9.weight; wrong shape: features.conv0"
    ) as error:
        load_torchvision_weights(target, saved(state, tmp_path))
    assert "(8, 3, 5, 5) instead of (8, 3, 7, 7)" in str(error.value)
    assert same(target, before)


def test_long_lists_of_keys_are_cut(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown: .* and \d+ more; check the architecture"):
        load_torchvision_weights(tiny(3), saved(small_densenet(5).state_dict(), tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list, not a state dict"),
        ({"weight": 3}, r"holds no state dict \(no tensors: weight\)"),
        ({"weight": torch.zeros(1), "epoch": 3}, r"holds no state dict \(no tensors: epoch\)"),
        ({}, "holds no state dict"),
        ({"weight": Path("here")}, "no weights file of torch or holds more than tensors"),
    ],
)
def test_other_contents_are_refused(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_torchvision_weights(tiny(3), saved(content, tmp_path))


def test_files_that_are_none_of_torchs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not a weights file")
    with pytest.raises(ValueError, match="no weights file of torch"):
        load_torchvision_weights(tiny(3), str(path))
    with pytest.raises(FileNotFoundError):
        load_torchvision_weights(tiny(3), str(tmp_path / "missing.pth"))


def test_a_network_of_timm_is_built_by_its_name() -> None:
    network = build_classifier("timm:mobilenetv3_small_050", 5).eval()
    check_input(network, 64, 5)


def test_an_unknown_name_of_timm_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"timm [0-9.]+ has none of this name, did you mean 'resnet18'\?"):
        build_classifier("timm:resnet18x", 5)


def test_without_timm_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs timm, which is not installed here .*pip install 'anchornet\[timm\]'"):
        build_classifier("timm:resnet18", 5)
