"""The authors' released weight files as networks of this project."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from anchornet.files.documents import plain
from anchornet.models.card import ModelCard
from anchornet.models.classifiers import build_classifier
from anchornet.models.weights import load_fitting, read_checkpoint, state_dict_in
from anchornet.systems.anchornet.settings import ARCHITECTURE
from anchornet.systems.system import Trained

_UNUSED_BY_AUTHORS = re.compile(r"bneck\.0\.(conv1|bn1)\.")


def import_network(path: str, role: str, architecture: str, classes: Sequence[str]) -> Trained:
    """A network in eval mode, and its card, from one of the authors' files (local or s3://).

    path: a bare state dict, or the `{net, acc, epoch, optimizer}` of a training run; keys as torchvision names them.
    The 6 entries of AnchorNet that its forward pass never uses are passed over.
    Raises ValueError naming the keys that do not fit, a wrong number of classes included.
    """
    content = read_checkpoint(path)
    state = state_dict_in(content, path)
    if architecture == ARCHITECTURE:
        state = {key: value for key, value in state.items() if not _UNUSED_BY_AUTHORS.match(key)}
    module = build_classifier(architecture, len(classes))
    load_fitting(module, state, path)
    metrics: dict[str, Any] = {key: plain(content[key]) for key in ("acc", "epoch") if key in content}
    card = ModelCard(
        role=role, architecture=architecture, classes=tuple(classes), metrics=metrics, training={"imported_from": path}
    )
    return Trained(module.eval(), card)


def import_weights(
    files: Mapping[str, str], architectures: Mapping[str, str], classes: Sequence[str]
) -> dict[str, Trained]:
    """The three networks; AnchorNet's architecture need not be named. Raises ValueError for a role without architecture."""
    named = {"anchornet": ARCHITECTURE, **architectures}
    missing = [role for role in files if role not in named]
    if missing:
        raise ValueError(
            f"architectures names none for {missing[0]!r}; say which network the weights belong to, such as densenet201"
        )
    return {role: import_network(path, role, named[role], classes) for role, path in files.items()}
