"""Exchanges per second of one ledger, alone and as a Ray actor, and how often 5,000 actors could state then.

    python -m benchmarks.ledger_rate [--rows 4096] [--seconds 5] [--callers 2] [--folder s3://BUCKET/PREFIX]

One JSON object per line. An exchange settles ``rows`` images and takes the next purse. ``interval_s``: how far apart the
statements of 5,000 actors are when the ledger does nothing else; a ledger asks for longer intervals by itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence

import numpy as np
import ray
from ray.actor import ActorHandle

from anchornet.budget.frontier import Frontier, FrontierPoint, Policy
from anchornet.files import storage
from anchornet.ledger.ledger import Grant, Ledger, LedgerPlan, MemoryMark, Statement
from anchornet.ledger.purse import Purse
from jobs.labelling.ledger_actor import start_ledger
from jobs.settings.common import ClusterSettings
from jobs.shell.provenance import provenance
from jobs.shell.ray_session import ray_session

EXITS = ("anchor", "glance", "patch1", "patch2", "patch3", "patch4")
EXIT_MACS = (60_538_544, *[752_746_496] * 5)
NUM_POINTS = 40
IMAGES = 100_000_000
STRIDE = 7_919
ACTORS = 5_000
INTERVAL_S = 12.5
"""Simulated, between two statements of a worker."""


def plan() -> LedgerPlan:
    """A job of a hundred million images with a frontier as dense as a real one; thresholds do not matter for the rate."""
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


def exchanges(answer: Callable[[Statement, float], Grant], workers: int, rows: int, seconds: float) -> float:
    """Exchanges per second of workers that speak in turn and compute nothing: every image leaves at the first exit."""
    purses = [Purse(0, len(EXITS)) for _ in range(workers)]
    spread, count = np.arange(rows) * STRIDE, 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        purse, now_s = purses[count % workers], count * INTERVAL_S / ACTORS
        purse.fill(answer(purse.statement(rows, now_s), now_s))
        draw = purse.draw(rows)
        image_ids = (spread + count * rows * STRIDE) % IMAGES  # the manifest is in random order
        purse.done(draw, image_ids, min(draw.allowance_macs, rows * EXIT_MACS[0]), (rows, 0, 0, 0, 0, 0))
        count += 1
    return count / elapsed


def rate_alone(rows: int, seconds: float) -> float:
    """Exchanges per second of the plain object in this process, with 5,000 workers."""
    return exchanges(Ledger.open(plan(), MemoryMark()).exchange, ACTORS, rows, seconds)


@ray.remote(num_cpus=0.5)
def call(ledger: ActorHandle, workers: int, rows: int, seconds: float) -> float:
    """Exchanges per second of one caller that waits for every answer, and speaks for some of the workers."""
    return exchanges(lambda statement, _: ray.get(ledger.exchange.remote(statement)), workers, rows, seconds)


def rate_on_ray(rows: int, seconds: float, callers: int, mark_uri: str) -> float:
    """Exchanges per second of the ledger actor under ``callers`` concurrent callers."""
    ledger = start_ledger(plan(), mark_uri)
    ray.get(ledger.report.remote())
    return sum(ray.get([call.remote(ledger, ACTORS // callers, rows, seconds) for _ in range(callers)]))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, default=2)
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
        line = {
            "case": case,
            "rows": options.rows,
            "exchanges_per_s": round(rate),
            "interval_s": round(ACTORS / rate, 1),
        }
        print(json.dumps(line))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
