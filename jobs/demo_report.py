"""What the demo found, from the reports of its jobs: the summary, the lines to take away, and the tables below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anchornet.budget.frontier import Frontier
from anchornet.report import scores
from anchornet.systems.anchornet.system import PATCHES_ALONE, RANDOM_PATCHES
from anchornet.units import gflops_text
from jobs.scoring.exits import FULL

LABEL_COLUMNS = {
    "asked_gflops": "asked GFLOPs per image",
    "gflops": "spent",
    "accuracy": "accuracy",
    "images": "images",
    "folder": "run folder",
}


def summarise(
    seed: int,
    evaluation: dict[str, Any],
    labels: Sequence[scores.Row],
    seconds: dict[str, float],
    calibration: Sequence[str],
) -> dict[str, Any]:
    """``summary.json``. evaluation: report of the evaluate job, with a full network; labels: rows of LABEL_COLUMNS; calibration:
    what it chose or dropped, in sentences."""
    references = evaluation["references"]
    [full] = [row for row in references if row["reference"] == FULL]
    return {
        "seed": seed,
        "calibration": list(calibration),
        "anchor_patch_accuracy": [row["accuracy"] for row in references if row["reference"] == PATCHES_ALONE],
        "random_patch_accuracy": [row["accuracy"] for row in references if row["reference"] == RANDOM_PATCHES],
        "full": _point(full),
        "frontier": [_point(row) for row in evaluation["frontier"]],
        "labels": [{key: row[key] for key in LABEL_COLUMNS if key != "folder"} for row in labels],
        "seconds": {phase: round(value, 1) for phase, value in seconds.items()},
    }


def _point(row: scores.Row) -> scores.Row:
    return {"gflops": row["gflops"], "accuracy": row["accuracy"]}


def take_away(summary: dict[str, Any]) -> list[str]:
    """Three lines: what looking at everything costs and gets, what the cascade gets, what AnchorNet's patches are worth."""
    full, anchor, random = (summary[key] for key in ("full", "anchor_patch_accuracy", "random_patch_accuracy"))
    return [
        f"The full network looks at every pixel: {_percent(full['accuracy'])} right for {_gflops(full)}.",
        _cascade_line(summary["frontier"], full),
        f"One patch that AnchorNet chose: {_percent(anchor[0])} right. One patch at random: {_percent(random[0])}.",
    ]


def _cascade_line(frontier: Sequence[scores.Row], full: scores.Row) -> str:
    """The cheapest budget that reaches the full network's accuracy; where none does, the best there is, said to be less."""
    as_good = scores.cheapest_as_good(frontier, full["accuracy"])
    best = as_good or max(frontier, key=lambda row: (row["accuracy"], -row["gflops"]))
    reach = "" if as_good else " (less than the full network)"
    share = 100 * best["gflops"] / full["gflops"]
    return f"The cascade: {_percent(best['accuracy'])} right{reach} for {_gflops(best)}, {share:.0f} % of that cost."


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.1f} %"


def _gflops(row: scores.Row) -> str:
    return f"{gflops_text(row['gflops'])} GFLOPs per image"


def last_screen(
    summary: dict[str, Any], labels: Sequence[scores.Row], frontier: Frontier, evaluation: str, folder: str
) -> str:
    """The lines to take away, the tables, where the pictures are. evaluation: the evaluate job's own report as text."""
    minutes = sum(summary["seconds"].values()) / 60
    parts = ["\n".join(take_away(summary)), *summary["calibration"], evaluation.rstrip()]
    parts += [f"Labels\n\n{scores.markdown(labels, LABEL_COLUMNS)}"]
    parts += [text] if (text := scores.single_point(frontier)) else []
    parts += [
        f"Pictures: {folder}/data/images (what was labelled), {folder}/calibrate/frontier.png (what a budget buys)"
    ]
    parts += [f"The demo took {minutes:.1f} minutes; everything is in {folder}, the numbers in {folder}/summary.json."]
    return "\n\n".join(parts) + "\n"
