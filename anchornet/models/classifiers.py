"""Downstream networks by name: every torchvision classifier, or a function of the user's own.

Shapes: N images, C classes. A classifier maps normalised images (N, 3, size, size) to logits (N, C) in training and
evaluation alike.
"""

from __future__ import annotations

import difflib
import importlib
import io
import re
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from anchornet.files import storage
from anchornet.models.macs import evaluation_mode

_OPTIONS: dict[str, dict[str, Any]] = {
    # Auxiliary heads give several outputs in training and need 224 px or more; released weights want transform_input.
    "googlenet": {"aux_logits": False, "init_weights": True, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": True, "transform_input": True},
}
_AUXILIARY = re.compile(r"(aux\d|AuxLogits)\.")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
_WRAPPERS = ("net", "state_dict", "model_state_dict", "model")
_MOST_NAMED = 8


def names() -> list[str]:
    """Names of the torchvision classification networks that build_classifier knows, sorted."""
    return sorted(torchvision.models.list_models(module=torchvision.models))


def build_classifier(name: str, num_classes: int) -> nn.Module:
    """A freshly initialised network with logits (N, num_classes), in training mode.

    name: one of names(), or "module:function", called with num_classes; the module must be importable where the
    network runs.
    Inception and GoogLeNet come without auxiliary heads. What sizes of image a network takes is check_input's business.
    Raises ValueError for an unknown name (with the nearest one), a module or function that is not there, num_classes
    < 1, or a function that gives something else than a torch module.
    """
    if num_classes < 1:
        raise ValueError(f"classifier {name!r} needs num_classes >= 1, got {num_classes}; give the number of labels")
    if ":" in name:
        return _build_own(name, num_classes)
    if name not in names():
        near = _nearest(name, names())
        raise ValueError(f"unknown classifier {name!r}{near}; give a torchvision name or module:function")
    options = _OPTIONS.get(name, {})
    module: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    return module


def check_input(module: nn.Module, size: int, num_classes: int) -> None:
    """Returns only if the module maps (1, 3, size, size) to logits (1, num_classes); tried on one black image.

    Raises ValueError with the reason otherwise: vision transformers take no other size than they were made for (224).
    """
    name = type(module).__name__
    like = next(module.parameters(), torch.empty(0))
    try:
        with evaluation_mode(module), torch.no_grad():
            logits = module(torch.zeros(1, 3, size, size, device=like.device, dtype=like.dtype))
    except Exception as error:  # a user's network may raise anything; all of it means that this size does not fit
        raise ValueError(
            f"{name} cannot take {size}x{size} images ({error}); choose a convolutional network"
        ) from error
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, num_classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{name} must give logits (1, {num_classes}) for one image, got {found}; return one tensor")


def load_torchvision_weights(module: nn.Module, path: str) -> None:
    """Loads a weights file (local or s3://) into a network of build_classifier, in place; nothing but tensors is
    unpickled.

    The file's head is left out, and the module's fresh one kept, where their class counts differ. Old DenseNet names
    (`norm.1` for `norm1`), a `module.` prefix, auxiliary heads and checkpoints that hold the weights under `net` or
    `state_dict` are understood.
    Raises ValueError naming the keys that do not fit, or if the file is no weights file; FileNotFoundError if it is
    missing.
    """
    state = state_dict_in(read_checkpoint(path), path)
    own, head = module.state_dict(), _head_name(module)
    state = {_OLD_DENSENET.sub(r"\1\2.", key): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if key in own or not _AUXILIARY.match(key)}
    for key in (f"{head}.weight", f"{head}.bias"):
        if key in state and key in own and _differs_in_classes(state[key], own[key]):
            state[key] = own[key]
    load_fitting(module, state, path)


def read_checkpoint(path: str) -> dict[str, Any]:
    """What torch.save put into the file at path (local or s3://), a dict, read with weights_only=True onto the CPU.

    Raises ValueError if it is not a dict or holds anything but tensors and plain values.
    """
    data = storage.read_bytes(path)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are not its own
        raise ValueError(f"{path} is no weights file of torch or holds more than tensors; save a state dict") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict; save module.state_dict()")
    return content


def state_dict_in(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The named tensors of a checkpoint: content itself, or its `net`, `state_dict` or `model`; no `module.` prefix.

    Raises ValueError, naming the source, if there is anything but tensors where they should be.
    """
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    state = {str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state or len(state) < len(content):
        odd = sorted(str(key) for key, value in content.items() if not isinstance(value, Tensor))
        raise ValueError(f"{source} holds no state dict (no tensors: {_some(odd)}); save module.state_dict()")
    return state


def load_fitting(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads state into the module if every key and shape fits; counters of batch normalisation may be missing (old
    files).

    Raises ValueError naming the keys that are missing, unknown or of another shape; the module is then unchanged.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    wrong = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    parts = (("missing", missing), ("unknown", unknown), ("wrong shape", wrong))
    problems = [f"{kind}: {_some(keys)}" for kind, keys in parts if keys]
    if problems:
        raise ValueError(
            f"{source} does not fit {type(module).__name__}; {'; '.join(problems)}; check the architecture"
        )
    module.load_state_dict(dict(state), strict=False)


def _build_own(name: str, num_classes: int) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        reason = f"cannot import {module_name!r} ({error}); put it on the Python path"
        raise ValueError(f"classifier {name!r}: {reason}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        near = _nearest(function_name, [key for key in vars(module) if callable(vars(module)[key])])
        raise ValueError(f"classifier {name!r}: no function {function_name!r} there{near}; correct the name")
    built = function(num_classes)
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"classifier {name!r} gave a {type(built).__name__}; the function must return a torch.nn.Module"
        )
    return built


def _head_name(module: nn.Module) -> str:
    """Name of the layer that gives the logits: the last linear layer, or the last convolution where there is none."""
    for kind in (nn.Linear, nn.Conv2d):
        layers: list[str] = [name for name, layer in module.named_modules() if isinstance(layer, kind)]
        if layers:
            return layers[-1]
    return ""


def _differs_in_classes(theirs: Tensor, own: Tensor) -> bool:
    return theirs.shape[:1] != own.shape[:1] and theirs.shape[1:] == own.shape[1:]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f", did you mean {near[0]!r}?" if near else ""


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:_MOST_NAMED])
    return f"{shown} and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else shown
