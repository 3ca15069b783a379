"""Run all exits on held-out labelled images and put the exit table and the frontier into the bundle.

    python -m jobs.calibrate --config jobs/configs/calibrate.yaml
    python -m jobs.calibrate --config jobs/configs/calibrate.yaml --set labelled=false --set data.path=FOLDER

With ``models`` given the bundle is put together from trained networks first; without, it must exist already (imported).
Every network looks at every calibration image once. What they said is then combined by weights that are learned from it
(``combine: fitted``; docs/combination.md), and exits that are not worth their price are dropped (``drop_exits``). Everything that
is shown is measured on images that neither weights nor policies were fitted on.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from anchornet.budget.combination import Combination
from anchornet.budget.confidence import calibration_errors
from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import Frontier, check_enough
from anchornet.bundle import assemble_bundle, check_roles, load_bundle, write_calibration
from anchornet.calibration import calibrate
from anchornet.cascade.view_table import Combined
from anchornet.data.listing import Listing
from anchornet.data.sources import list_images
from anchornet.data.unlabelled import list_unlabelled
from anchornet.files import storage
from anchornet.files.documents import write_json
from anchornet.models.card import load_model
from anchornet.report import scores
from anchornet.report.pictures import frontier_picture
from jobs.data.dataset import labelled_images
from jobs.resources.capacity import cluster_capacity
from jobs.scoring.exits import ExitWork, check_pool, stall_of
from jobs.scoring.views import collect_views
from jobs.settings.scoring import CalibrateConfig
from jobs.shell.job import run_job
from jobs.shell.progress import progress
from jobs.shell.provenance import save_provenance
from jobs.shell.ray_session import ray_session
from jobs.shell.run_folder import RunFolder, model_in
from jobs.shell.terminal import result

logger = logging.getLogger(__name__)

NUM_BUDGETS = 7
SHOWN_CLASSES = 10
UNKNOWN = (
    "Without labels nothing is known to be right. So there is no accuracy here or in the plan of a label job, label rows get no "
    "confidence, and the useful maximum is every exit of every image, whether or not the later exits are any better. A budget "
    "is met as exactly as with labels."
)
"""What a calibration on unlabelled images cannot show."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the bundle holds an exit table and a frontier."""
    return run_job(CalibrateConfig, execute, __doc__, argv)


def execute(config: CalibrateConfig) -> int:
    """List, assemble, collect, fit, write."""
    with progress(f"listing {config.data.path}"):  # before a calibrated bundle is replaced
        found = _listing(config)
    if config.models:
        assemble_bundle(config.bundle, _model_folders(config), config.system)
    bundle = load_bundle(config.bundle)
    work = ExitWork(storage.absolute(config.bundle), config.pool, config.inference)
    cascade = bundle.as_built()  # what cannot be met is refused before anything is started
    with ray_session(config.cluster, config.run.folder):
        check_pool(config.pool, cluster_capacity(config.cluster))
        save_provenance(config)
        views = collect_views(
            labelled_images(found, bundle.preprocessing), work, cascade, stall_of(config.pool, config.cluster)
        )
    _warn_of_unreadable(found.num_images, len(views.image_id))
    with progress(f"fitting on {len(views.image_id):,} images"):
        calibration = calibrate(bundle, views, config.combine, drop_exits=config.drop_exits)
    frontier, (combination, held) = calibration.frontier, calibration.combined
    _warn_of_missing(scores.classes_without_images(held.table, bundle.classes), len(bundle.classes))
    write_calibration(config.bundle, held.table, frontier, combination=combination, settings=calibration.settings)
    folder = RunFolder(config.run.folder)
    storage.write_bytes(folder.picture, frontier_picture(frontier))
    report = {**summarise(frontier, calibration.combined, bundle.classes), "said": list(calibration.said)}
    write_json(folder.report, report)
    result(render(report))
    return 0


def _listing(config: CalibrateConfig) -> Listing:
    """The calibration images; raises ValueError when there are too few, or when their classes are not the networks'."""
    classes = _classes(config)
    if config.labelled:
        found = list_images(config.data, classes, seed=config.run.seed)
    else:
        found = list_unlabelled(config.data, seed=config.run.seed)
    check_enough(found.num_images)
    return found


def _classes(config: CalibrateConfig) -> tuple[str, ...]:
    """The class names of the networks, from the models that the bundle is made of or from the bundle that exists."""
    if config.models:
        check_roles(config.models, config.system)
        _, card = load_model(next(iter(_model_folders(config).values())))
        return card.classes
    return load_bundle(config.bundle).classes


def _model_folders(config: CalibrateConfig) -> dict[str, str]:
    return {role: model_in(folder) for role, folder in config.models.items()}


def summarise(frontier: Frontier, calibrated: Combined, classes: Sequence[str]) -> dict[str, Any]:
    """What the frontier offers, how views are combined, and how far raw and calibrated confidence are from the truth; without
    labels, what it cannot show."""
    combination, held = calibrated
    budgets, table = scores.spread(frontier, NUM_BUDGETS), held.table
    return {
        "num_images": frontier.num_images,
        "labelled": frontier.labelled,
        "classes_without_images": list(scores.classes_without_images(table, classes)),
        "minimum_gflops": frontier.minimum_gflops,
        "maximum_gflops": frontier.maximum_gflops,
        "spend_error_fraction": frontier.spend_error,
        "budgets": scores.promise_rows(frontier, budgets),
        "single_point": scores.single_point(frontier),
        "exits": exit_rows(table, combination),
        "calibration_error": calibration_errors(held) if frontier.labelled else None,
        "combination": combination.to_plain(frontier.exits),
    }


def exit_rows(table: ExitTable, combination: Combination) -> list[scores.Row]:
    """One row per exit when every image leaves there, with the weights of the views that it combines."""
    rows = scores.exit_rows(table)
    for row, weights in zip(rows, combination.to_plain(table.exits)["weights"].values(), strict=True):
        row["weights"] = ", ".join(f"{view} {weight:.2f}" for view, weight in weights.items() if weight)
    return rows


def render(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    columns = {
        "gflops": "GFLOPs per image",
        "accuracy": "accuracy",
        "accuracy_standard_error": "standard error",
        "leaving": "leaving at",
    }
    head = f"{report['num_images']:,} images; spend of a fixed policy is known to {100 * report['spend_error_fraction']:.1f} %"
    if not report["labelled"]:
        del columns["accuracy"], columns["accuracy_standard_error"]
    missing = report["classes_without_images"]
    exits = {"exit": "exit", **{key: columns[key] for key in list(columns)[:-1]}, "weights": "weights of what was said"}
    said = [
        *report["said"],
        report["single_point"],
        missing_text(missing) if missing else None,
        None if report["labelled"] else UNKNOWN,
    ]
    tables = ["By budget", scores.markdown(report["budgets"], columns)]
    tables += ["Every image leaves at", scores.markdown(report["exits"], exits)]
    parts = [head, *tables, *filter(None, said)]
    return "\n\n".join(parts) + "\n"


def missing_text(missing: Sequence[str]) -> str:
    """A sentence about classes that no calibration image is of."""
    names = ", ".join(missing[:SHOWN_CLASSES]) + (", ..." if len(missing) > SHOWN_CLASSES else "")
    return f"No calibration image is of {names} ({len(missing)} of the classes): what is promised holds for images of the others."


def _warn_of_missing(missing: Sequence[str], num_classes: int) -> None:
    if missing:
        logger.warning("%d of %d classes have no calibration image, such as %s", len(missing), num_classes, missing[0])


def _warn_of_unreadable(listed: int, used: int) -> None:
    if used < listed:
        logger.warning("%d of %d images could not be read and are not in the exit table", listed - used, listed)


if __name__ == "__main__":
    sys.exit(main())
