"""Train a downstream classifier in one of its roles (stage II): on shrunken images, on AnchorNet's patches, or at 224.

python -m jobs.train_classifier --config jobs/configs/train_classifier.yaml --set role=patch --set anchornet=RUN ...

``role``: ``glance`` sees the whole image at 95 pixels, ``patch`` the crops that a frozen AnchorNet chooses, ``full``
the image at 224 (the reference of ``jobs.evaluate``). The patch role is validated as it will be used: real patches and
summed logits, with those of ``glance`` when that network is given. The run folder is as in ``jobs.train_anchornet``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from anchornet.models import card as checkpoints
from anchornet.models import training
from jobs.settings import TrainClassifierConfig
from jobs.shell.session import run_job
from jobs.training.driver import run_training
from jobs.training.loop import TrainPlan, model_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job (see ``jobs.shell.session.run_job``)."""
    return run_job(TrainClassifierConfig, execute, __doc__, argv)


def execute(config: TrainClassifierConfig) -> int:
    """Train; 0 once the model is saved."""
    plan = TrainPlan(config=config, role=config.role, architecture=config.architecture)
    return run_training(_with_patches(plan, config) if config.role == "patch" else plan)


def _with_patches(plan: TrainPlan, config: TrainClassifierConfig) -> TrainPlan:
    """The plan of role ``patch``; refuses networks that do not fit together before anything is started."""
    assert config.anchornet is not None
    proposer, card = checkpoints.load_model(model_folder(config.anchornet))
    training.PatchView(proposer, config.num_patches, config.iou_threshold, config.crop.size, config.training_patches)
    if config.glance is not None:
        _, glance = checkpoints.load_model(model_folder(config.glance))
        if glance.classes != card.classes:
            raise ValueError(
                f"glance {config.glance} knows {len(glance.classes)} classes and anchornet {config.anchornet} "
                f"{len(card.classes)}, not the same or not in the same order; train both on the same data"
            )
    return replace(
        plan,
        classes=card.classes,
        anchornet=config.anchornet,
        glance=config.glance,
        num_patches=config.num_patches,
        training_patches=config.training_patches,
        iou_threshold=config.iou_threshold,
    )


if __name__ == "__main__":
    sys.exit(main())
