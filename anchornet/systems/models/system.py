"""Ordinary classifiers as a system: the weight files that people have, how they become a cascade, what it is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from anchornet.cascade.protocol import Placement
from anchornet.images.preprocess import Views
from anchornet.models.card import ModelCard
from anchornet.models.classifiers import build_classifier, check_input
from anchornet.models.metadata import known_preprocessing
from anchornet.models.weights import head_keys, load_fitting, read_weights
from anchornet.systems.models.cascade import ModelsCascade, member_macs, views_of
from anchornet.systems.models.settings import Member, ModelsSettings, PreprocessingSettings
from anchornet.systems.system import Networks, Reference, Trained
from anchornet.units import GIGA, gflops_text


class ModelsSystem:
    """See :class:`anchornet.systems.system.System`."""

    def roles(self, settings: ModelsSettings) -> tuple[str, ...]:
        """The names of the members."""
        return tuple(member.role for member in settings.members)

    def complete(self, settings: ModelsSettings, cards: Mapping[str, ModelCard]) -> ModelsSettings:
        """Every member's preprocessing in full, as its card says it; weight files are not needed any more."""
        members = [
            replace(
                member,
                weights=None,
                preprocessing=PreprocessingSettings.of(member.preprocessing.on(cards[member.role].preprocessing)),
            )
            for member in settings.members
        ]
        return replace(settings, members=tuple(members))

    def preprocessing(self, settings: ModelsSettings) -> Views:
        """Every view that some member wants, of a picture that is decoded once."""
        return views_of(settings)

    def check(self, settings: ModelsSettings, networks: Networks, num_classes: int) -> None:
        """Every member takes its view and gives a logit per class, and none costs less than the one before it."""
        macs: dict[str, int] = {}
        for role, feed in zip(self.roles(settings), views_of(settings).networks, strict=True):
            check_input(networks[role], feed.crop, num_classes)
            macs[role] = member_macs(networks[role], feed)
        for before, after in itertools.pairwise(macs):
            if macs[after] < macs[before]:
                raise ValueError(
                    f"system.members: {after} costs {gflops_text(macs[after] / GIGA)} GFLOPs per image, less than "
                    f"{before} before it ({gflops_text(macs[before] / GIGA)}); put the cheaper one first"
                )

    def cascade(
        self, settings: ModelsSettings, networks: Networks, classes: Sequence[str], placement: Placement
    ) -> ModelsCascade:
        """The members in their order."""
        return ModelsCascade(settings, networks, classes, placement)

    def references(
        self, settings: ModelsSettings, networks: Networks, classes: Sequence[str], placement: Placement
    ) -> list[Reference]:
        """Each member but the first alone, at its own cost; the first one alone is the first exit."""
        alone = replace(settings, combine="last")
        return [
            Reference(f"{role} alone", ModelsCascade(alone, networks, classes, placement, only=(k,)), (role,))
            for k, role in enumerate(self.roles(settings))
            if k
        ]

    def import_weights(
        self,
        settings: ModelsSettings,
        files: Mapping[str, str],
        architectures: Mapping[str, str],
        classes: Sequence[str],
    ) -> dict[str, Trained]:
        """Every member with the weights of its file. Raises ValueError unless all files have as many classes as named."""
        if architectures:
            raise ValueError(
                f"system models names its architectures in system.members, got architectures for "
                f"{', '.join(architectures)}; take the section out"
            )
        modules = {member.role: build_classifier(member.architecture, len(classes)) for member in settings.members}
        states = {role: read_weights(module, files[role]) for role, module in modules.items()}
        _check_classes(modules, states, len(classes))
        for role, module in modules.items():
            load_fitting(module, states[role], files[role])
        return {
            member.role: Trained(module.eval(), _card(member, module, files[member.role], classes))
            for member, module in zip(settings.members, modules.values(), strict=True)
        }


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
    try:
        preprocessing = member.preprocessing.on(known.preprocessing if known else None)
    except ValueError as error:
        raise ValueError(f"member {member.role}: {error}") from error
    source = known.source if known else "the settings"
    return ModelCard(
        role=member.role,
        architecture=member.architecture,
        classes=tuple(classes),
        preprocessing=preprocessing,
        training={"imported_from": path, "preprocessing_from": source},
    )


SYSTEM = ModelsSystem()
