"""The AnchorNet cascade: a glance at the shrunken image, then the patches that AnchorNet chose, one by one.

Exits are put together from three looks (see ``anchornet/systems/looks.py``): AnchorNet at the whole image, the classifier for
shrunken images at the glance, the classifier for patches at the next patch. The paper's rule is the **sum** of what the
classifiers said (the authors' evaluation sums raw logits); an ``anchor`` exit says what AnchorNet says. The two orders:

    order         exits (stage 1 | stage 2)
    anchor_first  anchor | glance, patch1..P
    glance_first  glance | anchor, patch1..P      with ``skip: [anchor]`` the paper's

An exit named in ``skip`` is left out with its look; but AnchorNet's look, which chooses the patches, moves to the next exit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from anchornet.cascade.protocol import Placement
from anchornet.images.preprocess import Preprocessing
from anchornet.systems.anchornet.proposer import Proposer
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.systems.looks import Look, LooksCascade, LooksExit, without_skipped

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
        rule="sum",
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
    anchor = ("anchor", Look("anchornet", "anchor", image))
    glance = ("glance", Look("glance", "glance", image))
    patches = [(f"patch{i + 1}", Look("patch", "patch", image, patch=i)) for i in range(settings.num_patches)]
    first = (anchor, glance) if settings.order == "anchor_first" else (glance, anchor)
    exits = without_skipped([LooksExit(name, _SECOND, (look,)) for name, look in (*first, *patches)], settings.skip)
    return [exits[0]._replace(stage=exits[0].name), *exits[1:]]


def exit_names(settings: AnchorNetSettings) -> tuple[str, ...]:
    """Names of the exits of an order, in order."""
    return tuple(each.name for each in exits_of(settings))
