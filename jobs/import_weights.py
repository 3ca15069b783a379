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

from anchornet.bundle import check_roles, save_bundle
from anchornet.files import storage
from anchornet.systems.registry import system_of
from jobs.settings.import_weights import ImportConfig
from jobs.shell.job import run_job


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
    sys.stdout.write(f"wrote {config.bundle}; next: python -m jobs.calibrate --set bundle={config.bundle} ...\n")
    return 0


def read_classes(uri: str) -> tuple[str, ...]:
    """Class names, one per line, in the order of the logits. Raises ValueError when there is none."""
    names = tuple(line.strip() for line in storage.read_bytes(uri).decode().splitlines() if line.strip())
    if not names:
        raise ValueError(f"classes {uri} names no class; write one name per line, in the order of the logits")
    return names


if __name__ == "__main__":
    sys.exit(main())
