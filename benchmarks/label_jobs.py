"""Label jobs on test photographs with the networks of jobs/configs/SET: what was asked, promised, spent and right.

    PYTHONPATH=.:runs/photographs/packages python -m benchmarks.label_jobs --set grocery \
        --photographs ../shared/data/grocery-store --folder runs/photographs/grocery-labels

Calibrates a bundle of the runs distilled, glance and patch on the validation photographs, then labels the test photographs under
each budget in both modes, by ``jobs.calibrate`` and ``jobs.label`` as anyone would. ``--input s3://BUCKET/PREFIX`` reads the
test photographs, uploaded with their class folders, from there and writes the run folders beside them. A job whose report is
there is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from anchornet.files import storage
from anchornet.report.label_counts import label_tables
from benchmarks.last_layers import standard_error
from benchmarks.markdown import line, percent
from jobs.shell.run_folder import RunFolder

MODES = ("hard", "fixed")
COLUMNS = (
    "mode",
    "asked GFLOPs per image",
    "spent",
    "used",
    "promised",
    "right",
    "ok / unreadable / failed",
    "images/s",
)


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every job ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True, dest="name", help="grocery or clothing: whose runs below runs/")
    parser.add_argument("--photographs", required=True, help="folder that holds validation and test")
    parser.add_argument("--folder", required=True, help="where bundle and run folders go")
    parser.add_argument("--input", help="test photographs elsewhere (s3://BUCKET/PREFIX)")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.08, 0.10, 0.16], help="GFLOPs per image")
    arguments = parser.parse_args(argv)
    bundle = storage.join(arguments.folder, "bundle")
    if not storage.exists(storage.join(arguments.folder, "calibrate", "report.json")):
        runs = {"anchornet": "distilled", "glance": "glance", "patch": "patch"}
        models = [f"models.{role}=runs/{arguments.name}/{run}" for role, run in runs.items()]
        told = [f"run.folder={arguments.folder}/calibrate", f"bundle={bundle}", *models]
        job("calibrate", [*told, f"data.path={arguments.photographs}/validation"])
    where = arguments.input or f"{arguments.photographs}/test"
    found = list(measure(arguments.folder, bundle, where, arguments.budgets))
    print("\n".join([line(COLUMNS), line(["---"] * len(COLUMNS)), *(line(each) for each in found)]))
    return 0


def job(name: str, told: Sequence[str]) -> None:
    """Run one of this project's jobs with its shipped configuration and these settings."""
    settings = [part for value in told for part in ("--set", value)]
    subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", "--config", f"jobs/configs/{name}.yaml", *settings], check=True
    )


def measure(folder: str, bundle: str, where: str, budgets: Sequence[float]) -> Iterator[list[str]]:
    """A row of the table per job."""
    for mode in MODES:
        for budget in budgets:
            run = storage.join(folder, f"{mode}-{budget:g}")
            if not storage.exists(storage.join(run, "report.json")):
                told = [f"run.folder={run}", f"bundle={bundle}", f"input.path={where}", f"budget.mode={mode}"]
                job("label", [*told, f"budget.gflops_per_image={budget!r}"])
            report = json.loads(storage.read_bytes(storage.join(run, "report.json")))
            yield cells(mode, budget, report, pa.concat_tables(label_tables(RunFolder(run).labels)))


def cells(mode: str, asked: float, report: Mapping[str, Any], labels: pa.Table) -> list[str]:
    """What one label job did; the class of a photograph is the folder it lies in."""
    truth = [unquote(uri).split("/")[-2] for uri in labels["uri"].to_pylist()]
    right_N = np.array([label == true for label, true in zip(labels["label"].to_pylist(), truth, strict=True)])
    return [
        mode,
        f"{asked:.3f}",
        f"{report['budget']['spent_gflops'] / report['images']:.4f}",
        percent(report["budget"]["used_fraction"]),
        percent(report["accuracy_expected"]),
        f"{percent(right_N.mean())} +- {100 * standard_error(right_N):.1f}",
        " / ".join(str(report["status"][status]) for status in ("ok", "unreadable", "failed")),
        f"{report['images_per_s']:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
