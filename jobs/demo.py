"""The whole flow on generated images: train, calibrate, label 2,000 images at three budgets, evaluate.

    python -m jobs.demo            (or: make demo)

Everything lies in runs/demo. A second call goes on where the first stopped; delete the folder to start anew. Each step is
an ordinary job with a configuration of its own in jobs/configs/demo/: what is shown here can be done with your images.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from anchornet.bundle import load_bundle
from anchornet.files import storage
from anchornet.images import synthetic
from anchornet.report import scores
from anchornet.report.label_counts import label_tables
from anchornet.units import gflops_text
from jobs import calibrate, evaluate, label, train
from jobs.settings.common import ClusterSettings
from jobs.shell import session
from jobs.shell.run_folder import RunFolder

logger = logging.getLogger(__name__)

FOLDER = "runs/demo"
CONFIGS = session.ROOT / "jobs" / "configs" / "demo"
Main = Callable[[Sequence[str] | None], int]


class Split(NamedTuple):
    """One set of generated images."""

    name: str
    num_images: int
    seed: int


SPLITS = (
    Split("train", 1600, 1),
    Split("validation", 200, 2),
    Split("calibration", 1000, 3),
    Split("images", 2000, 4),
)
TRAINING = ("anchornet", "patch", "glance", "full")
BUDGET_SHARES = (0.25, 0.5, 1.0)
"""Budgets of the three label jobs, as shares of the way from the cheapest to the dearest useful one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when every step succeeded."""
    del argv  # the demo has nothing to set
    session.configure_logging()
    started = time.perf_counter()
    generate()
    with session.ray_session(ClusterSettings()):
        for name in TRAINING:
            _run(train.main, name)
        _run(calibrate.main, "calibrate")
        rows = [_label(share) for share in BUDGET_SHARES]
        _run(evaluate.main, "evaluate")
    sys.stdout.write(f"\nLabels at three budgets\n\n{scores.markdown(rows, COLUMNS)}\n")
    sys.stdout.write(
        f"\nThe demo took {(time.perf_counter() - started) / 60:.1f} minutes; everything is in {FOLDER}.\n"
    )
    return 0


def generate() -> None:
    """Write the generated images, once."""
    for split in SPLITS:
        folder = Path(FOLDER, "data", split.name)
        if not folder.exists():
            logger.info("generating %d images for %s", split.num_images, split.name)
            synthetic.write_dataset(folder, split.num_images, seed=split.seed)


COLUMNS = {
    "asked_gflops": "asked GFLOPs per image",
    "gflops": "spent",
    "accuracy": "accuracy",
    "images": "images",
    "folder": "run folder",
}


def _label(share: float) -> dict[str, Any]:
    """Label the images with one budget; what it cost and how right it was."""
    frontier = load_bundle(storage.join(FOLDER, "bundle")).frontier
    assert frontier is not None
    asked = frontier.minimum_gflops + share * (frontier.maximum_gflops - frontier.minimum_gflops)
    folder = storage.join(FOLDER, f"label-{share:g}")
    _run(label.main, "label", f"run.folder={folder}", f"budget.gflops_per_image={gflops_text(asked)}")
    rows = pa.concat_tables(label_tables(RunFolder(folder).labels))
    # The generator writes each image into the folder of its class, so the truth is in the name.
    right = [
        uri.split("/")[-2] == name for uri, name in zip(rows["uri"].to_pylist(), rows["label"].to_pylist(), strict=True)
    ]
    spent = sum(rows["gflops"].to_pylist()) / len(rows)
    accuracy = sum(right) / len(right)
    return {"asked_gflops": asked, "gflops": spent, "accuracy": accuracy, "images": len(rows), "folder": folder}


def _run(job: Main, name: str, *overrides: str) -> None:
    """Run one job with its configuration of the demo; stop the demo when it fails."""
    arguments = ["--config", str(CONFIGS / f"{name}.yaml")]
    for override in overrides:
        arguments += ["--set", override]
    module = str(job.__module__)
    sys.stdout.write(f"\n== python -m {module} {' '.join(arguments)}\n")
    sys.stdout.flush()
    code = job(arguments)
    if code != 0:
        raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(main())
