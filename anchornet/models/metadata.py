"""What torchvision and timm say of how their networks are fed. Nothing is downloaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from torch import nn

from anchornet.images.preprocess import CHANNELS, Interpolation, Preprocessing
from anchornet.models.classifiers import TIMM


class Known(NamedTuple):
    """Preprocessing of a network, and who says so."""

    preprocessing: Preprocessing
    source: str


def known_preprocessing(architecture: str, module: nn.Module, weights: str = "") -> Known | None:
    """How a network of build_classifier is fed at test time; None for a ``module:function``, of which nobody says.

    weights: path of its weights file. torchvision has several files for one network, with preprocessing of their own: the
    one that this file is called after counts, else that of its best weights (``DEFAULT``). Raises ValueError for timm's
    few networks whose preprocessing is of a kind that this project does not make.
    """
    if architecture.startswith(TIMM):
        import timm
        from timm.data.config import resolve_model_data_config

        content = resolve_model_data_config(module)
        return Known(_of_timm(architecture, content), f"timm {timm.__version__}")
    if ":" in architecture:
        return None
    return _of_torchvision(architecture, weights)


def _of_torchvision(name: str, weights: str) -> Known:
    import torchvision  # here: importing it takes longer than torch, and most processes need it not

    entries = torchvision.models.get_model_weights(name)
    file = weights.rpartition("/")[2]
    entry = next((each for each in entries if each.url.rpartition("/")[2] == file), entries.DEFAULT)
    preset = entry.transforms()
    preprocessing = Preprocessing(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        interpolation=cast(Interpolation, preset.interpolation.value),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
    return Known(preprocessing, f"torchvision's {entry.name}")


def _of_timm(architecture: str, content: Mapping[str, Any]) -> Preprocessing:
    """timm's own arithmetic: the picture is resized to side / crop_pct, cut to whole pixels."""
    channels, height, width = content["input_size"]
    mode = content["crop_mode"]
    if channels != CHANNELS or height != width or mode not in ("center", "squash"):
        raise ValueError(
            f"{architecture} wants {channels} x {height} x {width} with crop mode {mode!r}, only {CHANNELS} channels, squares "
            f"and the modes center and squash are made; choose another network"
        )
    return Preprocessing(
        resize=math.floor(height / content["crop_pct"]),
        crop=height,
        interpolation=content["interpolation"],
        keep_aspect=mode == "center",
        mean=tuple(content["mean"]),
        std=tuple(content["std"]),
    )
