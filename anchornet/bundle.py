"""The bundle: one folder (local or s3://) with everything a label job needs.

    bundle.yaml             classes, cascade, preprocessing, a card and a weights hash per network, versions
    anchornet.safetensors   glance.safetensors   patch.safetensors
    exit_table.parquet      frontier.json           after calibration

bundle.yaml is written after the weights and frontier.json after the exit table, and each records hashes of what was
written before it; so an interrupted write is seen, and parts that do not belong together are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import numpy as np
from torch import nn

from anchornet.budget.confidence import Calibrator, fit_calibrator
from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier
from anchornet.files import config, storage
from anchornet.images.preprocess import CROP, IMAGENET_MEAN, IMAGENET_STD, RESIZE
from anchornet.models.card import (
    ModelCard,
    Role,
    build_network,
    card_from_dict,
    card_to_dict,
    load_model,
    load_weights,
    plain,
    read_yaml,
    save_weights,
    versions,
    weights_hash,
    write_yaml,
)
from anchornet.models.classifiers import check_input
from anchornet.models.training_settings import CascadeSettings
from anchornet.systems.anchornet.network import AnchorNet
from anchornet.systems.anchornet.receptive_field import check_selection, grid_size, receptive_field

ROLES: tuple[Role, ...] = ("anchornet", "glance", "patch")
FORMAT = 1
BUNDLE_FILE = "bundle.yaml"
TABLE_FILE = "exit_table.parquet"
FRONTIER_FILE = "frontier.json"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a picture to pixels, as the networks were trained; sides in pixels, mean and std of values in [0, 1]."""

    glance_size: int
    """Side of the shrunken whole image, and of a patch: AnchorNet's receptive field."""
    resize: int = RESIZE
    crop: int = CROP
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle: networks in eval mode on the CPU, and what belongs to them."""

    anchornet: AnchorNet
    glance: nn.Module
    patch: nn.Module
    cards: Mapping[Role, ModelCard]
    """What each network is, how it was trained and what it reached."""
    settings: CascadeSettings
    preprocessing: Preprocessing
    hashes: Mapping[Role, str] = field(default_factory=dict)
    """sha256 of each network's tensors by role, as recorded; empty for a bundle that was never saved."""
    exit_table: ExitTable | None = None
    frontier: Frontier | None = None
    calibrator: Calibrator | None = None
    """(score, exit index) -> probability of being right; None shows users no probability."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.cards["anchornet"].classes

    @property
    def weights_hash(self) -> str:
        """sha256 (hex) over the tensors of all three networks."""
        return _digest([f"{role} {self.hashes.get(role) or weights_hash(getattr(self, role))}" for role in ROLES])

    @property
    def cascade_hash(self) -> str:
        """sha256 (hex) over cascade settings, preprocessing and classes: what else an exit's answer depends on."""
        return _digest([asdict(self.settings), asdict(self.preprocessing), list(self.classes)])


def assemble_bundle(folder_uri: str, anchornet: str, glance: str, patch: str, settings: CascadeSettings) -> None:
    """Writes a bundle from three model folders. Raises what load_model and save_bundle raise."""
    folders: dict[Role, str] = {"anchornet": anchornet, "glance": glance, "patch": patch}
    save_bundle(folder_uri, {role: load_model(folder) for role, folder in folders.items()}, settings)


def save_bundle(folder_uri: str, parts: Mapping[Role, tuple[nn.Module, ModelCard]], settings: CascadeSettings) -> None:
    """Writes a bundle, not yet calibrated; an older bundle in the folder, its calibration included, is replaced.

    parts: network and card for each of ROLES. Raises ValueError if they do not belong together: another role than the
    card's, other classes, a classifier that cannot take the patches, a selection of patches that can fall short.
    """
    cards = {role: card for role, (_, card) in parts.items()}
    modules = {role: module for role, (module, _) in parts.items()}
    preprocessing = Preprocessing(glance_size=receptive_field(modules["anchornet"]).size)
    _check_parts(modules, cards, settings, preprocessing)
    for stale in (FRONTIER_FILE, TABLE_FILE, BUNDLE_FILE):
        _remove(storage.join(folder_uri, stale))
    networks = {}
    for role in ROLES:
        weights = save_weights(_weights_uri(folder_uri, role), modules[role])
        networks[role] = {**card_to_dict(cards[role]), "weights_hash": weights}
        del networks[role]["classes"]
    content = {
        "format": FORMAT,
        "cascade": asdict(settings),
        "preprocessing": asdict(preprocessing),
        "networks": networks,
        "versions": versions(),
        "classes": cards["anchornet"].classes,
    }
    write_yaml(storage.join(folder_uri, BUNDLE_FILE), plain(content))


def load_bundle(folder_uri: str) -> Bundle:
    """The bundle in a folder; exit_table and frontier are None if it is not calibrated.

    Raises FileNotFoundError if a file is missing, ValueError if one is damaged or the parts do not belong together.
    """
    uri = storage.join(folder_uri, BUNDLE_FILE)
    if not storage.exists(uri):
        raise FileNotFoundError(
            f"{folder_uri} holds no {BUNDLE_FILE}; make a bundle with jobs.calibrate or anchornet.models.card"
        )
    content = _read_content(uri)
    cards, hashes = _read_cards(content, uri)
    modules = {role: _load_network(folder_uri, cards[role], hashes[role]) for role in ROLES}
    bundle = Bundle(
        anchornet=cast(AnchorNet, modules["anchornet"]),
        glance=modules["glance"],
        patch=modules["patch"],
        cards=cards,
        settings=config.from_dict(CascadeSettings, content["cascade"], uri),
        preprocessing=config.from_dict(Preprocessing, content["preprocessing"], uri),
        hashes=hashes,
    )
    _check_preprocessing(bundle.preprocessing, bundle.anchornet, uri)
    return _with_calibration(folder_uri, bundle)


def write_calibration(folder_uri: str, table: ExitTable, frontier: Frontier) -> None:
    """Puts the exit table and the frontier fitted on it into the bundle, marked with the hashes of what they belong to.

    Raises ValueError if their exits or classes are not the bundle's.
    """
    bundle = load_bundle(folder_uri)
    _check_table(bundle, table, frontier)
    _remove(storage.join(folder_uri, FRONTIER_FILE))  # a table without a frontier is simply not calibrated
    table.to_parquet(storage.join(folder_uri, TABLE_FILE))
    marked = replace(frontier, hashes=_calibration_hashes(folder_uri, bundle))
    storage.write_bytes(storage.join(folder_uri, FRONTIER_FILE), marked.to_json().encode())


def _with_calibration(folder_uri: str, bundle: Bundle) -> Bundle:
    frontier_uri, table_uri = storage.join(folder_uri, FRONTIER_FILE), storage.join(folder_uri, TABLE_FILE)
    if not storage.exists(frontier_uri):
        return bundle
    if not storage.exists(table_uri):
        raise FileNotFoundError(f"{folder_uri} has a frontier but no {TABLE_FILE}; calibrate the bundle again")
    frontier = Frontier.from_json(storage.read_bytes(frontier_uri).decode())
    frontier.check(_calibration_hashes(folder_uri, bundle))
    table = ExitTable.from_parquet(table_uri)
    _check_table(bundle, table, frontier)
    calibrator = fit_calibrator(table) if table.label is not None else None
    return replace(bundle, exit_table=table, frontier=frontier, calibrator=calibrator)


def _calibration_hashes(folder_uri: str, bundle: Bundle) -> dict[str, str]:
    table = storage.read_bytes(storage.join(folder_uri, TABLE_FILE))
    return {
        "weights": bundle.weights_hash,
        "cascade": bundle.cascade_hash,
        "exit_table": hashlib.sha256(table).hexdigest(),
    }


def _check_table(bundle: Bundle, table: ExitTable, frontier: Frontier) -> None:
    if table.exits != frontier.exits or len(table.exits) != bundle.settings.num_exits:
        raise ValueError(
            f"exits of the table {list(table.exits)}, of the frontier {list(frontier.exits)} and of the bundle "
            f"({bundle.settings.num_exits}) do not match; calibrate the bundle again"
        )
    highest = max(int(np.max(each, initial=0)) for each in (table.prediction, table.label) if each is not None)
    if highest >= len(bundle.classes):
        raise ValueError(f"exit table names class {highest}, the bundle has {len(bundle.classes)}; calibrate it again")


def _check_parts(
    modules: Mapping[Role, nn.Module],
    cards: Mapping[Role, ModelCard],
    settings: CascadeSettings,
    preprocessing: Preprocessing,
) -> None:
    classes = cards["anchornet"].classes
    for role in ROLES:
        if cards[role].role != role:
            raise ValueError(
                f"{role} network was trained as {cards[role].role!r}; give the network trained as {role!r}"
            )
        if cards[role].classes != classes:
            raise ValueError(_class_difference(role, cards[role].classes, classes))
    for role in ("glance", "patch"):
        check_input(modules[role], preprocessing.glance_size, len(classes))
    field_of_view = receptive_field(modules["anchornet"])
    grid = grid_size(preprocessing.crop, field_of_view)
    check_selection(settings.iou_threshold, settings.num_patches, grid, field_of_view, settings.compat)


def _class_difference(role: str, found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    if len(found) != len(wanted):
        return f"{role} network has {len(found)} classes, anchornet has {len(wanted)}; train all on the same classes"
    index = next(i for i in range(len(found)) if found[i] != wanted[i])
    return f"class {index} is {found[index]!r} in {role}, {wanted[index]!r} in anchornet; train all on the same classes"


def _check_preprocessing(preprocessing: Preprocessing, anchornet: AnchorNet, uri: str) -> None:
    """Refuses a bundle whose pixels this version would make differently."""
    wanted = Preprocessing(glance_size=receptive_field(anchornet).size)
    if preprocessing != wanted:
        raise ValueError(
            f"{uri} was made for {preprocessing}, this version gives {wanted}; use the version that made it"
        )


def _read_content(uri: str) -> dict[str, Any]:
    content = read_yaml(uri)
    wanted = {"format", "classes", "cascade", "preprocessing", "networks", "versions"}
    if content.get("format") != FORMAT or set(content) != wanted or set(content["networks"]) != set(ROLES):
        raise ValueError(f"{uri} is no bundle of format {FORMAT} with {sorted(wanted)}; make the bundle again")
    return content


def _read_cards(content: Mapping[str, Any], uri: str) -> tuple[dict[Role, ModelCard], dict[Role, str]]:
    cards, hashes = {}, {}
    for role in ROLES:
        network = dict(content["networks"][role])
        hashes[role] = str(network.pop("weights_hash", ""))
        cards[role] = card_from_dict({**network, "classes": content["classes"]}, f"{uri} ({role})")
        if cards[role].role != role:
            raise ValueError(f"{uri}: the bundle has a network of role {cards[role].role!r} as {role}; make it again")
    return cards, hashes


def _load_network(folder_uri: str, card: ModelCard, expected_hash: str) -> nn.Module:
    module = build_network(card.architecture, len(card.classes))
    uri = _weights_uri(folder_uri, card.role)
    if not storage.exists(uri):
        raise FileNotFoundError(f"{uri} is missing from the bundle; make the bundle again")
    load_weights(uri, module, expected_hash)
    return module.eval()


def _weights_uri(folder_uri: str, role: str) -> str:
    return storage.join(folder_uri, f"{role}.safetensors")


def _remove(uri: str) -> None:
    if storage.exists(uri):
        storage.delete(uri)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()
