"""The bundle: one folder (local or s3://) with everything a label job needs, of any system.

    bundle.yaml             system, classes, preprocessing, a card and a weights hash per network, versions; after calibration
                            the combination of views
    ROLE.safetensors        the weights of each network
    exit_table.parquet      frontier.json           after calibration

bundle.yaml is written after the weights and frontier.json after the exit table, and each records hashes of what was
written before it; so an interrupted write is seen, and parts that do not belong together are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from anchornet.budget.combination import Combination
from anchornet.budget.confidence import Calibrator, fit_calibrator
from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier
from anchornet.cascade.protocol import Cascade, Placement
from anchornet.files import config, storage
from anchornet.files.documents import digest, plain, read_yaml, write_yaml
from anchornet.images.preprocess import Shaping
from anchornet.models.card import ModelCard, card_from_dict, card_to_dict, load_model, versions
from anchornet.models.classifiers import build_classifier
from anchornet.models.weights import load_weights, save_weights, weights_hash
from anchornet.systems.registry import SystemSettings, system_of
from anchornet.systems.system import Reference, Trained

FORMAT = 4
BUNDLE_FILE = "bundle.yaml"
TABLE_FILE = "exit_table.parquet"
FRONTIER_FILE = "frontier.json"
_KEYS = {"format", "system", "preprocessing", "combination", "networks", "versions", "classes"}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle: networks in eval mode on the CPU, and what belongs to them."""

    system: SystemSettings
    networks: Mapping[str, nn.Module]
    """By role."""
    cards: Mapping[str, ModelCard]
    """What each network is, how it was trained and what it reached."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    preprocessing: Shaping
    """From a picture to what the cascade's first stage takes."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each network's tensors by role, as recorded; empty for a bundle that was never saved."""
    combination: Combination | None = None
    """How views become answers, as calibration chose; None is the rule of the system's cascade."""
    exit_table: ExitTable | None = None
    """What exits say of the calibration images; where weights of views were fitted on them, by weights fitted without the
    fold of each image."""
    frontier: Frontier | None = None
    calibrator: Calibrator | None = None
    """(score, exit index) -> probability of being right; None shows users no probability."""

    @property
    def weights_hash(self) -> str:
        """sha256 (hex) over the tensors of all networks."""
        return digest(
            [f"{role} {self.hashes.get(role) or weights_hash(self.networks[role])}" for role in sorted(self.networks)]
        )

    @property
    def cascade_hash(self) -> str:
        """sha256 (hex) over system, preprocessing, classes and combination: what else an exit's answer depends on."""
        combination = self.combination and asdict(self.combination)
        return digest([asdict(self.system), asdict(self.preprocessing), list(self.classes), combination])

    def cascade(self, placement: Placement | None = None) -> Cascade[Any]:
        """The bundle's cascade. Raises ValueError when its exits are not those that the bundle was calibrated for."""
        cascade = self.as_built(placement)
        names = tuple(exit.name for exit in cascade.exits)
        if self.frontier is not None and names != self.frontier.exits:
            raise ValueError(
                f"the bundle was calibrated for exits {list(self.frontier.exits)}, its cascade has {list(names)}; "
                f"calibrate the bundle again"
            )
        if self.combination is not None:
            _check_views(self.combination, cascade.combination)
            cascade.combination = self.combination
        return cascade

    def as_built(self, placement: Placement | None = None) -> Cascade[Any]:
        """The cascade under its own rule, whatever calibration chose."""
        system = system_of(self.system)
        return system.cascade(self.system, self.networks, self.classes, placement or Placement())

    def references(self, placement: Placement | None = None) -> list[Reference]:
        """What the bundle's system is compared with."""
        return system_of(self.system).references(self.system, self.networks, self.classes, placement or Placement())


def assemble_bundle(folder_uri: str, models: Mapping[str, str], settings: SystemSettings) -> None:
    """Writes a bundle from model folders by role. Raises what load_model and save_bundle raise."""
    check_roles(models, settings)
    trained_as = system_of(settings).trained_as(settings)
    save_bundle(
        folder_uri, {role: _load_as(role, folder, trained_as[role]) for role, folder in models.items()}, settings
    )


def _load_as(role: str, folder: str, trained_as: str) -> Trained:
    """The network of a model folder under its role's name. Raises ValueError for one that was trained for something else."""
    module, card = load_model(folder)
    if card.role not in (role, trained_as):
        raise ValueError(
            f"{role} needs a network trained as {trained_as!r}, {folder} holds one trained as {card.role!r}; give another run"
        )
    return Trained(module, replace(card, role=role))


def check_roles(given: Mapping[str, Any], settings: SystemSettings) -> None:
    """Raises ValueError unless ``given`` names exactly the networks that the system has."""
    wanted = system_of(settings).roles(settings)
    if set(given) != set(wanted):
        raise ValueError(
            f"system {settings.kind} has the networks {', '.join(wanted)}, got {', '.join(given) or 'none'}; "
            f"give one for each"
        )


def save_bundle(folder_uri: str, parts: Mapping[str, Trained], settings: SystemSettings) -> None:
    """Writes a bundle, not yet calibrated; an older bundle in the folder, its calibration included, is replaced.

    parts: network and card for each role of the system. Raises ValueError if they do not belong together: another role
    than the card's, other classes, or what the system itself refuses.
    """
    check_roles(parts, settings)
    roles = system_of(settings).roles(settings)
    cards = {role: parts[role].card for role in roles}
    _check_cards(cards)
    settings = system_of(settings).complete(settings, cards)
    classes = cards[roles[0]].classes
    system_of(settings).check(settings, {role: part.module for role, part in parts.items()}, len(classes))
    for stale in (FRONTIER_FILE, TABLE_FILE, BUNDLE_FILE):
        _remove(storage.join(folder_uri, stale))
    networks = {}
    for role in roles:
        weights = save_weights(_weights_uri(folder_uri, role), parts[role].module)
        networks[role] = {**card_to_dict(cards[role]), "weights_hash": weights}
        del networks[role]["classes"]
    content = {
        "format": FORMAT,
        "system": asdict(settings),
        "preprocessing": asdict(system_of(settings).preprocessing(settings)),
        "combination": None,
        "networks": networks,
        "versions": versions(),
        "classes": classes,
    }
    write_yaml(storage.join(folder_uri, BUNDLE_FILE), plain(content))


def load_bundle(folder_uri: str) -> Bundle:
    """The bundle in a folder; exit_table and frontier are None if it is not calibrated.

    Raises FileNotFoundError if a file is missing, ValueError if one is damaged or the parts do not belong together.
    """
    uri = storage.join(folder_uri, BUNDLE_FILE)
    if not storage.exists(uri):
        raise FileNotFoundError(
            f"{folder_uri} holds no {BUNDLE_FILE}; make a bundle with jobs.calibrate or jobs.import_weights"
        )
    content = _read_content(uri)
    settings = config.read_value(SystemSettings, content["system"], uri, "system")
    check_roles(content["networks"], settings)
    cards, hashes = _read_cards(content, uri)
    return _with_calibration(
        folder_uri,
        Bundle(
            system=settings,
            networks={role: _load_network(folder_uri, role, cards[role], hashes[role]) for role in cards},
            cards=cards,
            classes=tuple(content["classes"]),
            preprocessing=_read_preprocessing(content["preprocessing"], settings, uri),
            hashes=hashes,
            combination=_read_combination(content["combination"], uri),
        ),
    )


def write_calibration(
    folder_uri: str,
    table: ExitTable,
    frontier: Frontier,
    *,
    combination: Combination | None = None,
    settings: SystemSettings | None = None,
) -> None:
    """Puts what calibration found into the bundle: exit table, the frontier fitted on it, and what they belong to, by hash.

    combination: how views become answers from now on, None for the rule of the cascade. settings: those of the system from now
    on, where calibration dropped exits; None keeps the bundle's. Raises ValueError if exits, views or classes are not the
    cascade's.
    """
    bundle = replace(load_bundle(folder_uri), exit_table=table, frontier=frontier, combination=combination)
    if settings is not None:
        bundle = replace(bundle, system=settings, preprocessing=system_of(settings).preprocessing(settings))
    _check_table(bundle, table, frontier)
    exits = [exit.name for exit in bundle.cascade().exits]  # refuses other exits or views than the cascade's
    uri, frontier_uri = storage.join(folder_uri, BUNDLE_FILE), storage.join(folder_uri, FRONTIER_FILE)
    _remove(frontier_uri)  # a table without a frontier is simply not calibrated
    changed = {
        "system": plain(asdict(bundle.system)),
        "preprocessing": plain(asdict(bundle.preprocessing)),
        "combination": combination and combination.to_plain(exits),
    }
    write_yaml(uri, {**_read_content(uri), **changed})
    table.to_parquet(storage.join(folder_uri, TABLE_FILE))
    marked = replace(frontier, hashes=_calibration_hashes(folder_uri, bundle))
    storage.write_bytes(frontier_uri, marked.to_json().encode())


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
    if table.exits != frontier.exits:
        raise ValueError(
            f"exits of the table {list(table.exits)} and of the frontier {list(frontier.exits)} do not match; calibrate "
            f"the bundle again"
        )
    highest = max(int(np.max(each, initial=0)) for each in (table.prediction, table.label) if each is not None)
    if highest >= len(bundle.classes):
        raise ValueError(f"exit table names class {highest}, the bundle has {len(bundle.classes)}; calibrate it again")


def _check_cards(cards: Mapping[str, ModelCard]) -> None:
    """Raises ValueError for a network trained for another role, or classes that differ between networks."""
    first = next(iter(cards))
    for role, card in cards.items():
        if card.role != role:
            raise ValueError(f"{role} network was trained as {card.role!r}; give the network trained as {role!r}")
        if card.classes != cards[first].classes:
            raise ValueError(_class_difference(role, card.classes, first, cards[first].classes))


def _check_views(found: Combination, built: Combination) -> None:
    """Raises ValueError for weights of other views, or other exits, than the cascade's."""
    if found.views != built.views or [len(row) for row in found.weights] != [len(row) for row in built.weights]:
        raise ValueError(
            f"the bundle combines the views {', '.join(found.views)}, its cascade has {', '.join(built.views)}; calibrate the "
            f"bundle again"
        )


def _read_combination(recorded: Any, uri: str) -> Combination | None:
    return None if recorded is None else Combination.from_plain(recorded, uri)


def _class_difference(role: str, found: tuple[str, ...], first: str, wanted: tuple[str, ...]) -> str:
    if len(found) != len(wanted):
        return f"{role} network has {len(found)} classes, {first} has {len(wanted)}; train all on the same classes"
    index = next(i for i in range(len(found)) if found[i] != wanted[i])
    return f"class {index} is {found[index]!r} in {role}, {wanted[index]!r} in {first}; train all on the same classes"


def _read_preprocessing(recorded: Any, settings: SystemSettings, uri: str) -> Shaping:
    """The preprocessing of the system; refuses a bundle whose pixels this version would make differently."""
    wanted = system_of(settings).preprocessing(settings)
    if recorded != plain(asdict(wanted)):
        raise ValueError(
            f"{uri} was made for {recorded}, this version gives {plain(asdict(wanted))}; use the version that made it"
        )
    return wanted


def _read_content(uri: str) -> dict[str, Any]:
    content = read_yaml(uri)
    if content.get("format") != FORMAT or set(content) != _KEYS:
        raise ValueError(f"{uri} is no bundle of format {FORMAT} with {sorted(_KEYS)}; make the bundle again")
    return content


def _read_cards(content: Mapping[str, Any], uri: str) -> tuple[dict[str, ModelCard], dict[str, str]]:
    cards, hashes = {}, {}
    for role, entry in content["networks"].items():
        network = dict(entry)
        hashes[role] = str(network.pop("weights_hash", ""))
        cards[role] = card_from_dict({**network, "classes": content["classes"]}, f"{uri} ({role})")
        if cards[role].role != role:
            raise ValueError(f"{uri}: the bundle has a network of role {cards[role].role!r} as {role}; make it again")
    return cards, hashes


def _load_network(folder_uri: str, role: str, card: ModelCard, expected_hash: str) -> nn.Module:
    module = build_classifier(card.architecture, len(card.classes))
    uri = _weights_uri(folder_uri, role)
    if not storage.exists(uri):
        raise FileNotFoundError(f"{uri} is missing from the bundle; make the bundle again")
    load_weights(uri, module, expected_hash)
    return module.eval()


def _weights_uri(folder_uri: str, role: str) -> str:
    return storage.join(folder_uri, f"{role}.safetensors")


def _remove(uri: str) -> None:
    if storage.exists(uri):
        storage.delete(uri)
