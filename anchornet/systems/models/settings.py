"""What users may choose of a cascade of ordinary classifiers; free of torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from anchornet.files.ranges import LARGEST_SIDE, check_number
from anchornet.images.preprocess import Interpolation, Preprocessing
from anchornet.systems.anchornet.settings import check_patches

ANCHORNET, ANCHOR = "anchornet", "anchor"
"""Names of AnchorNet among the networks, and of its exit."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PATCHES = 4
"""The paper's number of patches."""
_PIXELS = ("side", "resize", "crop_fraction", "interpolation", "keep_aspect")
"""What ``PreprocessingSettings`` say of which pixels a network sees."""


@dataclass(frozen=True, kw_only=True)
class PreprocessingSettings:
    """How a network is fed, as far as it is said; None leaves it to what torchvision or timm say of the network."""

    side: int | None = None
    """Either side in pixels of what the network sees; needed for ``module:function``, of which nobody says it."""
    resize: int | None = None
    """Short side in pixels before the central crop."""
    crop_fraction: float | None = None
    """Instead of ``resize``: share of the short side that the crop keeps (timm's ``crop_pct``)."""
    interpolation: Interpolation | None = None
    """Filter of the resizing."""
    keep_aspect: bool | None = None
    """False: the whole picture is squeezed into a square before the crop."""
    mean: tuple[float, ...] | None = None
    """Of red, green and blue, of values in [0, 1]; ImageNet's unless somebody says another."""
    std: tuple[float, ...] | None = None
    """Standard deviation, likewise."""

    def __post_init__(self) -> None:
        """Refuse what says the same thing twice, or cannot be."""
        check_number("preprocessing.side", self.side, least=1, most=LARGEST_SIDE)
        check_number("preprocessing.resize", self.resize, least=1, most=LARGEST_SIDE)
        check_number("preprocessing.crop_fraction", self.crop_fraction, above=0, most=1)
        for mean in self.mean or ():
            check_number("preprocessing.mean", mean, least=0, most=1)
        for std in self.std or ():
            check_number("preprocessing.std", std, above=0, most=1)
        if self.crop_fraction is not None and self.resize is not None:
            raise ValueError(
                f"preprocessing has resize ({self.resize}) and crop_fraction ({self.crop_fraction}), which say the same "
                f"thing; take one of them out"
            )

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> PreprocessingSettings:
        """Settings that leave nothing open."""
        return cls(
            side=preprocessing.crop,
            resize=preprocessing.resize,
            interpolation=preprocessing.interpolation,
            keep_aspect=preprocessing.keep_aspect,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )

    def on(self, known: Preprocessing | None) -> Preprocessing:
        """What is said here, and the rest as ``known``; another side keeps the share that the crop takes.

        Raises ValueError when nobody says the side.
        """
        if self.side is None and known is None:
            raise ValueError("nobody says what size of image the network takes; set preprocessing.side in pixels")
        base = known or Preprocessing.of_size(self.side or 0)
        side = self.side or base.crop
        said = {name: getattr(self, name) for name in ("interpolation", "keep_aspect", "mean", "std")}
        return replace(
            base,
            crop=side,
            resize=self._resize(side) or round(side * base.resize / base.crop),
            **{name: value for name, value in said.items() if value is not None},
        )

    def _resize(self, side: int) -> int | None:
        return self.resize if self.crop_fraction is None else math.floor(side / self.crop_fraction)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One classifier of the cascade."""

    architecture: str
    """A torchvision name, ``timm:NAME``, or ``module:function`` called with the number of classes."""
    weights: str | None = None
    """File of its weights, ``.safetensors`` or PyTorch's own (``.pth``), local or ``s3://``; read by ``import_weights`` only."""
    name: str | None = None
    """What its exit is called; None: the last part of ``architecture``."""
    view: Literal["whole", "glance", "patch"] = "whole"
    """What it sees: the whole picture by its own preprocessing; or of AnchorNet's image the ``glance``, shrunk to the size of a
    patch, or the next patches, of which it takes ``preprocessing``'s mean and std only."""
    patches: int | None = None
    """With ``view: patch``: how many it looks at, one after the other, each an exit; None: 4."""
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)

    def __post_init__(self) -> None:
        """Refuse names that cannot be those of a file, and what the view leaves no room for."""
        if not _NAME.fullmatch(self.role):
            raise ValueError(
                f"system.members: {self.role!r} cannot name a network; set name to letters, digits, '_', '-' and '.'"
            )
        if self.view != "patch" and self.patches is not None:
            raise ValueError(
                f"system.members: {self.role} has patches ({self.patches}) and view {self.view!r}; set view to patch, or take "
                f"patches out"
            )
        check_number("system.members.patches", self.patches, least=1)
        pixels = [name for name in _PIXELS if getattr(self.preprocessing, name) is not None]
        if self.view != "whole" and pixels:
            raise ValueError(
                f"system.members: {self.role} has view {self.view!r}, whose pixels are those of AnchorNet's image, and "
                f"preprocessing.{pixels[0]}; take it out, mean and std can be set"
            )

    @property
    def role(self) -> str:
        """The name of the network, and of its exit."""
        return self.name or self.architecture.rpartition(":")[2]

    @property
    def num_patches(self) -> int:
        """Patches that it looks at."""
        return (self.patches or _PATCHES) if self.view == "patch" else 0

    @property
    def exits(self) -> tuple[str, ...]:
        """Names of its exits: its own, or with a number for each patch."""
        return tuple(f"{self.role}{i + 1}" for i in range(self.num_patches)) or (self.role,)


@dataclass(frozen=True, kw_only=True)
class AnchorNetFront:
    """AnchorNet before all members: it is the first exit, ``anchor``, and chooses the patches."""

    weights: str | None = None
    """File of its weights, such as ``RUN/model/weights.safetensors`` of ``jobs.train``; read by ``import_weights`` only."""
    iou_threshold: float = 0.3
    """Two patches of an image overlap at most this much (intersection over union)."""
    image_size: int = 224
    """Side in pixels of the image that it sees and that glance and patches are made from."""

    def __post_init__(self) -> None:
        """Refuse values outside their range; the rest is checked with the number of patches."""
        check_number("system.anchornet.image_size", self.image_size, least=1, most=LARGEST_SIDE)


@dataclass(frozen=True, kw_only=True)
class ModelsSettings:
    """Which classifiers there are and how they answer together. Raises ValueError for none, or two of one name."""

    kind: Literal["models"]
    """Ordinary trained classifiers, cheap ones first, each an exit."""
    members: tuple[Member, ...]
    """The classifiers in the order in which they are asked; of those that see whole pictures none may cost less than the one
    before it."""
    anchornet: AnchorNetFront | None = None
    """AnchorNet before the members (``{}`` as it comes); needed where one of them sees the glance or patches."""
    skip: tuple[str, ...] = ()
    """Exits to leave out, patches excepted: a member named here is not run. Calibration may add to it, see ``drop_exits``."""
    stages: Literal["per_member", "one"] = "per_member"
    """Whether each member has a pool of actors of its own, or one pool runs them all."""

    implementation: ClassVar[str] = "anchornet.systems.models.system:SYSTEM"

    def __post_init__(self) -> None:
        """Refuse what is no cascade."""
        if not self.members:
            raise ValueError("system.members must name one classifier at least, got none; cheap ones come first")
        self._check_names("networks", self.roles)
        self._check_names("exits", self._all_exits)
        strange = [name for name in self.skip if name not in self.skippable]
        if strange or not self.exits or len(set(self.skip)) != len(self.skip):
            raise ValueError(
                f"system.skip may name {', '.join(self.skippable)}, each once and not every exit, got {', '.join(self.skip)}"
            )
        cut = next((member for member in self.members if member.view != "whole"), None)
        if cut and not self.anchornet:
            raise ValueError(
                f"system.members: {cut.role} has view {cut.view!r}, which is made from AnchorNet's image; set system.anchornet, "
                f"or the view to 'whole'"
            )
        if self.anchornet:
            check_patches("system.anchornet", self.num_patches, self.anchornet.iou_threshold)

    def _check_names(self, what: str, names: Sequence[str]) -> None:
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled:
            raise ValueError(f"system.members: {doubled!r} names two {what}; give each member a name of its own")

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of all networks, AnchorNet's first."""
        return (*((ANCHORNET,) if self.anchornet else ()), *(member.role for member in self.members))

    @property
    def exits(self) -> tuple[str, ...]:
        """Names of the exits, in order."""
        return tuple(name for name in self._all_exits if name not in self.skip)

    @property
    def skippable(self) -> tuple[str, ...]:
        """Names of the exits that a cascade could do without, were it not for the others."""
        patches = [name for member in self.members if member.view == "patch" for name in member.exits]
        return tuple(name for name in self._all_exits if name not in patches)

    @property
    def _all_exits(self) -> tuple[str, ...]:
        return (*((ANCHOR,) if self.anchornet else ()), *(exit for member in self.members for exit in member.exits))

    @property
    def num_patches(self) -> int:
        """Patches that AnchorNet chooses: those of all members together, each of which looks at the next ones; or one, which
        label rows show."""
        return max(1, sum(member.num_patches for member in self.members))

    @property
    def weight_files(self) -> dict[str, str]:
        """Files that are named here, by role."""
        front = {ANCHORNET: self.anchornet.weights} if self.anchornet else {}
        files = {**front, **{member.role: member.weights for member in self.members}}
        return {role: file for role, file in files.items() if file}
