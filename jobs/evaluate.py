"""Accuracy and GFLOPs of every exit and along the frontier on a labelled set, beside references on the same images.

    python -m jobs.evaluate --config jobs/configs/evaluate.yaml

References: the full network on the whole 224x224 image (``full``), the glance alone, and random patches in place of
AnchorNet's, glance left out on both sides (the paper's Table 3).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from anchornet.budget.exit_table import ExitTable
from anchornet.bundle import Bundle, load_bundle
from anchornet.files import storage
from anchornet.models.macs import count_macs
from anchornet.report import scores
from anchornet.systems.anchornet.receptive_field import receptive_field
from anchornet.units import GIGA
from jobs.data.dataset import labelled_images
from jobs.data.listing import list_images
from jobs.scoring.exits import ExitWork, check_pool, collect
from jobs.settings import EvaluateConfig
from jobs.shell.session import ray_session, run_job, save_provenance, write_json
from jobs.training.loop import model_folder

NUM_BUDGETS = 7
SCORES = {"accuracy": "accuracy", "accuracy_standard_error": "standard error", "gflops": "GFLOPs per image"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the tables are written."""
    return run_job(EvaluateConfig, execute, __doc__, argv)


def execute(config: EvaluateConfig) -> int:
    """Collect once, score everything from the tables."""
    bundle = load_bundle(config.bundle)
    if bundle.frontier is None:
        raise ValueError(f"bundle {config.bundle} has no frontier; run python -m jobs.calibrate first")
    work = ExitWork(
        bundle=storage.absolute(config.bundle),
        pool=config.pool,
        inference=config.inference,
        references=True,
        full=storage.absolute(model_folder(config.full)) if config.full else None,
    )
    if work.full and not storage.exists(work.full):
        raise ValueError(f"full {config.full} does not exist; train it with role=full, or set full to null")
    found = list_images(config.data, bundle.classes, seed=config.run.seed)
    with ray_session(config.cluster):
        check_pool(config.pool, config.cluster)
        save_provenance(config)
        tables = collect(labelled_images(found), work, bundle)
    budgets = config.gflops_per_image or scores.spread(bundle.frontier, NUM_BUDGETS)
    report = {
        "num_images": len(tables["cascade"].image_id),
        "num_unreadable": found.num_images - len(tables["cascade"].image_id),
        "exits": scores.exit_rows(tables["cascade"]),
        "frontier": scores.frontier_rows(bundle.frontier, tables["cascade"], budgets),
        "references": reference_rows(tables, glance_gflops(bundle)),
        "patches": patch_rows(tables),
    }
    write_json(storage.join(config.run.folder, "report.json"), report)
    text = render(report)
    storage.write_bytes(storage.join(config.run.folder, "report.md"), text.encode())
    sys.stdout.write(text)
    return 0


def glance_gflops(bundle: Bundle) -> float:
    """GFLOPs of a glance by itself: in the cascade's own order it may come after AnchorNet, whose cost it then carries."""
    size = receptive_field(bundle.anchornet).size
    return count_macs(bundle.glance, (1, 3, size, size)) / GIGA


def reference_rows(tables: dict[str, ExitTable], glance_gflops: float) -> list[scores.Row]:
    """What one would do without a cascade: the full network, the glance alone."""
    full = scores.exit_rows(tables["full"]) if "full" in tables else []
    glance = next(row for row in scores.exit_rows(tables["cascade"]) if row["exit"] == "glance")
    rows = [{"reference": "full network at 224", **row} for row in full]
    return [*rows, {"reference": "glance only", **glance, "gflops": glance_gflops}]


def patch_rows(tables: dict[str, ExitTable]) -> list[scores.Row]:
    """Patches alone, summed: AnchorNet's choice beside random ones."""
    chosen, random = (scores.exit_rows(tables[name]) for name in ("patches", "random"))
    pairs = [(ours, theirs) for ours, theirs in zip(chosen, random, strict=True) if ours["exit"].startswith("patch")]
    return [
        {
            "patches": ours["exit"].removeprefix("patch"),
            "anchor_accuracy": ours["accuracy"],
            "random_accuracy": theirs["accuracy"],
        }
        for ours, theirs in pairs
    ]


def render(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    headed = [
        ("Every image leaves at", report["exits"], {"exit": "exit", **SCORES}),
        (
            "Along the frontier",
            report["frontier"],
            {"asked_gflops": "asked GFLOPs", **SCORES, "expected_accuracy": "expected"},
        ),
        ("References", report["references"], {"reference": "", **SCORES}),
        (
            "Patches alone",
            report["patches"],
            {"patches": "patches", "anchor_accuracy": "AnchorNet's", "random_accuracy": "random"},
        ),
    ]
    parts = [f"{report['num_images']} images"]
    parts += [f"{title}\n\n{scores.markdown(rows, columns)}" for title, rows, columns in headed]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
