"""What a label job says of itself to Prometheus, through Ray: from the ledger's process alone, so that nothing counts twice.

Ray puts ``ray_`` before each name, adds labels of its own (``NodeAddress``, ``SessionName``, ``WorkerId``) and serves them on
the metrics port of the ledger's node. A gauge that is not set again is gone within half a minute. Of a histogram Ray 2.60 passes
on how many values each bucket has, and makes the sum up from the buckets' middles: take quantiles of it, no means. Names end in
their unit. Counters count since the start of the ledger's process, as Prometheus expects; a job that goes on has its own series
(``WorkerId``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from anchornet.ledger.purse import Statement
from anchornet.units import GIGA

_SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
_ROWS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]

COUNTERS = {
    "anchornet_images_total": "Images that have left the job, by exit (empty unless labelled) and status.",
    "anchornet_stated_gflops_total": "Multiply-adds that workers computed, in 1e9, by stage.",
    "anchornet_compute_seconds_total": "Seconds in which workers computed, by stage.",
}
GAUGES = {
    "anchornet_budget_gflops": "What the job may spend in all.",
    "anchornet_planned_gflops": "What the policy planned at the start is expected to spend.",
    "anchornet_charged_gflops": "Spent so far, with what is permitted and not yet stated.",
    "anchornet_budget_left_gflops": "The budget less what is charged.",
    "anchornet_lost_gflops": "Charged for workers that died with their purse.",
    "anchornet_images_to_label": "Images that this start of the job has to label.",
    "anchornet_images_left": "Of these, images that no worker has named yet.",
    "anchornet_open_purses": "Workers that hold permission to compute.",
    "anchornet_ledger_starts": "Starts of the run's ledger: one per start of the job, and one each time Ray started it again.",
}
HISTOGRAMS = {
    "anchornet_batch_compute_seconds": "A batch's computation, mean over the batches of a statement, by stage.",
    "anchornet_batch_rows": "Rows that a batch computed, mean over the batches of a statement, by stage.",
    "anchornet_purse_wait_seconds": "What a worker waited for the ledger between two statements, by stage.",
}
_TAGS = {
    "anchornet_images_total": ("exit", "status"),
    "anchornet_stated_gflops_total": ("stage",),
    "anchornet_compute_seconds_total": ("stage",),
    **dict.fromkeys(HISTOGRAMS, ("stage",)),
}
NAMES = frozenset({*COUNTERS, *GAUGES, *HISTOGRAMS})
"""Every name there is, as Ray knows them."""


class JobMetrics:
    """The metrics of one run, in the process of its ledger. Every one has the label ``run``, :attr:`RunFolder.name`."""

    def __init__(self, run: str, report: Mapping[str, Any]) -> None:
        """report: the ledger's at its start; counters count from there."""
        self._run = run
        self._counters = {name: Counter(name, text, _tags(name)) for name, text in COUNTERS.items()}
        self._gauges = {name: Gauge(name, text, _tags(name)) for name, text in GAUGES.items()}
        self._histograms = {
            name: Histogram(name, text, _ROWS if name.endswith("_rows") else _SECONDS, _tags(name))
            for name, text in HISTOGRAMS.items()
        }
        self._counted = counted(report)
        self.stands(report)

    def stated(self, statement: Statement) -> None:
        """What a worker did since its last statement."""
        if not statement.num_batches:
            return
        means = {
            "anchornet_batch_compute_seconds": statement.compute_s / statement.num_batches,
            "anchornet_batch_rows": len(statement.image_ids) / statement.num_batches,
            "anchornet_purse_wait_seconds": statement.waited_s,
        }
        for name, value in means.items():
            self._histograms[name].observe(value, self._labels(stage=str(statement.stage)))

    def stands(self, report: Mapping[str, Any]) -> None:
        """How the run stands, from the ledger's report."""
        now = counted(report)
        for (name, labels), value in now.items():
            if (more := value - self._counted.get((name, labels), 0.0)) > 0:
                self._counters[name].inc(more, self._labels(**dict(labels)))
        self._counted = now
        for name, value in standing(report).items():
            self._gauges[name].set(value, self._labels())

    def _labels(self, **labels: str) -> dict[str, str]:
        return {"run": self._run, **labels}


def counted(report: Mapping[str, Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(counter, its labels but ``run``) -> value, from the ledger's report."""
    images = "anchornet_images_total"
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
        (images, (("exit", name), ("status", "ok"))): float(count)
        for name, count in zip(report["exits"], report["exits_realised"], strict=True)
    }
    for status in ("failed", "unreadable"):
        found[images, (("exit", ""), ("status", status))] = float(report[f"num_{status}"])
    for stage, (macs, seconds) in enumerate(zip(report["stage_macs"], report["stage_compute_s"], strict=True)):
        found["anchornet_stated_gflops_total", (("stage", str(stage)),)] = macs / GIGA
        found["anchornet_compute_seconds_total", (("stage", str(stage)),)] = seconds
    return found


def standing(report: Mapping[str, Any]) -> dict[str, float]:
    """Gauge -> value, from the ledger's report."""
    asked, charged = report["asked_macs"] / GIGA, report["spent_macs"] / GIGA
    return {
        "anchornet_budget_gflops": asked,
        "anchornet_planned_gflops": report["planned_macs"] / GIGA,
        "anchornet_charged_gflops": charged,
        "anchornet_budget_left_gflops": asked - charged,
        "anchornet_lost_gflops": report["lost_macs"] / GIGA,
        "anchornet_images_to_label": float(report["num_images"]),
        "anchornet_images_left": float(max(0, report["num_images"] - report["num_seen"])),
        "anchornet_open_purses": float(report["num_open"]),
        "anchornet_ledger_starts": float(report["num_starts"]),
    }


def _tags(name: str) -> tuple[str, ...]:
    return ("run", *_TAGS.get(name, ()))
