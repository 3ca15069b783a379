"""Make a bundle from weight files that others have trained, such as the authors' own.

    python -m jobs.import_weights --set bundle=runs/bundle --set classes=classes.txt \\
        --set weights.anchornet=anchornet.pth --set weights.glance=densenet201_resized_95_best.pth.tar \\
        --set weights.patch=densenet201_patch_95_best.pth.tar \\
        --set architectures.glance=densenet201 --set architectures.patch=densenet201

Ordinary classifiers as a cascade (docs/bring-your-own.md): ``--config jobs/configs/models/import_weights.yaml``.

Calibrate the bundle next (``jobs.calibrate`` without ``models``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from anchornet.bundle import Bundle, check_roles, load_bundle, save_bundle
from anchornet.files import storage
from anchornet.images.preprocess import Preprocessing
from anchornet.models.card import ModelCard
from anchornet.systems.registry import system_of
from anchornet.units import GIGA, gflops_text
from jobs.settings.import_weights import ImportConfig
from jobs.shell.job import run_job
from jobs.shell.terminal import result


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the bundle is written."""
    return run_job(ImportConfig, execute, __doc__, argv)


def execute(config: ImportConfig) -> int:
    """Read, fit, write."""
    files = {**config.system.weight_files, **config.weights}
    check_roles(files, config.system)
    classes = read_classes(config.classes)
    parts = system_of(config.system).import_weights(config.system, files, config.architectures, classes)
    save_bundle(config.bundle, parts, config.system)
    result(describe(load_bundle(config.bundle)))
    result(f"wrote {config.bundle}; next: python -m jobs.calibrate --set bundle={config.bundle} ...\n")
    return 0


def describe(bundle: Bundle) -> str:
    """A line per exit with what it costs, and a line per network that says how it is fed."""
    exits = [f"exit {exit.name}: at most {gflops_text(exit.macs / GIGA)} GFLOPs" for exit in bundle.cascade().exits]
    feeds = [
        f"network {role}: {_pixels(card, card.preprocessing)}, mean {list(card.preprocessing.mean)}, "
        f"std {list(card.preprocessing.std)} ({card.training.get('preprocessing_from', 'its card')})"
        for role, card in bundle.cards.items()
        if card.preprocessing is not None
    ]
    return "".join(f"{line}\n" for line in [*exits, *feeds])


def _pixels(card: ModelCard, feed: Preprocessing) -> str:
    """Which pixels a network is given."""
    squeezed = "" if feed.keep_aspect else ", squeezed to a square"
    resized = f"short side to {feed.resize}, central {feed.crop} x {feed.crop}, {feed.interpolation}{squeezed}"
    return str(card.training.get("sees", resized))


def read_classes(uri: str) -> tuple[str, ...]:
    """Class names, one per line, in the order of the logits. Raises ValueError when there is none."""
    names = tuple(line.strip() for line in storage.read_bytes(uri).decode().splitlines() if line.strip())
    if not names:
        raise ValueError(f"classes {uri} names no class; write one name per line, in the order of the logits")
    return names


if __name__ == "__main__":
    sys.exit(main())
