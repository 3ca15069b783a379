"""Preprocessing as torchvision and timm say it: for every network they have, and pixel for pixel what they make."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from anchornet.images.preprocess import Geometry, Preprocessing
from anchornet.images.tensors import normalise
from anchornet.models.classifiers import build_classifier, names
from anchornet.models.metadata import _of_timm, known_preprocessing

NOTHING = nn.Identity()
RGB = np.random.default_rng(0).integers(0, 256, (301, 411, 3), dtype=np.uint8)


def fed(preprocessing: Preprocessing) -> torch.Tensor:
    """(3, side, side): what a network gets of RGB."""
    return normalise(torch.from_numpy(preprocessing(RGB)).permute(2, 0, 1), preprocessing)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b1", "vit_b_16", "swin_v2_t", "inception_v3", "googlenet"])
def test_a_network_of_torchvision_is_fed_as_torchvision_does(name: str) -> None:
    known = known_preprocessing(name, NOTHING)
    assert known is not None
    expected = torchvision.models.get_model_weights(name).DEFAULT.transforms()(Image.fromarray(RGB))
    torch.testing.assert_close(fed(known.preprocessing), expected, rtol=0, atol=1e-6)


def test_torchvision_says_it_of_every_classifier() -> None:
    for name in names():
        known = known_preprocessing(name, NOTHING)
        assert known is not None
        assert known.source.startswith("torchvision's IMAGENET1K")


@pytest.mark.parametrize(
    ("path", "resize", "source"),
    [
        ("s3://b/resnet50-0676ba61.pth", 256, "torchvision's IMAGENET1K_V1"),
        ("/w/resnet50-11ad3fa6.pth", 232, "torchvision's IMAGENET1K_V2"),
        ("mine.pth", 232, "torchvision's IMAGENET1K_V2"),
        ("", 232, "torchvision's IMAGENET1K_V2"),
    ],
)
def test_of_several_files_for_one_network_the_name_tells(path: str, resize: int, source: str) -> None:
    known = known_preprocessing("resnet50", NOTHING, path)
    assert known == (Preprocessing(resize=resize), source)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t.c3_in1k", "vit_tiny_patch16_224"])
def test_a_network_of_timm_is_fed_as_timm_does(name: str) -> None:
    module = build_classifier(f"timm:{name}", 4)
    known = known_preprocessing(f"timm:{name}", module)
    assert known is not None
    assert known.source == f"timm {timm.__version__}"
    content = timm.data.resolve_model_data_config(module)
    expected = timm.data.create_transform(**content, is_training=False)(Image.fromarray(RGB))
    torch.testing.assert_close(fed(known.preprocessing), expected, rtol=0, atol=1e-6)


def test_of_an_own_function_nobody_says() -> None:
    assert known_preprocessing("tests.small_networks:quick", NOTHING) is None


CONTENT = {
    "input_size": (3, 96, 96),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
}


def test_timms_share_of_the_crop_is_cut_to_whole_pixels() -> None:
    made = _of_timm("timm:any", {**CONTENT, "crop_mode": "squash", "crop_pct": 0.9})
    assert made.geometry == Geometry(resize=106, crop=96, interpolation="bicubic", keep_aspect=False)


@pytest.mark.parametrize("change", [{"crop_mode": "border"}, {"input_size": (1, 96, 96)}, {"input_size": (3, 96, 128)}])
def test_what_is_not_made_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"timm:any wants .* are made; choose another network"):
        _of_timm("timm:any", {**CONTENT, "crop_mode": "center", **change})
