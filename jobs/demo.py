"""The whole flow on generated images: train, calibrate, label 600 images at three budgets, evaluate.

    python -m jobs.demo            (or: make demo)

Everything lies in runs/demo. A second call goes on where the first stopped; delete the folder to start anew. Each step is
an ordinary job with a configuration of its own in jobs/configs/demo/: what is shown here can be done with your images.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import yaml

from anchornet.budget.frontier import Frontier
from anchornet.bundle import load_bundle
from anchornet.files.documents import read_json, write_json
from anchornet.images import synthetic
from anchornet.report import scores
from anchornet.report.label_counts import label_tables
from anchornet.units import gflops_text
from jobs import calibrate, demo_report, evaluate, label, train
from jobs.settings.common import ClusterSettings
from jobs.shell.job import INTERRUPTED, REFUSED
from jobs.shell.progress import progress
from jobs.shell.provenance import ROOT
from jobs.shell.ray_session import ray_session
from jobs.shell.run_folder import RunFolder
from jobs.shell.terminal import configure_logging

logger = logging.getLogger(__name__)

FOLDER = "runs/demo"
"""The folder that the configurations name; another one takes its place in every path of them."""
CONFIGS = ROOT / "jobs" / "configs" / "demo"
SEED_FILE = "seed.json"
SEEDS_PER_RUN = 100
Main = Callable[[Sequence[str] | None], int]


class Split(NamedTuple):
    """One set of generated images."""

    name: str
    num_images: int
    number: int
    """Its seed is this many above the run's own."""


SPLITS = (
    Split("train", 1200, 1),
    Split("calibration", 400, 2),
    Split("images", 600, 3),
)
TRAINING = ("anchornet", "patch", "glance", "full")
"""The train jobs, by the names of their configurations."""
BUDGET_SHARES = (0.25, 0.5, 1.0)
"""Budgets of the three label jobs, as shares of the way from the cheapest to the dearest useful one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when every step succeeded; else that of the step that did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the images and of every job (default 0)")
    parser.add_argument("--folder", default=FOLDER, help=f"where everything goes (default {FOLDER})")
    arguments = parser.parse_args(argv)
    configure_logging()
    try:
        return Demo(arguments.seed, arguments.folder.rstrip("/")).run()
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return REFUSED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        return INTERRUPTED


class StepFailedError(Exception):
    """A job of the demo ended with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Demo:
    """One run of the demo in its folder."""

    seed: int
    folder: str
    training: Sequence[str] = TRAINING
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step so far."""

    def run(self) -> int:
        """All steps; the exit code. Raises ValueError when the folder belongs to another seed."""
        self._claim_folder()
        with self._step("images"), progress("generating images"):
            generate(self.folder, self.seed)
        try:
            with contextlib.ExitStack() as stack:
                with self._step("ray"):
                    stack.enter_context(ray_session(ClusterSettings(), self.folder))
                labels, evaluation = self._jobs()
        except StepFailedError as failed:
            return failed.code
        except KeyboardInterrupt:
            if "ray" not in self.seconds:
                raise
            return INTERRUPTED  # the job has said so
        report = read_json(RunFolder(f"{self.folder}/evaluate").report)
        said = read_json(RunFolder(f"{self.folder}/calibrate").report)["said"]
        summary = demo_report.summarise(self.seed, report, labels, self.seconds, said)
        write_json(f"{self.folder}/summary.json", summary)
        frontier = frontier_of(self.folder)
        sys.stdout.write("\n" + demo_report.last_screen(summary, labels, frontier, evaluation, self.folder))
        return 0

    def _jobs(self) -> tuple[list[scores.Row], str]:
        """Train, calibrate, label, evaluate; rows of the label jobs, and what evaluate said."""
        for name in self.training:
            self._job(train.main, name)
        self._job(calibrate.main, "calibrate")
        frontier = frontier_of(self.folder)
        say(scores.single_point(frontier) or f"useful budgets: {_text(frontier.minimum_gflops)} to "
            f"{_text(frontier.maximum_gflops)} GFLOPs per image")  # fmt: skip
        labels = [self._label(frontier, share) for share in BUDGET_SHARES]
        return labels, self._job(evaluate.main, "evaluate")

    def _claim_folder(self) -> None:
        """Remember the seed in the folder; refuse to go on with another one's images and networks."""
        path = Path(self.folder, SEED_FILE)
        if not path.exists():
            write_json(str(path), {"seed": self.seed})
        known = read_json(str(path))["seed"]
        if known != self.seed:
            raise ValueError(f"{self.folder} holds the demo of seed {known}, got {self.seed}; choose another --folder")

    def _label(self, frontier: Frontier, share: float) -> scores.Row:
        """Label the images with one budget; what it cost and how right it was."""
        asked = gflops_text(frontier.minimum_gflops + share * (frontier.maximum_gflops - frontier.minimum_gflops))
        name = f"label-{share:g}"
        folder = f"{self.folder}/{name}"
        self._job(label.main, "label", f"run.folder={folder}", f"budget.gflops_per_image={asked}", step=name)
        row = label_row(folder, float(asked))
        say(f"asked {asked} GFLOPs per image, spent {_text(row['gflops'])}, {100 * row['accuracy']:.1f} % right")
        return row

    def _job(self, job: Main, name: str, *overrides: str, step: str | None = None) -> str:
        """Run one job with its configuration of the demo; what it wrote to stdout. Raises StepFailedError."""
        arguments = ["--config", configuration(name, self.folder)]
        for override in (f"run.seed={self.seed}", *overrides):
            arguments += ["--set", override]
        say(f"\n== python -m {job.__module__} {' '.join(arguments)}")
        with self._step(step or name), contextlib.redirect_stdout(io.StringIO()) as written:
            code = job(arguments)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code != 0:
            sys.stdout.write(written.getvalue())
            raise StepFailedError(code)
        return written.getvalue()

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def say(text: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _text(gflops: float) -> str:
    return gflops_text(gflops)


def generate(folder: str, seed: int) -> None:
    """Write the generated images, once."""
    for split in SPLITS:
        target = Path(folder, "data", split.name)
        if not target.exists():
            synthetic.write_dataset(target, split.num_images, seed=SEEDS_PER_RUN * seed + split.number)


def configuration(name: str, folder: str) -> str:
    """The configuration of a step; for another folder than the demo's own a copy of it whose paths lie there."""
    path = CONFIGS / f"{name}.yaml"
    if folder == FOLDER:
        return str(path)
    copy = Path(folder, "configs", path.name)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(yaml.safe_dump(_moved(yaml.safe_load(path.read_text()), folder), sort_keys=False))
    return str(copy)


def _moved(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _moved(inner, folder) for key, inner in value.items()}
    inside = isinstance(value, str) and value.startswith(FOLDER)
    return folder + value.removeprefix(FOLDER) if inside else value


def frontier_of(folder: str) -> Frontier:
    """The frontier of the demo's bundle."""
    frontier = load_bundle(f"{folder}/bundle").frontier
    assert frontier is not None
    return frontier


def label_row(folder: str, asked_gflops: float) -> scores.Row:
    """What the label job in ``folder`` cost and how right it was, as a row of the last table."""
    rows = pa.concat_tables(label_tables(RunFolder(folder).labels))
    # The generator writes each image into the folder of its class, so the truth is in the name.
    truth = [uri.split("/")[-2] for uri in rows["uri"].to_pylist()]
    right = sum(name == said for name, said in zip(truth, rows["label"].to_pylist(), strict=True))
    spent = sum(rows["gflops"].to_pylist()) / len(rows)
    accuracy = right / len(rows)
    return {"asked_gflops": asked_gflops, "gflops": spent, "accuracy": accuracy, "images": len(rows), "folder": folder}


if __name__ == "__main__":
    sys.exit(main())
