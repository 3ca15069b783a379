"""Train one network on labelled images, as a recipe says.

    python -m jobs.train --config jobs/configs/train_anchornet.yaml --set data.path=... --set run.folder=...

Recipes: ``anchornet.anchornet`` (stage I, the network that proposes patches), ``anchornet.glance`` and ``anchornet.patch``
(stage II, the classifier on shrunken images and on patches), ``classifier`` (whole images; the reference of
``jobs.evaluate``). The run folder gets ``model/`` (the epoch with the best validation accuracy, or the last one without
validation images), ``metrics.jsonl`` (a line per epoch), ``report.json`` and ``checkpoints/``. The same command goes on
where a run was interrupted, and returns at once when it is finished.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.settings.train import TrainConfig
from jobs.shell.job import run_job
from jobs.training.driver import run_training
from jobs.training.plan import plan_training


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job (see ``run_job``)."""
    return run_job(TrainConfig, execute, __doc__, argv)


def execute(config: TrainConfig) -> int:
    """Train; 0 once the model is saved."""
    return run_training(plan_training(config))


if __name__ == "__main__":
    sys.exit(main())
