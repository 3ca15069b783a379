"""Train AnchorNet, the network that proposes patches, on labelled images (stage I).

python -m jobs.train_anchornet --config jobs/configs/train_anchornet.yaml --set data.path=... --set run.folder=...

The run folder gets ``model/`` (the epoch with the best validation accuracy, or the last one without validation images),
``metrics.jsonl`` (a line per epoch), ``report.json`` and ``checkpoints/``. The same command goes on where a run was
interrupted, and returns at once when it is finished.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.settings import TrainAnchornetConfig
from jobs.shell.session import run_job
from jobs.training.driver import run_training
from jobs.training.loop import TrainPlan


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job (see ``jobs.shell.session.run_job``)."""
    return run_job(TrainAnchornetConfig, execute, __doc__, argv)


def execute(config: TrainAnchornetConfig) -> int:
    """Train; 0 once the model is saved."""
    return run_training(TrainPlan(config=config, role="anchornet", architecture="anchornet"))


if __name__ == "__main__":
    sys.exit(main())
