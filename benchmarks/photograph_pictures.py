"""Pictures of what ``benchmarks.photographs`` found: accuracy against cost, and photographs with what was said after each look.

    python -m benchmarks.photograph_pictures --photographs ../shared/data/grocery-store --folder runs/photographs/grocery \
        --into docs/pictures

Writes ``frontier.png`` and ``looks.jpg``. Test photographs; which ones are shown is drawn by a fixed seed among those that leave
at each exit.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from anchornet.budget.frontier import first_exit
from anchornet.bundle import Bundle, load_bundle
from anchornet.cascade.protocol import Step
from anchornet.images.preprocess import Preprocessing
from anchornet.units import GIGA
from benchmarks.combination import Ways, judge, way
from benchmarks.last_layers import standard_error
from benchmarks.photographs import SPLITS, pixels_of, splits, table_of

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

BUDGET = 0.13
"""GFLOPs per image of the policy under which the photographs are shown."""
PER_EXIT = 2
SEED = 5


def main(argv: Sequence[str] | None = None) -> int:
    """0 when both pictures are written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", required=True, help="folder that holds train, validation and test")
    parser.add_argument("--folder", required=True, help="folder of benchmarks.photographs")
    parser.add_argument("--into", required=True, help="folder of the pictures")
    arguments = parser.parse_args(argv)
    logging.getLogger("anchornet").setLevel(logging.ERROR)  # budgets beyond the useful maximum are shown on purpose
    folder, into = Path(arguments.folder).absolute(), Path(arguments.into)
    sys.path.insert(0, str(folder.parent / "packages"))
    bundle = load_bundle(str(folder / "bundle"))
    content = {split: np.load(folder / f"views-{split}.npz") for split in SPLITS}
    chosen, random = (
        {split: table_of(bundle, each[name], each["label"]) for split, each in content.items()}
        for name in ("views", "random")
    )
    fitted = way("fitted weights", bundle, chosen, "fitted", drop_exits=True)
    ways = [
        fitted,
        way("fitted weights, random patches", bundle, random, "fitted", drop_exits=True),
        way("the paper's sum", bundle, chosen, "sum"),
    ]
    test = content["test"]
    into.mkdir(parents=True, exist_ok=True)
    full_right = test["full"].argmax(1) == test["label"]
    draw_frontier(into / "frontier.png", ways, full_right, float(test["full_macs"]) / GIGA)
    draw_looks(into / "looks.jpg", bundle, fitted, Path(arguments.photographs))
    return 0


def draw_frontier(path: Path, ways: Sequence[Ways], full_right_N: np.ndarray, full_gflops: float) -> None:
    """Accuracy on the test photographs against what was spent on each; a band of one standard error."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for each in ways:
        frontier = each.calibration.frontier
        found = [judge(each.test, frontier, spend) for spend in np.linspace(*_range(each), 60)]
        gflops = [point.gflops for point in found]
        accuracy = np.array([100 * point.right_N.mean() for point in found])
        error = np.array([100 * standard_error(point.right_N) for point in found])
        [curve] = axes.plot(gflops, accuracy, label=each.name)
        axes.fill_between(gflops, accuracy - error, accuracy + error, alpha=0.15, color=curve.get_color())
    axes.errorbar(
        full_gflops,
        100 * full_right_N.mean(),
        100 * standard_error(full_right_N),
        fmt="ks",
        label="full network at 224",
    )
    axes.set_xlabel("GFLOPs per image")
    axes.set_ylabel("accuracy on test photographs, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _range(each: Ways) -> tuple[float, float]:
    return each.calibration.frontier.minimum_gflops, each.calibration.frontier.maximum_gflops


def draw_looks(path: Path, bundle: Bundle, fitted: Ways, photographs: Path) -> None:
    """Photographs that left at each exit under the policy of BUDGET, with the patches looked at and what was said."""
    policy = fitted.calibration.frontier.at(BUDGET)
    leaves = first_exit(fitted.test.confidence, policy.thresholds_for(fitted.test.image_id))
    generator, rows = np.random.default_rng(SEED), []
    for exit_index in range(len(fitted.test.exits)):
        here = np.flatnonzero(leaves == exit_index)
        rows += generator.permutation(here)[:PER_EXIT].tolist()
    files, label_N, names = splits(photographs, "test")
    figure, grid = plt.subplots(
        PER_EXIT, len(rows) // PER_EXIT, figsize=(2.9 * (len(rows) // PER_EXIT), 4.4 * PER_EXIT)
    )
    for axes, row in zip(grid.T.ravel(), rows, strict=True):
        _draw_one(axes, bundle, fitted, files[row], row, int(leaves[row]), names, int(label_N[row]))
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _draw_one(
    axes: Axes, bundle: Bundle, fitted: Ways, file: Path, row: int, leaves: int, names: Sequence[str], truth: int
) -> None:
    pixels = pixels_of([file], Preprocessing.of_size(224)).transpose(0, 2, 3, 1).copy()
    cascade = bundle.as_built()
    step: Step
    step, _ = cascade.advance(cascade.start(pixels), 0)
    assert step.boxes_nP3 is not None
    axes.imshow(pixels[0])
    axes.axis("off")
    looked_at = [name for name in fitted.test.exits[: leaves + 1] if name.startswith("patch")]
    for number, (top, left, size) in enumerate(step.boxes_nP3[0][: len(looked_at)]):
        axes.add_patch(Rectangle((left, top), size, size, fill=False, color="yellow", linewidth=1.5))
        axes.text(left + 4, top + 16, str(number + 1), color="yellow", fontsize=11)
    lines = [f"is {names[truth]}"]
    for k, name in enumerate(fitted.test.exits[: leaves + 1]):
        said = int(fitted.test.prediction[row, k])
        right = "yes" if said == truth else "no"
        lines.append(f"{name}: {names[said][:26]} ({fitted.test.confidence[row, k]:.2f}, {right})")
    axes.set_title("\n".join(lines), fontsize=7.5, loc="left")


if __name__ == "__main__":
    sys.exit(main())
