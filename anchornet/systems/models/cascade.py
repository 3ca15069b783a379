"""Ordinary classifiers as a cascade: each member looks at its own view of the picture, and each look is an exit.

Unless calibration says otherwise the newest look alone decides. With AnchorNet before them it is the first exit; members may
then see the glance or patches, which are made from AnchorNet's image (see ``anchornet/systems/looks.py``), and each patch is an
exit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from anchornet.cascade.protocol import Placement
from anchornet.images.preprocess import Preprocessing, Views
from anchornet.systems.anchornet.proposer import Proposer
from anchornet.systems.looks import Look, LooksCascade, LooksExit, without_skipped
from anchornet.systems.models.settings import ANCHOR, ANCHORNET, Member, ModelsSettings

_ONE_STAGE = "members"


def models_cascade(
    settings: ModelsSettings,
    networks: Mapping[str, nn.Module],
    classes: Sequence[str],
    placement: Placement | None = None,
    *,
    only: Collection[str] | None = None,
    random_patches_seed: int | None = None,
) -> LooksCascade:
    """The cascade over classifiers by name; ``settings`` are complete.

    only: names of the exits to keep, None for all; pixels are those of all members nevertheless. random_patches_seed replaces
    AnchorNet's choice of patches by a random one. Raises ValueError when AnchorNet's patches (IoU threshold, number, grid) cannot
    always be found.
    """
    return LooksCascade(
        [each for each in exits_of(settings) if only is None or each.name in only],
        networks,
        classes,
        placement,
        rule="last",
        given=views_of(settings).geometries,
        proposer=proposer_of(settings, networks),
        random_patches_seed=random_patches_seed,
    )


def proposer_of(settings: ModelsSettings, networks: Mapping[str, nn.Module]) -> Proposer | None:
    """AnchorNet at work, None where there is none."""
    front = settings.anchornet
    if front is None:
        return None
    return Proposer(networks[ANCHORNET], settings.num_patches, front.iou_threshold, front.image_size)


def exits_of(settings: ModelsSettings) -> list[LooksExit]:
    """The exits in order: AnchorNet's if there is one, then each member's, a patch an exit; without those to skip."""
    exits = list(_member_exits(settings))
    if settings.anchornet:
        exits.insert(0, LooksExit(ANCHOR, ANCHOR, (Look(ANCHORNET, "anchor", anchor_image(settings)),)))
    exits = without_skipped(exits, settings.skip)
    if settings.stages == "one":
        return [each._replace(stage=_ONE_STAGE) for each in exits]
    return exits


def _member_exits(settings: ModelsSettings) -> Iterator[LooksExit]:
    patch = 0
    for member in settings.members:
        feed = feed_of(member, settings)
        for name in member.exits:
            yield LooksExit(name, member.role, (Look(member.role, member.view, feed, patch),))
            patch += member.view == "patch"


def anchor_image(settings: ModelsSettings) -> Preprocessing:
    """The image that AnchorNet sees and that glance and patches are made from."""
    assert settings.anchornet is not None
    return Preprocessing.of_size(settings.anchornet.image_size)


def feed_of(member: Member, settings: ModelsSettings) -> Preprocessing:
    """The pixels that a member is given, its own view or AnchorNet's image, and its own mean and std."""
    if member.view == "whole":
        return member.preprocessing.on(None)
    image, said = anchor_image(settings), member.preprocessing
    return replace(image, mean=said.mean or image.mean, std=said.std or image.std)


def views_of(settings: ModelsSettings) -> Views:
    """What the networks of complete settings see of a picture."""
    front = (anchor_image(settings),) if settings.anchornet else ()
    seeing = [member for member in settings.members if member.role not in settings.skip]
    return Views(networks=(*front, *(feed_of(member, settings) for member in seeing)))
