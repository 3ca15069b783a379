"""What users may choose of AnchorNet's cascade and of how its networks are trained; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from anchornet.files.ranges import LARGEST_SIDE, check_number
from anchornet.models.training_settings import Distilled, FineTuning, FromScratch

Order = Literal["anchor_first", "glance_first"]
ARCHITECTURE = "anchornet.systems.anchornet.network:AnchorNet"
"""What a card calls AnchorNet's architecture."""
SKIPPABLE = ("anchor", "glance")
"""Exits that a cascade can do without; patches come in their order."""
_MOST_PATCHES = 1000
"""Far more than an image of any size has room for, and few enough for a loop."""
_RECIPES = "anchornet.systems.anchornet.training"


@dataclass(frozen=True, kw_only=True)
class AnchorNetSettings:
    """How the networks are put together. Raises ValueError for values outside their range."""

    kind: Literal["anchornet"] = "anchornet"
    """AnchorNet, and a classifier that glances at the shrunken image and then looks at patches."""
    order: Order = "anchor_first"
    """anchor_first: AnchorNet sees every image; glance_first: the paper's order, AnchorNet only what the glance
    leaves."""
    skip: tuple[str, ...] = ()
    """Exits to leave out, ``anchor`` or ``glance``: nobody leaves there, and the glance is then not even computed. Calibration
    may add to it, see ``drop_exits``."""
    num_patches: int = 4
    """Patches per image that the last exits look at, one after the other."""
    iou_threshold: float = 0.3
    """Two patches of an image overlap at most this much (intersection over union)."""
    compat: bool = False
    """Choose patches as the released code does, its corner bug included; for comparisons with published numbers."""
    image_size: int = 224
    """Side in pixels of the images that AnchorNet sees; its grid of candidate patches follows from it."""

    implementation: ClassVar[str] = "anchornet.systems.anchornet.system:SYSTEM"
    weight_files: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.order not in get_args(Order):
            raise ValueError(f"system.order must be one of {', '.join(get_args(Order))}, got {self.order!r}")
        strange = [name for name in self.skip if name not in SKIPPABLE]
        if strange or len(set(self.skip)) != len(self.skip):
            raise ValueError(f"system.skip may name {' and '.join(SKIPPABLE)}, each once, got {', '.join(self.skip)}")
        check_patches("system", self.num_patches, self.iou_threshold)
        if self.image_size < 1:
            raise ValueError(f"system.image_size must be >= 1 pixel, got {self.image_size}")
        check_number("system.image_size", self.image_size, most=LARGEST_SIDE)


@dataclass(frozen=True, kw_only=True)
class AnchorNetRecipe(Distilled):
    """Stage I: AnchorNet itself, from scratch."""

    kind: Literal["anchornet.anchornet"] = "anchornet.anchornet"
    """The network that proposes patches."""
    training: FromScratch = field(default_factory=FromScratch)

    architecture: ClassVar[str] = ARCHITECTURE
    implementation: ClassVar[str] = _RECIPES
    folders: ClassVar[tuple[str, ...]] = ("teacher",)


@dataclass(frozen=True, kw_only=True)
class GlanceRecipe:
    """Stage II: the classifier on images shrunk to the size of a patch."""

    kind: Literal["anchornet.glance"]
    """The classifier that looks at the shrunken image."""
    architecture: str
    """torchvision's name of the network, or ``module:function`` called with the number of classes."""
    training: FineTuning = field(default_factory=FineTuning)

    implementation: ClassVar[str] = _RECIPES
    folders: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class PatchRecipe:
    """Stage II: the classifier on the patches that a frozen AnchorNet chooses."""

    kind: Literal["anchornet.patch"]
    """The classifier that looks at patches; validated as it will be used, on real patches and summed logits."""
    architecture: str
    """torchvision's name of the network, or ``module:function`` called with the number of classes."""
    anchornet: str
    """Run folder of the trained AnchorNet, whose patches are used."""
    glance: str | None = None
    """Run folder of the trained glance network; validation then counts the sum with its logits as well."""
    num_patches: int = 4
    """Patches per image, in training and validation."""
    training_patches: int | None = None
    """Train on only this many of them, drawn anew for each image; null trains on all, as the paper."""
    iou_threshold: float = 0.3
    """Largest overlap (intersection over union) of two patches of one image."""
    training: FineTuning = field(default_factory=FineTuning)

    implementation: ClassVar[str] = _RECIPES
    folders: ClassVar[tuple[str, ...]] = ("anchornet", "glance")

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_patches("recipe", self.num_patches, self.iou_threshold)
        sample = self.training_patches
        if sample is not None and not 1 <= sample <= self.num_patches:
            raise ValueError(f"recipe.training_patches must be in 1..{self.num_patches} or null, got {sample}")


def check_patches(section: str, num_patches: int, iou_threshold: float) -> None:
    """Raises ValueError, naming the key in ``section``, for a number of patches or an overlap that no image could have."""
    check_number(f"{section}.num_patches", num_patches, least=1, most=_MOST_PATCHES)
    if not 0 <= iou_threshold < 1:
        raise ValueError(f"{section}.iou_threshold must be in [0, 1), got {iou_threshold}")
