"""Leases per second of one ledger, alone and as a Ray actor, and how many GPUs that serves.

    python -m benchmarks.ledger_rate [--rows 256] [--seconds 5] [--callers 2] [--batch-seconds 0.1]

One JSON object per line. ``pairs_per_s``: a lease and its settlement. ``gpus_served``: pairs_per_s x batch_seconds, for
GPUs that need batch_seconds for a batch (two stages on separate GPUs lease separately).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import uuid
from collections.abc import Sequence

import numpy as np
import ray
from ray.actor import ActorHandle

from anchornet.budget.frontier import Frontier, FrontierPoint, Policy
from anchornet.files import storage
from anchornet.ledger.ledger import Ledger, LedgerPlan, MemoryMark
from jobs.labelling.ledger_actor import start_ledger
from jobs.settings.common import ClusterSettings
from jobs.shell.provenance import provenance
from jobs.shell.ray_session import ray_session

EXITS = ("anchor", "glance", "patch1", "patch2", "patch3", "patch4")
EXIT_MACS = (60_538_544, *[752_746_496] * 5)
NUM_POINTS = 40
IMAGES = 10_000_000


def plan() -> LedgerPlan:
    """A job of ten million images with a frontier as dense as a real one; thresholds do not matter for the rate."""
    points = []
    for share in np.linspace(0, 1, NUM_POINTS):
        fractions = np.array([1 - share, *[share / 5] * 5])
        reached = 1 - np.concatenate([[0.0], np.cumsum(fractions)[:-1]])
        spend = reached * EXIT_MACS
        policy = Policy((float(0.3 + 0.69 * share),) * 5 + (-float("inf"),))
        points.append(
            FrontierPoint(policy, float(spend.sum()), 1e8, tuple(fractions), tuple(spend), 0.7 + 0.05 * share)
        )
    frontier = Frontier(EXITS, tuple(points), 10_000, labelled=True)
    budget = int(points[NUM_POINTS // 2].expected_macs * IMAGES)
    return LedgerPlan(
        budget_macs=budget,
        num_images=IMAGES,
        exit_macs=EXIT_MACS,
        stage_starts=(0, 1),
        frontier=frontier,
        id_limit=IMAGES,
    )


def rate_alone(rows: int, seconds: float) -> float:
    """Pairs per second of the plain object in this process."""
    ledger, first, pairs = Ledger.open(plan(), MemoryMark()), 0, 0
    counts = (rows, 0, 0, 0, 0, 0)
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        lease = ledger.lease(0, np.arange(first, first + rows))
        ledger.settle(lease.lease_id, min(lease.allowance_macs, rows * EXIT_MACS[0]), counts)
        first, pairs = (first + rows) % (IMAGES - rows), pairs + 1
    return pairs / elapsed


@ray.remote(num_cpus=0.5)
def call(ledger: ActorHandle, first: int, rows: int, seconds: float) -> float:
    """Pairs per second of one caller that waits for every answer, as an actor of a label job does."""
    pairs, counts = 0, (rows, 0, 0, 0, 0, 0)
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        lease = ray.get(ledger.lease.remote(0, np.arange(first, first + rows)))
        spent = min(lease.allowance_macs, rows * EXIT_MACS[0])
        ray.get(ledger.settle.remote(0, rows, 0.0, lease.lease_id, spent, counts, 0))
        first, pairs = first + rows, pairs + 1
    return pairs / elapsed


def rate_on_ray(rows: int, seconds: float, callers: int, mark_uri: str) -> float:
    """Pairs per second of the ledger actor under ``callers`` concurrent callers."""
    ledger = start_ledger(plan(), mark_uri)
    ray.get(ledger.report.remote())
    share = IMAGES // callers
    return sum(ray.get([call.remote(ledger, i * share, rows, seconds) for i in range(callers)]))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, default=2)
    parser.add_argument("--batch-seconds", type=float, default=0.1)
    parser.add_argument(
        "--folder", help="where the actor's write-ahead mark lies, local or s3://; a temporary one by default"
    )
    options = parser.parse_args(argv)
    print(json.dumps({"provenance": provenance()}))
    rates = {"alone": rate_alone(options.rows, options.seconds)}
    with tempfile.TemporaryDirectory() as temporary, ray_session(ClusterSettings(), temporary):
        mark = storage.join(options.folder or temporary, f"ledger-{uuid.uuid4().hex}.json")
        rates[f"ray actor, {options.callers} callers"] = rate_on_ray(
            options.rows, options.seconds, options.callers, mark
        )
    for case, rate in rates.items():
        served = rate * options.batch_seconds
        print(
            json.dumps({"case": case, "rows": options.rows, "pairs_per_s": round(rate), "gpus_served": round(served)})
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
