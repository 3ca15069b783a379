"""The AnchorNet cascade: a glance at the shrunken image, then the patches that AnchorNet chose, one by one.

Exits are put together from three looks (see ``anchornet/systems/looks.py``): AnchorNet at the whole image, the classifier for
shrunken images at the glance, the classifier for patches at the next patch. Logits of ``glance`` and ``patch`` exits are the
running **sum** over everything the classifiers have seen (paper: the authors' evaluation sums raw logits); those of an
``anchor`` exit are AnchorNet's own. The two orders:

    order         anchor_exit   exits (stage 1 | stage 2)
    anchor_first  on            anchor | glance, patch1..P
    anchor_first  off           glance (AnchorNet's cost included) | patch1..P
    glance_first  off           glance | patch1 (AnchorNet's cost included), patch2..P      the paper's order
    glance_first  on            glance | anchor, patch1..P
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from anchornet.cascade.protocol import Placement
from anchornet.images.preprocess import Preprocessing
from anchornet.systems.anchornet.proposer import Proposer
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.systems.looks import Look, LooksCascade, LooksExit

_SECOND = "patches"
"""Name of the second stage."""


def anchor_cascade(
    settings: AnchorNetSettings,
    networks: Mapping[str, nn.Module],
    classes: Sequence[str],
    placement: Placement | None = None,
    *,
    random_patches_seed: int | None = None,
) -> LooksCascade:
    """The cascade over the networks ``anchornet``, ``glance`` and ``patch``.

    Raises ValueError when (IoU threshold, number of patches, grid) cannot always be met.
    """
    proposer = Proposer(
        networks["anchornet"],
        settings.num_patches,
        settings.iou_threshold,
        settings.image_size,
        compat=settings.compat,
    )
    return LooksCascade(
        exits_of(settings),
        networks,
        classes,
        placement,
        combine="sum",
        given=(image_of(settings).geometry,),
        proposer=proposer,
        random_patches_seed=random_patches_seed,
    )


def image_of(settings: AnchorNetSettings) -> Preprocessing:
    """The image that AnchorNet sees and that patches are cut from: a central square; at 224 the papers' test preprocessing."""
    return Preprocessing.of_size(settings.image_size)


def exits_of(settings: AnchorNetSettings) -> list[LooksExit]:
    """The exits of an order, in order; see the table on top of this file."""
    image = image_of(settings)
    anchor, glance = Look("anchornet", "anchor", image), Look("glance", "glance", image)
    patches = [
        LooksExit(f"patch{i + 1}", _SECOND, (Look("patch", "patch", image, patch=i),))
        for i in range(settings.num_patches)
    ]
    if settings.order == "anchor_first":
        if settings.anchor_exit:
            return [LooksExit("anchor", "anchor", (anchor,)), LooksExit("glance", _SECOND, (glance,)), *patches]
        return [LooksExit("glance", "glance", (anchor, glance)), *patches]
    first = LooksExit("glance", "glance", (glance,))
    if settings.anchor_exit:
        return [first, LooksExit("anchor", _SECOND, (anchor,)), *patches]
    return [first, patches[0]._replace(looks=(anchor, *patches[0].looks)), *patches[1:]]


def exit_names(settings: AnchorNetSettings) -> tuple[str, ...]:
    """Names of the exits of an order, in order."""
    return tuple(each.name for each in exits_of(settings))
