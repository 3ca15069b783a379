"""Label a folder of images under a compute budget.

    python -m jobs.label --config jobs/configs/label.yaml --set budget.gflops_per_image=1.1

Images stream from storage through one pool of actors per stage of the cascade; the same command in the same run folder
goes on where it stopped. ``--shard 2/4`` labels the second of four equal parts of the input, in a run folder of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import ray

from anchornet.bundle import load_bundle
from anchornet.data.manifest import open_manifest
from jobs.labelling.dry_run import dry_run
from jobs.labelling.ledger_actor import LedgerHandle, answer, start_ledger
from jobs.labelling.pipeline import run_pipeline
from jobs.labelling.plan import LabelPlan, plan_label, with_pools
from jobs.labelling.report import exit_code, make_report, render, write_outcome
from jobs.labelling.resume import check_ours, drop_doubtful_commits, identity, retry_failed
from jobs.resources.capacity import cluster_capacity
from jobs.settings.label import LabelConfig
from jobs.shell.job import run_job
from jobs.shell.progress import progress
from jobs.shell.provenance import save_provenance
from jobs.shell.ray_session import ray_session
from jobs.shell.run_folder import RunFolder
from jobs.shell.terminal import result, say
from jobs.shell.worker_log import log_notes


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when every image of the manifest has exactly one row."""
    flags, shorts = ("dry_run", "retry_failed"), {"shard": "input.shard"}
    return run_job(LabelConfig, execute, __doc__, argv, flags, shorts)


def execute(config: LabelConfig) -> int:
    """Plan, run the pipeline, report."""
    bundle, folder = load_bundle(config.bundle), RunFolder(config.run.folder)
    with progress(f"listing {config.input.path}"):
        num_images = open_manifest(folder.manifest, config.input, config.run.seed)
    plan = plan_label(config, bundle, num_images)
    say(plan.summary())
    with ray_session(config.cluster, config.run.folder):
        if again := retry_failed(folder, config.retry_failed):
            plan = plan_label(config, bundle, num_images)
            say(f"{again:,} images that had failed are tried again\n{plan.summary()}")
        plan = with_pools(config, plan, cluster_capacity(config.cluster))
        if config.dry_run:
            return dry_run(config, bundle, plan)
        folder.check_same(identity(config, bundle))
        report = None if plan.remaining else folder.read_report()  # of a run that has nothing left to do
        if report is None:
            folder.remember(identity(config, bundle))
            report = _run(config, plan)
    result(render(report, config.max_failed_fraction) + "\n")
    return exit_code(report, config.max_failed_fraction)


def _run(config: LabelConfig, plan: LabelPlan) -> dict[str, Any]:
    """Label what remains; the report, written also when the pipeline fails."""
    folder = RunFolder(config.run.folder)
    started = time.perf_counter()
    ledger = start_ledger(plan.ledger, folder.absolute.mark)
    try:  # from here on the run folder is this job's alone
        save_provenance(config)
        drop_doubtful_commits(folder)
        folder.forget_success()
        if plan.remaining:
            run_pipeline(config, plan, ledger)
    except Exception as error:
        check_ours(folder, error)
        raise
    finally:
        report = _end(config, plan, ledger, time.perf_counter() - started)
    return report


def _end(config: LabelConfig, plan: LabelPlan, ledger: LedgerHandle, wall_s: float) -> dict[str, Any]:
    """Close the ledger and write the report."""
    folder = RunFolder(config.run.folder)
    try:
        answer(ledger.close.remote())
    except ray.exceptions.RayTaskError as error:
        check_ours(folder, error)
        raise
    finally:
        state = answer(ledger.report.remote())
        log_notes(answer(ledger.take_notes.remote()))
        ray.kill(ledger)
    report = make_report(config, plan, state, wall_s)
    write_outcome(folder, report)
    return report


if __name__ == "__main__":
    sys.exit(main())
