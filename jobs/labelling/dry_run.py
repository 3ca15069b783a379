"""``label --dry-run``: what a job would cost and bring, from some hundreds of its own images, before it is run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from anchornet.bundle import Bundle
from anchornet.cascade.rows import OK
from anchornet.data.manifest import ROW_GROUP, read_manifest, read_rows, write_manifest
from anchornet.data.reading import ReadAndDecode
from anchornet.files import storage
from anchornet.files.documents import write_json
from anchornet.report.label_counts import label_tables
from anchornet.report.pictures import frontier_picture
from anchornet.units import GIGA
from jobs.data.manifest_rows import RowGroupContents
from jobs.labelling.ledger_actor import answer, start_ledger
from jobs.labelling.pipeline import run_pipeline
from jobs.labelling.plan import LabelPlan
from jobs.resources.capacity import cluster_capacity
from jobs.settings.label import LabelConfig
from jobs.shell.provenance import save_provenance
from jobs.shell.run_folder import RunFolder
from jobs.shell.terminal import result

SAMPLE_IMAGES = 384
DECODE_SAMPLE = 32
SECONDS_PER_HOUR = 3600.0


def dry_run(config: LabelConfig, bundle: Bundle, plan: LabelPlan) -> int:
    """Label a sample under the planned policy in a folder of its own, print and write the estimate; exit code 0."""
    sample_config, sample_plan = _sample(config, plan)
    save_provenance(sample_config)
    sample, folder = RunFolder(sample_config.run.folder), RunFolder(config.run.folder)
    ledger = start_ledger(sample_plan.ledger, sample.absolute.mark)
    run_pipeline(sample_config, sample_plan, ledger)
    state = answer(ledger.report.remote())
    ray.kill(ledger)
    rows = pa.concat_tables(label_tables(sample.labels))
    seconds = _seconds_per_image(config, plan, state, read_manifest(sample.manifest))
    estimate = make_estimate(config, plan, rows, seconds, cluster_capacity(config.cluster).now.cpus)
    assert bundle.frontier is not None
    picture = frontier_picture(bundle.frontier, plan.budget_macs / GIGA / plan.num_images)
    storage.write_bytes(folder.picture, picture)
    write_json(folder.estimate, estimate)
    result(render(estimate, folder) + "\n")
    return 0


def _sample(config: LabelConfig, plan: LabelPlan) -> tuple[LabelConfig, LabelPlan]:
    """The same job over a few images drawn by the run's seed, with the planned policy frozen."""
    run = RunFolder(config.run.folder)
    folder = run.at("dry_run", time.strftime("%Y%m%dT%H%M%S"))
    random, size = np.random.default_rng(config.run.seed), min(SAMPLE_IMAGES, plan.num_images)
    table = read_rows(run.manifest, np.sort(random.choice(plan.num_images, size, replace=False)))
    write_manifest(RunFolder(folder).manifest, table)
    ledger = replace(plan.ledger, num_images=len(table), fixed_policy=plan.policy)
    sample = replace(plan, num_images=len(table), num_labelled=0, ledger=ledger)
    return replace(config, run=replace(config.run, folder=folder)), sample


@dataclass(frozen=True)
class Seconds:
    """Seconds of work per image, averaged over all images of the sample."""

    decode: float
    """Read and decode, on one core of this machine."""
    stages: tuple[float, ...]
    """Compute of each stage, in one actor."""


def _seconds_per_image(config: LabelConfig, plan: LabelPlan, state: Mapping[str, Any], sample: pa.Table) -> Seconds:
    settings, table = config.input, sample.slice(0, DECODE_SAMPLE)
    decode = ReadAndDecode(plan.preprocessing, settings.max_pixels, settings.read_threads, settings.accept_truncated)
    started = time.perf_counter()
    in_groups = ROW_GROUP in table.column_names
    for rows in RowGroupContents(settings.image_column, DECODE_SAMPLE)(table) if in_groups else [table]:
        decode(rows)
    decode_s = (time.perf_counter() - started) / len(table)
    return Seconds(decode_s, tuple(seconds / len(sample) for seconds in state["stage_compute_s"]))


def make_estimate(
    config: LabelConfig, plan: LabelPlan, rows: pa.Table, seconds: Seconds, cluster_cpus: float
) -> dict[str, Any]:
    """Everything that the answer says, per image and for the whole job, from the label rows of the sample."""
    rate, limit = images_per_s(config, plan, seconds, cluster_cpus)
    hours = plan.remaining / rate / SECONDS_PER_HOUR
    ok = rows.filter(pc.equal(rows["status"], OK))
    spend = ok["gflops"].to_numpy()
    price = config.cluster.price_per_hour
    return {
        "images": plan.num_images,
        "remaining": plan.remaining,
        "sampled": len(rows),
        "sampled_ok": len(ok),
        "asked_gflops": plan.budget_macs / GIGA,
        "expected_gflops_per_image": float(spend.mean()) if len(ok) else 0.0,
        "expected_gflops_per_image_standard_error": float(spend.std() / max(1, len(ok)) ** 0.5) if len(ok) else 0.0,
        "planned_gflops_per_image": plan.policy.expected_gflops,
        "exits": {name: pc.sum(pc.equal(ok["exit"], name)).as_py() or 0 for name in plan.exits},
        "accuracy": plan.policy.accuracy,
        "accuracy_standard_error": plan.policy.accuracy_se,
        "mean_confidence": pc.mean(ok["confidence"]).as_py(),
        "seconds_per_image": {"decode": seconds.decode, **dict(zip(plan.stages, seconds.stages, strict=True))},
        "images_per_s": rate,
        "limited_by": limit,
        "wall_h": hours,
        "money": None if price is None else price * hours,
    }


def images_per_s(config: LabelConfig, plan: LabelPlan, seconds: Seconds, cluster_cpus: float) -> tuple[float, str]:
    """Images per second of the whole job, start-up left out, and what limits them.

    A pool can do (its largest size / seconds per image); reading and decoding has the logical CPUs that Ray has now and the
    pools leave. On a local Ray all work shares this machine's cores besides.
    """
    pools = plan.pools
    rates = {
        f"stage {name} ({pool.largest} actors)": pool.largest / stage_s
        for name, pool, stage_s in zip(plan.stages, pools, seconds.stages, strict=True)
        if stage_s > 0
    }
    left_cpus = cluster_cpus - sum(pool.largest * pool.cpus for pool in pools)
    tasks = max(1, int(left_cpus / config.input.decode_cpus))
    rates[f"reading and decoding ({tasks} tasks)"] = tasks / seconds.decode
    if config.cluster.is_local:
        cores = os.cpu_count() or 1
        threads = [min(cores, pool.threads or max(1, cores // pool.largest)) if not pool.gpus else 0 for pool in pools]
        core_s = seconds.decode + sum(n * s for n, s in zip(threads, seconds.stages, strict=True))
        rates[f"the {cores} cores of this machine"] = cores / core_s
    limit = min(rates, key=lambda name: rates[name])
    return rates[limit], limit


def render(estimate: Mapping[str, Any], folder: RunFolder) -> str:
    """The estimate in a few lines for a person."""
    exits = ", ".join(f"{name} {count}" for name, count in estimate["exits"].items())
    lines = [
        f"sampled {estimate['sampled']} of {estimate['images']:,} images, {estimate['sampled_ok']} of them readable",
        f"expected {estimate['expected_gflops_per_image']:.4f} +- {estimate['expected_gflops_per_image_standard_error']:.4f} "
        f"GFLOPs per image under the planned policy (calibration says {estimate['planned_gflops_per_image']:.4f})",
        f"exits in the sample: {exits}",
    ]
    if estimate["accuracy"] is not None:
        confidence = estimate["mean_confidence"]
        lines.append(
            f"expected accuracy {100 * estimate['accuracy']:.1f} % +- {100 * estimate['accuracy_standard_error']:.1f} "
            f"(calibration)"
            + ("" if confidence is None else f"; mean confidence on the sample {100 * confidence:.1f} %")
        )
    lines.append(
        f"{estimate['images_per_s']:.1f} images/s, {estimate['wall_h']:.2f} h for {estimate['remaining']:,} images, "
        f"start-up left out (limited by {estimate['limited_by']})"
    )
    if estimate["money"] is not None:
        lines.append(f"money: {estimate['money']:.2f}")
    lines.append(f"written: {folder.estimate}, {folder.picture}")
    return "\n".join(lines)
