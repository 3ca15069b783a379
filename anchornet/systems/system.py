"""What a kind of adaptive classifier has to say of itself.

A system is written once and holds no state: everything it needs is handed in, settings first. It builds its cascade from
networks and settings, never from a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import nn

from anchornet.cascade.protocol import Cascade, Placement
from anchornet.images.preprocess import Shaping
from anchornet.models.card import ModelCard

Networks = Mapping[str, nn.Module]
"""Trained networks by role."""


class Trained(NamedTuple):
    """A network and what is known of it."""

    module: nn.Module
    card: ModelCard


class Reference(NamedTuple):
    """Something to compare a cascade with on the same images."""

    name: str
    cascade: Cascade[Any]
    exits: tuple[str, ...]
    """The exits of it that are worth showing; nothing after the last of them is computed."""


class System(Protocol):
    """A kind of adaptive classifier; ``settings`` are of the class that names this system as its implementation."""

    def roles(self, settings: Any) -> tuple[str, ...]:
        """Names of the networks that a bundle of this system holds."""
        ...

    def trained_as(self, settings: Any) -> Mapping[str, str]:
        """For each role what a network may have been trained as, in the words of training recipes, to be taken for it."""
        ...

    def complete(self, settings: Any, cards: Mapping[str, ModelCard]) -> Any:
        """The settings that a bundle keeps: what a user may leave open is filled in from the cards of the networks."""
        ...

    def preprocessing(self, settings: Any) -> Shaping:
        """From a picture to the pixels that the cascade's first stage takes; ``settings`` are complete."""
        ...

    def check(self, settings: Any, networks: Networks, num_classes: int) -> None:
        """Return only if these networks make a cascade; raises ValueError otherwise. Cheap: one image at most."""
        ...

    def cascade(self, settings: Any, networks: Networks, classes: Sequence[str], placement: Placement) -> Cascade[Any]:
        """The cascade, its networks moved to ``placement``; raises ValueError as ``check`` does."""
        ...

    def fewer_exits(self, settings: Any) -> Mapping[str, Any]:
        """For each exit that the cascade can do without: the settings without it, under which the views that are left say the
        same and every exit has a fixed cost. The first exit is none of them. Calibration drops those not worth their price."""
        ...

    def references(
        self, settings: Any, networks: Networks, classes: Sequence[str], placement: Placement
    ) -> list[Reference]:
        """What ``jobs.evaluate`` shows beside the cascade; may be empty."""
        ...

    def import_weights(
        self, settings: Any, files: Mapping[str, str], architectures: Mapping[str, str], classes: Sequence[str]
    ) -> dict[str, Trained]:
        """Networks from published weight files (role -> path, role -> architecture); ValueError names what does not fit."""
        ...
