"""Accuracy and GFLOPs of every exit and along the frontier on a labelled set, beside references on the same images.

    python -m jobs.evaluate --config jobs/configs/evaluate.yaml

References: a full network on whole images (``full``), and what the bundle's system is compared with; for AnchorNet the
glance alone, and patches alone, its own and random ones (the paper's Table 3).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from anchornet.budget.exit_table import ExitTable
from anchornet.bundle import load_bundle
from anchornet.data.sources import list_images
from anchornet.files import storage
from anchornet.files.documents import write_json
from anchornet.report import scores
from jobs.data.dataset import labelled_images
from jobs.resources.capacity import cluster_capacity
from jobs.scoring.exits import CASCADE, ExitWork, check_pool, collect, exit_names, stall_of
from jobs.settings.scoring import EvaluateConfig
from jobs.shell.job import run_job
from jobs.shell.progress import progress
from jobs.shell.provenance import save_provenance
from jobs.shell.ray_session import ray_session
from jobs.shell.run_folder import RunFolder, model_in
from jobs.shell.terminal import result

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
    budgets = config.gflops_per_image or scores.spread(bundle.frontier, NUM_BUDGETS)
    bundle.frontier.at(min(budgets))  # refuses one below the first exit before anything is started
    work = _work(config)
    with progress(f"listing {config.data.path}"):
        found = list_images(config.data, bundle.classes, seed=config.run.seed)
    names = exit_names(work)
    with ray_session(config.cluster, config.run.folder):
        check_pool(config.pool, cluster_capacity(config.cluster))
        save_provenance(config)
        tables = collect(
            labelled_images(found, bundle.preprocessing), work, names, stall_of(config.pool, config.cluster)
        )
    report = {
        "num_images": len(tables[CASCADE].image_id),
        "num_unreadable": found.num_images - len(tables[CASCADE].image_id),
        "exits": scores.exit_rows(tables[CASCADE]),
        "frontier": scores.frontier_rows(bundle.frontier, tables[CASCADE], budgets),
        "single_point": scores.single_point(bundle.frontier),
        "references": reference_rows(tables, {each.name: each.exits for each in bundle.references()}),
    }
    folder, text = RunFolder(config.run.folder), render(report)
    write_json(folder.report, report)
    storage.write_bytes(folder.report_text, text.encode())
    result(text)
    return 0


def _work(config: EvaluateConfig) -> ExitWork:
    """What the actors compute. Raises ValueError when the full network is not there."""
    full = storage.absolute(model_in(config.full)) if config.full else None
    if full and not storage.exists(full):
        raise ValueError(f"full {config.full} does not exist; train it with recipe classifier, or set full to null")
    return ExitWork(
        bundle=storage.absolute(config.bundle),
        pool=config.pool,
        inference=config.inference,
        references=True,
        full=full,
    )


def reference_rows(tables: Mapping[str, ExitTable], shown: Mapping[str, Sequence[str]]) -> list[scores.Row]:
    """One row per reference and exit worth showing; shown: names of those exits, all where a reference is not named."""
    return [
        {"reference": name, **row}
        for name, table in tables.items()
        if name != CASCADE
        for row in scores.exit_rows(table)
        if row["exit"] in shown.get(name, table.exits)
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
        ("References", report["references"], {"reference": "", "exit": "exit", **SCORES}),
    ]
    parts = [f"{report['num_images']} images"]
    if report["num_unreadable"]:
        parts[0] += f", {report['num_unreadable']} more could not be read"
    parts += filter(None, [report["single_point"]])
    for heading, rows, columns in headed:
        if rows:
            parts += [heading, scores.markdown(rows, columns)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
