"""Weights of a network: read from files, made to fit, written as safetensors with a hash.

Nothing but tensors is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from anchornet.files import storage

_AUXILIARY = re.compile(r"(aux\d|AuxLogits)\.")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
_WRAPPERS = ("net", "state_dict", "model_state_dict", "model")
_MOST_NAMED = 8


def weights_hash(module: nn.Module) -> str:
    """sha256 (hex) over name, type, shape and bytes of every tensor of the state dict, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(_portable_state(module).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(uri: str, module: nn.Module) -> str:
    """Writes the module's tensors as safetensors to uri and returns their weights_hash."""
    storage.write_bytes(uri, safetensors.torch.save(_portable_state(module)))
    return weights_hash(module)


def load_weights(uri: str, module: nn.Module, expected_hash: str) -> None:
    """Loads the safetensors at uri into the module, in place.

    Raises FileNotFoundError if there are none, ValueError naming the keys that do not fit, or if they are not the
    weights whose hash is expected.
    """
    load_fitting(module, _read_safetensors(uri), uri)
    if weights_hash(module) != expected_hash:
        raise ValueError(
            f"{uri} holds other weights than those recorded beside it; restore the file or save the model again"
        )


def load_torchvision_weights(module: nn.Module, path: str) -> None:
    """Loads a weights file (local or s3://) into a network of build_classifier, in place; nothing but tensors is
    unpickled.

    The file's head is left out, and the module's fresh one kept, where their class counts differ; what else is understood
    is said at :func:`read_weights`.
    Raises ValueError naming the keys that do not fit, or if the file is no weights file; FileNotFoundError if it is
    missing.
    """
    state, own = read_weights(module, path), module.state_dict()
    for key in head_keys(module):
        if key in state and key in own and _differs_in_classes(state[key], own[key]):
            state[key] = own[key]
    load_fitting(module, state, path)


def read_weights(module: nn.Module, path: str) -> dict[str, Tensor]:
    """The tensors of a weights file (local or s3://) by the names of a network of build_classifier, not yet loaded.

    A file of safetensors, by its ending, or one of torch, of which nothing but tensors is unpickled. Old DenseNet names
    (`norm.1` for `norm1`), a `module.` prefix, auxiliary heads and checkpoints that hold the weights under `net` or
    `state_dict` are understood. Raises ValueError if the file is no weights file, FileNotFoundError if it is missing.
    """
    if path.endswith(".safetensors"):
        state = {key.removeprefix("module."): value for key, value in _read_safetensors(path).items()}
    else:
        state = state_dict_in(read_checkpoint(path), path)
    own = module.state_dict()
    state = {_OLD_DENSENET.sub(r"\1\2.", key): value for key, value in state.items()}
    return {key: value for key, value in state.items() if key in own or not _AUXILIARY.match(key)}


def head_keys(module: nn.Module) -> tuple[str, str]:
    """Names of the weight and the bias of the layer that gives the logits; their first axis is the classes."""
    head = _head_name(module)
    return f"{head}.weight", f"{head}.bias"


def _read_safetensors(uri: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(storage.read_bytes(uri))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{uri} is damaged or no safetensors file ({error}); write it again") from error


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


def _portable_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU, contiguous, and with tied tensors apart, as safetensors wants it."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}


def _head_name(module: nn.Module) -> str:
    """Name of the layer that gives the logits: the last linear layer, or the last convolution where there is none."""
    for kind in (nn.Linear, nn.Conv2d):
        layers: list[str] = [name for name, layer in module.named_modules() if isinstance(layer, kind)]
        if layers:
            return layers[-1]
    return ""


def _differs_in_classes(theirs: Tensor, own: Tensor) -> bool:
    return theirs.shape[:1] != own.shape[:1] and theirs.shape[1:] == own.shape[1:]


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:_MOST_NAMED])
    return f"{shown} and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else shown
