"""Ordinary classifiers as a system: the weight files that people have, how they become a cascade, what it is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from anchornet.cascade.protocol import Placement
from anchornet.images.preprocess import Preprocessing, Views
from anchornet.models.card import ModelCard
from anchornet.models.classifiers import build_classifier, check_input
from anchornet.models.metadata import known_preprocessing
from anchornet.models.weights import head_keys, load_fitting, read_weights
from anchornet.systems.anchornet.network import check_anchornet
from anchornet.systems.anchornet.settings import ARCHITECTURE
from anchornet.systems.looks import LooksCascade, look_macs
from anchornet.systems.models.cascade import feed_of, models_cascade, proposer_of, views_of
from anchornet.systems.models.settings import ANCHOR, ANCHORNET, Member, ModelsSettings, PreprocessingSettings
from anchornet.systems.system import Networks, Reference, Trained
from anchornet.units import GIGA, gflops_text

_TRAINED_AS = {"whole": "classifier", "glance": "glance", "patch": "patch"}
"""By view: the recipe of ``jobs.train`` that trains for it."""
_SEES = {"glance": "the glance, the image of AnchorNet shrunk to a patch", "patch": "patches of AnchorNet's image"}
"""For people: pixels that are not the network's own view."""


class ModelsSystem:
    """See :class:`anchornet.systems.system.System`."""

    def roles(self, settings: ModelsSettings) -> tuple[str, ...]:
        """The names of the members, AnchorNet's before them."""
        return settings.roles

    def trained_as(self, settings: ModelsSettings) -> dict[str, str]:
        """Members by what they see."""
        front = {ANCHORNET: ANCHORNET} if settings.anchornet else {}
        return {**front, **{member.role: _TRAINED_AS[member.view] for member in settings.members}}

    def complete(self, settings: ModelsSettings, cards: Mapping[str, ModelCard]) -> ModelsSettings:
        """Every member's preprocessing in full, as its card says it; weight files are not needed any more.

        Raises ValueError for a network of another architecture than its member's.
        """
        for member in settings.members:
            if cards[member.role].architecture != member.architecture:
                raise ValueError(
                    f"system.members: {member.role} has architecture {member.architecture}, the network given for it is a "
                    f"{cards[member.role].architecture}; correct the one or the other"
                )
        members = [
            replace(member, weights=None, preprocessing=_complete(member, cards[member.role].preprocessing))
            for member in settings.members
        ]
        front = replace(settings.anchornet, weights=None) if settings.anchornet else None
        return replace(settings, members=tuple(members), anchornet=front)

    def preprocessing(self, settings: ModelsSettings) -> Views:
        """Every view that some member wants, of a picture that is decoded once."""
        return views_of(settings)

    def check(self, settings: ModelsSettings, networks: Networks, num_classes: int) -> None:
        """Every network takes its view and gives a logit per class, AnchorNet is one and finds its patches, and no member that
        sees whole pictures costs less than the one before it."""
        size = 0
        if settings.anchornet:
            check_anchornet(networks[ANCHORNET])
            proposer = proposer_of(settings, networks)
            assert proposer is not None
            size = proposer.patch_size
        macs: dict[str, int] = {}
        for member in settings.members:
            side = feed_of(member, settings).crop if member.view == "whole" else size
            check_input(networks[member.role], side, num_classes)
            if member.view == "whole":
                macs[member.role] = look_macs(networks[member.role], side)
        for before, after in itertools.pairwise(macs):
            if macs[after] < macs[before]:
                raise ValueError(
                    f"system.members: {after} costs {gflops_text(macs[after] / GIGA)} GFLOPs per image, less than "
                    f"{before} before it ({gflops_text(macs[before] / GIGA)}); put the cheaper one first"
                )

    def cascade(
        self, settings: ModelsSettings, networks: Networks, classes: Sequence[str], placement: Placement
    ) -> LooksCascade:
        """The members in their order."""
        return models_cascade(settings, networks, classes, placement)

    def fewer_exits(self, settings: ModelsSettings) -> dict[str, ModelsSettings]:
        """Without any one of the members that see no patches, the first exit excepted."""
        later = [name for name in settings.exits[1:] if name in settings.skippable and name != ANCHOR]
        return {name: replace(settings, skip=(*settings.skip, name)) for name in later}

    def references(
        self, settings: ModelsSettings, networks: Networks, classes: Sequence[str], placement: Placement
    ) -> list[Reference]:
        """Each member that needs no patches alone, at its own cost; the first exit needs no reference, it is alone."""
        names = [name for member in settings.members if member.view != "patch" for name in member.exits]
        return [
            Reference(f"{name} alone", models_cascade(settings, networks, classes, placement, only=(name,)), (name,))
            for name in names
            if name in settings.exits[1:]
        ]

    def import_weights(
        self,
        settings: ModelsSettings,
        files: Mapping[str, str],
        architectures: Mapping[str, str],
        classes: Sequence[str],
    ) -> dict[str, Trained]:
        """Every network with the weights of its file. Raises ValueError unless all files have as many classes as named."""
        if architectures:
            raise ValueError(
                f"system models names its architectures in system.members, got architectures for "
                f"{', '.join(architectures)}; take the section out"
            )
        named = {member.role: member.architecture for member in settings.members}
        named |= {ANCHORNET: ARCHITECTURE} if settings.anchornet else {}
        modules = {role: build_classifier(named[role], len(classes)) for role in settings.roles}
        states = {role: read_weights(module, files[role]) for role, module in modules.items()}
        _check_classes(modules, states, len(classes))
        for role, module in modules.items():
            load_fitting(module, states[role], files[role])
        cards = {
            member.role: _card(member, modules[member.role], files[member.role], classes) for member in settings.members
        }
        if settings.anchornet:
            cards[ANCHORNET] = ModelCard(
                role=ANCHORNET,
                architecture=ARCHITECTURE,
                classes=tuple(classes),
                training={"imported_from": files[ANCHORNET]},
            )
        return {role: Trained(module.eval(), cards[role]) for role, module in modules.items()}


def _complete(member: Member, known: Preprocessing | None) -> PreprocessingSettings:
    """Of the glance and patches only mean and std are the member's own."""
    if member.view == "whole":
        return PreprocessingSettings.of(member.preprocessing.on(known))
    full = member.preprocessing.on(known or Preprocessing())
    return PreprocessingSettings(mean=full.mean, std=full.std)


def _check_classes(
    modules: Mapping[str, nn.Module], states: Mapping[str, Mapping[str, Tensor]], num_classes: int
) -> None:
    """Refuse files whose last layer has another number of classes than there are names."""
    counts = {role: _num_classes(module, states[role]) for role, module in modules.items()}
    if any(count not in (None, num_classes) for count in counts.values()):
        found = ", ".join(f"{role} {'an unknown number' if n is None else n}" for role, n in counts.items())
        raise ValueError(
            f"classes names {num_classes} classes, the weight files have: {found}; all members must know the same classes, "
            f"and classes must name each of them"
        )


def _num_classes(module: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Classes of the last layer in a file; None when it has no such layer, which loading will say better."""
    weight = state.get(head_keys(module)[0])
    return None if weight is None else len(weight)


def _card(member: Member, module: nn.Module, path: str, classes: Sequence[str]) -> ModelCard:
    """What the member is; raises ValueError when nobody says how it is fed."""
    known = known_preprocessing(member.architecture, module, path)
    said = known.preprocessing if known else None
    if member.view != "whole":
        said = said or Preprocessing()  # ImageNet's mean and std; nothing else of it is used
    try:
        preprocessing = member.preprocessing.on(said)
    except ValueError as error:
        raise ValueError(f"member {member.role}: {error}") from error
    training = {"imported_from": path, "preprocessing_from": known.source if known else "the settings"}
    if member.view != "whole":
        training["sees"] = _SEES[member.view]
    return ModelCard(
        role=member.role,
        architecture=member.architecture,
        classes=tuple(classes),
        preprocessing=preprocessing,
        training=training,
    )


SYSTEM = ModelsSystem()
