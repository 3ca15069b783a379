"""Label a folder of images under a compute budget.

    python -m jobs.label --config jobs/configs/label.yaml --set budget.gflops_per_image=1.1

Images stream from storage through two pools of actors; the same command in the same run folder goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.data import DataContext, Dataset
from ray.data.checkpoint import CheckpointConfig

from anchornet.bundle import load_bundle
from anchornet.files import storage
from jobs.data import ingest
from jobs.labelling.actors import CALLS_IN_FLIGHT, StageActor, StageWork, pool_options
from jobs.labelling.dry_run import dry_run
from jobs.labelling.folder import (
    CHECKPOINT_FOLDER,
    LABELS_FOLDER,
    MARK_FILE,
    REPORT_FILE,
    check_same_run,
    drop_doubtful_commits,
)
from jobs.labelling.ledger_actor import start_ledger
from jobs.labelling.plan import SMALL_TASK_CPUS, LabelPlan, check_resources, plan_label
from jobs.labelling.progress import progress_lines
from jobs.labelling.report import exit_code, make_report, render
from jobs.settings import LabelConfig
from jobs.shell.session import ray_session, run_job, save_provenance, write_json

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when every image of the manifest has exactly one row."""
    return run_job(LabelConfig, execute, __doc__, argv, flags=("dry_run",))


def execute(config: LabelConfig) -> int:
    """Plan, run the pipeline, report."""
    bundle = load_bundle(config.bundle)
    num_images = ingest.open_manifest(config.run.folder, config.input)
    plan = plan_label(config, bundle, num_images)
    sys.stderr.write(plan.summary() + "\n")
    with ray_session(config.cluster):
        resources = ray.cluster_resources()
        check_resources(config, resources.get("CPU", 0.0), resources.get("GPU", 0.0))
        if config.dry_run:
            return dry_run(config, bundle, plan, run_pipeline)
        check_same_run(config, bundle)
        report = _finished_report(config, plan) or _run(config, plan)
    sys.stdout.write(render(report) + "\n")
    return exit_code(report, config.max_failed_fraction)


def _finished_report(config: LabelConfig, plan: LabelPlan) -> dict[str, Any] | None:
    """The report of a run that has nothing left to do."""
    uri = storage.join(config.run.folder, REPORT_FILE)
    return None if plan.remaining or not storage.exists(uri) else json.loads(storage.read_bytes(uri))


def _run(config: LabelConfig, plan: LabelPlan) -> dict[str, Any]:
    """Label what remains; the report, written also when the pipeline fails."""
    save_provenance(config)
    drop_doubtful_commits(config.run.folder)
    started = time.perf_counter()
    ledger = start_ledger(plan.ledger, storage.absolute(storage.join(config.run.folder, MARK_FILE)))
    try:
        if plan.remaining:
            run_pipeline(config, plan, ledger)
    finally:
        ray.get(ledger.close.remote())
        report = make_report(config, plan, ray.get(ledger.report.remote()), time.perf_counter() - started)
        write_json(storage.join(config.run.folder, REPORT_FILE), report)
        ray.kill(ledger)
    return report


def run_pipeline(config: LabelConfig, plan: LabelPlan, ledger: ActorHandle) -> None:
    """Stream every image that has no row yet through the pools and write its row."""
    labels = storage.absolute(storage.join(config.run.folder, LABELS_FOLDER))
    file_system, path = storage.resolve(labels)
    context = DataContext.get_current()
    context.checkpoint_config = checkpointing(config.run.folder)
    try:
        with progress_lines(ledger, plan.exits):
            pipeline(config, ledger).write_parquet(
                path,
                filesystem=file_system,
                min_rows_per_file=config.rows_per_file,
                ray_remote_args={"num_cpus": SMALL_TASK_CPUS},
            )
    finally:
        context.checkpoint_config = None


def pipeline(config: LabelConfig, ledger: ActorHandle) -> Dataset:
    """Manifest rows -> output rows, lazily."""
    files = [storage.resolve(uri)[1] for uri in ingest.manifest_files(config.run.folder)]
    file_system, _ = storage.resolve(config.run.folder)
    rows = ray.data.read_parquet(files, filesystem=file_system, num_cpus=SMALL_TASK_CPUS)
    # Manifest rows are small: cut them into blocks of one batch, so that reading and decoding runs in many tasks.
    rows = rows.repartition(target_num_rows_per_block=config.stage1.batch_size)
    rows = rows.map_batches(
        ingest.ReadAndDecode(config.input.max_pixels, config.input.read_threads),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=config.input.decode_cpus,
        # Declared for its own sake, and because tasks with the same resources as the actors after them would be fused
        # into those: images would then be decoded by the processes that hold the GPUs.
        memory=ingest.decode_memory_bytes(config.input.max_pixels, config.stage1.batch_size),
    )
    for index, pool in enumerate((config.stage1, config.stage2)):
        work = StageWork(storage.absolute(config.bundle), index, pool, config.inference)
        rows = rows.map_batches(
            StageActor,
            fn_constructor_args=(work, ledger),
            batch_size=pool.batch_size,
            batch_format="pyarrow",
            **pool_options(pool, CALLS_IN_FLIGHT),
        )
    return rows


def checkpointing(run_folder: str) -> CheckpointConfig:
    """Ray Data's own resume: ids of written rows are kept beside the labels, and dropped before any download."""
    folder = storage.absolute(storage.join(run_folder, CHECKPOINT_FOLDER))
    file_system, path = storage.resolve(folder)
    return CheckpointConfig(
        id_column="image_id", checkpoint_path=path, override_filesystem=file_system, delete_checkpoint_on_success=False
    )


if __name__ == "__main__":
    sys.exit(main())
