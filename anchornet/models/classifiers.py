"""Downstream networks by name: every torchvision classifier, every timm one, or a function of the user's own.

Shapes: N images, C classes. A classifier maps normalised images (N, 3, size, size) to logits (N, C) in training and
evaluation alike.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anchornet.models.macs import evaluation_mode

_OPTIONS: dict[str, dict[str, Any]] = {
    # Auxiliary heads give several outputs in training and need 224 px or more; released weights want transform_input.
    "googlenet": {"aux_logits": False, "init_weights": True, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": True, "transform_input": True},
}


TIMM = "timm:"
"""How names of timm's networks begin."""


def names() -> list[str]:
    """Names of the torchvision classification networks that build_classifier knows, sorted."""
    import torchvision  # here, as in build_classifier: importing it takes longer than torch, and most processes need it not

    return sorted(torchvision.models.list_models(module=torchvision.models))


def build_classifier(name: str, num_classes: int) -> nn.Module:
    """A freshly initialised network with logits (N, num_classes), in training mode.

    name: one of names(), "timm:NAME" (timm must be installed), or "module:function", called with num_classes; the module
    must be importable where the network runs.
    Inception and GoogLeNet come without auxiliary heads. What sizes of image a network takes is check_input's business.
    Raises ValueError for an unknown name (with the nearest one), a module or function that is not there, num_classes
    < 1, or a function that gives something else than a torch module.
    """
    if num_classes < 1:
        raise ValueError(f"classifier {name!r} needs num_classes >= 1, got {num_classes}; give the number of labels")
    check_architecture(name)
    if name.startswith(TIMM):
        import timm

        created: nn.Module = timm.create_model(_timm_name(name), pretrained=False, num_classes=num_classes)
        return created
    if ":" in name:
        return _build_own(name, num_classes)
    import torchvision

    options = _OPTIONS.get(name, {})
    module: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    return module


def check_architecture(name: str) -> None:
    """Returns only if ``build_classifier`` knows ``name``; nothing is built, a module of the user's own is imported.

    Raises ValueError as build_classifier does.
    """
    if name.startswith(TIMM):
        _timm_name(name)
    elif ":" in name:
        _own_function(name)
    elif name not in names():
        near = _nearest(name, names())
        raise ValueError(f"unknown classifier {name!r}{near}; give a torchvision name, timm:NAME or module:function")


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


def _timm_name(name: str) -> str:
    """What timm calls it. Raises ValueError when timm is not installed, or has nothing of this name."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"classifier {name!r} needs timm, which is not installed here ({error}); run pip install 'anchornet[timm]', "
            f"on every machine of the cluster"
        ) from error
    known = timm.list_models() + timm.list_pretrained()
    own = name.removeprefix(TIMM)
    if own not in known:
        raise ValueError(f"classifier {name!r}: timm {timm.__version__} has none of this name{_nearest(own, known)}")
    return own


def _own_function(name: str) -> Callable[[int], Any]:
    """What ``module:function`` names. Raises ValueError when the module does not import, whatever it raises."""
    module_name, _, function_name = name.partition(":")
    if not (module_name and function_name):
        raise ValueError(f"classifier {name!r} must be module:function; give both names")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        reason = f"cannot import {module_name!r} ({error}); put it on the Python path"
        raise ValueError(f"classifier {name!r}: {reason}") from error
    except Exception as error:  # a user's module may raise anything
        reason = f"importing {module_name!r} ends in {type(error).__name__}: {error}; mend the module"
        raise ValueError(f"classifier {name!r}: {reason}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        near = _nearest(function_name, [key for key in vars(module) if callable(vars(module)[key])])
        raise ValueError(f"classifier {name!r}: no function {function_name!r} there{near}; correct the name")
    own: Callable[[int], Any] = function
    return own


def _build_own(name: str, num_classes: int) -> nn.Module:
    function = _own_function(name)
    try:
        built = function(num_classes)
    except Exception as error:  # a user's function may raise anything
        raise ValueError(
            f"classifier {name!r}: called with {num_classes} classes it ends in {type(error).__name__}: {error}; mend it"
        ) from error
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"classifier {name!r} gave a {type(built).__name__}; the function must return a torch.nn.Module"
        )
    return built


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f", did you mean {near[0]!r}?" if near else ""
