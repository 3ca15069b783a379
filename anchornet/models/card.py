"""Trained networks on disk, and the authors' own files brought into that form.

A model folder (local or s3://) holds model.yaml, the card, and weights.safetensors. Command line:

    python -m anchornet.checkpoints import --anchornet anchornet.pth --glance densenet201_resized_95_best.pth.tar \\
        --patch densenet201_patch_95_best.pth.tar --architecture densenet201 --classes classes.txt --output BUNDLE
    python -m anchornet.models.card assemble --anchornet FOLDER --glance FOLDER --patch FOLDER --output BUNDLE
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import safetensors.torch
import torch
import torchvision
import yaml
from torch import Tensor, nn

import anchornet
from anchornet.files import storage
from anchornet.models.classifiers import build_classifier, load_fitting, read_checkpoint, state_dict_in
from anchornet.models.training_settings import CascadeSettings
from anchornet.systems.anchornet.network import AnchorNet

Role = Literal["anchornet", "glance", "patch", "full"]
ANCHORNET = "anchornet"
"""The architecture name of a card whose network is AnchorNet; all others are names of build_classifier."""
CARD_FILE = "model.yaml"
WEIGHTS_FILE = "weights.safetensors"
_UNUSED_BY_AUTHORS = re.compile(r"bneck\.0\.(conv1|bn1)\.")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a network is and where it comes from.

    Raises ValueError for an unknown role, no classes, classes named twice, or an AnchorNet in another role.
    """

    role: Role
    """anchornet: proposes patches; glance: shrunken images; patch: patches; full: whole images of 224 px."""
    architecture: str
    """"anchornet", a torchvision name, or "module:function"."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=lambda: versions())

    def __post_init__(self) -> None:
        """Refuse what no network can be."""
        if self.role not in get_args(Role):
            raise ValueError(f"model card: unknown role {self.role!r}; use one of {', '.join(get_args(Role))}")
        if (self.role == "anchornet") != (self.architecture == ANCHORNET):
            raise ValueError(
                f"model card: role {self.role!r} cannot have architecture {self.architecture!r}; change one"
            )
        check_classes(self.classes)


def check_classes(classes: Sequence[str]) -> None:
    """Returns only if there are classes, all names, none of them twice; raises ValueError otherwise."""
    if not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes must be names, at least one; give one name per logit, in order")
    doubled = sorted({name for name in classes if classes.count(name) > 1}) if len(set(classes)) < len(classes) else []
    if doubled:
        raise ValueError(f"classes named twice: {', '.join(doubled[:5])}; every class needs a name of its own")


def versions() -> dict[str, str]:
    """Versions of what computes the weights: this package, torch, torchvision."""
    return {"anchornet": anchornet.__version__, "torch": str(torch.__version__), "torchvision": torchvision.__version__}


def build_network(architecture: str, num_classes: int) -> nn.Module:
    """A fresh network of a card's architecture. Raises ValueError as build_classifier."""
    return AnchorNet(num_classes) if architecture == ANCHORNET else build_classifier(architecture, num_classes)


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
    try:
        state = safetensors.torch.load(storage.read_bytes(uri))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{uri} is damaged or no safetensors file ({error}); write it again") from error
    load_fitting(module, state, uri)
    if weights_hash(module) != expected_hash:
        raise ValueError(
            f"{uri} holds other weights than those recorded beside it; restore the file or save the model again"
        )


def save_model(folder_uri: str, module: nn.Module, card: ModelCard) -> None:
    """Writes a model folder; the card comes last, so a folder without one is an interrupted save."""
    weights = save_weights(storage.join(folder_uri, WEIGHTS_FILE), module)
    write_yaml(storage.join(folder_uri, CARD_FILE), {**card_to_dict(card), "weights_hash": weights})


def load_model(folder_uri: str) -> tuple[nn.Module, ModelCard]:
    """The network of a model folder, in eval mode on the CPU, and its card.

    Raises FileNotFoundError if the folder holds no whole model, ValueError if its parts do not fit each other.
    """
    uri = storage.join(folder_uri, CARD_FILE)
    if not storage.exists(uri):
        raise FileNotFoundError(
            f"{folder_uri} holds no {CARD_FILE}, so no finished model; train one or correct the path"
        )
    content = read_yaml(uri)
    expected_hash = str(content.pop("weights_hash", ""))
    card = card_from_dict(content, uri)
    module = build_network(card.architecture, len(card.classes))
    load_weights(storage.join(folder_uri, WEIGHTS_FILE), module, expected_hash)
    return module.eval(), card


def card_to_dict(card: ModelCard) -> dict[str, Any]:
    """The card as plain values for YAML; what is no plain value (a tensor, an array) is written as its text."""
    return {key: plain(value) for key, value in asdict(card).items()}


def card_from_dict(content: Mapping[str, Any], source: str) -> ModelCard:
    """The card that card_to_dict gave; raises ValueError, naming the source, for missing or unknown entries."""
    try:
        return ModelCard(**{**content, "classes": tuple(content.get("classes", ()))})
    except TypeError as error:
        raise ValueError(f"{source} is no model card of this version ({error}); save the model again") from error


def plain(value: Any) -> Any:
    """value with tuples as lists and everything that YAML and JSON do not know as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def write_yaml(uri: str, content: Mapping[str, Any]) -> None:
    """Writes content, plain values in this order, as YAML to uri."""
    storage.write_bytes(uri, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120).encode())


def read_yaml(uri: str) -> dict[str, Any]:
    """The mapping in the YAML file at uri; raises ValueError if it holds something else."""
    try:
        content = yaml.safe_load(storage.read_bytes(uri))
    except yaml.YAMLError as error:
        raise ValueError(f"{uri} is not valid YAML ({error}); write it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{uri} must hold a mapping, got {type(content).__name__}; write it again")
    return content


def import_network(path: str, role: Role, architecture: str, classes: Sequence[str]) -> tuple[nn.Module, ModelCard]:
    """A network in eval mode, and its card, from one of the authors' files (local or s3://).

    path: a bare state dict, or the `{net, acc, epoch, optimizer}` of a training run; keys as torchvision names them.
    The 6 entries of AnchorNet that its forward pass never uses are passed over.
    Raises ValueError naming the keys that do not fit, a wrong number of classes included.
    """
    content = read_checkpoint(path)
    state = state_dict_in(content, path)
    if architecture == ANCHORNET:
        state = {key: value for key, value in state.items() if not _UNUSED_BY_AUTHORS.match(key)}
    module = build_network(architecture, len(classes))
    load_fitting(module, state, path)
    metrics: dict[str, Any] = {key: plain(content[key]) for key in ("acc", "epoch") if key in content}
    card = ModelCard(
        role=role, architecture=architecture, classes=tuple(classes), metrics=metrics, training={"imported_from": path}
    )
    return module.eval(), card


def _portable_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU, contiguous, and with tied tensors apart, as safetensors wants it."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Makes a bundle from the authors' files or from model folders; 0 if it was written, 2 if something did not fit."""
    from anchornet import bundle  # it builds on this file

    options = _parser().parse_args(argv)
    settings = {key: value for key, value in vars(options).items() if key in CascadeSettings.__annotations__}
    try:
        cascade = CascadeSettings(**{key: value for key, value in settings.items() if value is not None})
        if options.command == "import":
            classes = _read_classes(options.classes)
            names = {"anchornet": ANCHORNET, "glance": options.architecture, "patch": options.architecture}
            parts = {role: import_network(getattr(options, role), role, names[role], classes) for role in bundle.ROLES}
            bundle.save_bundle(options.output, parts, cascade)
        else:
            bundle.assemble_bundle(options.output, options.anchornet, options.glance, options.patch, cascade)
    except (ValueError, OSError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.output}; calibrate it with: python -m jobs.calibrate --config FILE")
    return 0


def _read_classes(uri: str) -> tuple[str, ...]:
    """Class names, one per line, in the order of the logits."""
    lines = storage.read_bytes(uri).decode().splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m anchornet.models.card", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    wanted = {"import": ("the authors' files", "FILE"), "assemble": ("trained model folders", "FOLDER")}
    for command, (source, metavar) in wanted.items():
        sub = commands.add_parser(command, help=f"a bundle from {source}")
        for role in ("anchornet", "glance", "patch", "output"):
            sub.add_argument(f"--{role}", required=True, metavar="FOLDER" if role == "output" else metavar)
        if command == "import":
            sub.add_argument("--architecture", required=True, help="torchvision name or module:function")
            sub.add_argument("--classes", required=True, metavar="FILE", help="one class name per line, in logit order")
        sub.add_argument("--order", choices=("anchor_first", "glance_first"))
        sub.add_argument("--anchor-exit", action=argparse.BooleanOptionalAction, default=None)
        sub.add_argument("--num-patches", type=int)
        sub.add_argument("--iou-threshold", type=float)
        sub.add_argument("--compat", action=argparse.BooleanOptionalAction, default=None)
    return parser


if __name__ == "__main__":
    from anchornet.models.card import main as entry  # the imported module, so that there is one ModelCard

    sys.exit(entry())
