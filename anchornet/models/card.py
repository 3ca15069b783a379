"""A trained network on disk: a model folder (local or s3://) of model.yaml, the card, and weights.safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from torch import nn

import anchornet
from anchornet.files import config, storage
from anchornet.files.documents import plain, read_yaml, write_yaml
from anchornet.images.preprocess import Preprocessing
from anchornet.models.classifiers import build_classifier
from anchornet.models.weights import load_weights, save_weights

CARD_FILE = "model.yaml"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a network is and where it comes from.

    Raises ValueError for a role without a name, no classes, or classes named twice.
    """

    role: str
    """What it was trained for, in the words of its system, such as ``glance``."""
    architecture: str
    """A torchvision name, ``timm:NAME``, or ``module:function``."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    preprocessing: Preprocessing | None = None
    """From a whole picture to what the network is fed; None for a network that its system feeds with something else."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=lambda: versions())

    def __post_init__(self) -> None:
        """Refuse what no network can be."""
        if not self.role:
            raise ValueError("model card: the role must have a name; give the one that the system expects")
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
    return {"anchornet": anchornet.__version__, **{name: version(name) for name in ("torch", "torchvision")}}


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
    module = build_classifier(card.architecture, len(card.classes))
    load_weights(storage.join(folder_uri, WEIGHTS_FILE), module, expected_hash)
    return module.eval(), card


def card_to_dict(card: ModelCard) -> dict[str, Any]:
    """The card as plain values for YAML; what is no plain value (a tensor, an array) is written as its text."""
    return {key: plain(value) for key, value in asdict(card).items()}


def card_from_dict(content: Mapping[str, Any], source: str) -> ModelCard:
    """The card that card_to_dict gave; raises ValueError, naming the source, for missing or unknown entries."""
    entries = {**content, "classes": tuple(content.get("classes", ()))}
    if entries.get("preprocessing") is not None:
        entries["preprocessing"] = config.read_value(Preprocessing, entries["preprocessing"], source, "preprocessing")
    try:
        return ModelCard(**entries)
    except TypeError as error:
        raise ValueError(f"{source} is no model card of this version ({error}); save the model again") from error
