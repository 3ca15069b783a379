"""What a label job did: planned beside realised, from the ledger and from the rows that were written."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle

from anchornet import storage
from anchornet.records import FAILED, GIGA, OK, STATUSES, UNREADABLE
from anchornet.tally import Tally, tally_labels
from jobs.label_plan import LabelPlan
from jobs.session import write_json
from jobs.settings import LabelConfig

REPORT_FILE = "report.json"
LABELS_FOLDER = "labels"
_SHOWN_REASONS = 5


@dataclass
class LabelReport:
    """Filled when the pipeline has ended, well or not."""

    config: LabelConfig
    plan: LabelPlan
    started: float = field(default_factory=time.perf_counter)
    ledger: dict[str, Any] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    wall_s: float = 0.0

    def close(self, ledger: ActorHandle) -> None:
        """Ask the ledger, count the rows, write ``report.json``."""
        self.wall_s = time.perf_counter() - self.started
        self.ledger = ray.get(ledger.report.remote())
        folder = storage.absolute(storage.join(self.config.run.folder, LABELS_FOLDER))
        self.tally = tally_labels(folder, self.plan.num_images)
        write_json(storage.join(self.config.run.folder, REPORT_FILE), self.as_dict())

    @property
    def complete(self) -> bool:
        """True when every image of the manifest has exactly one row."""
        return self.tally.missing == 0 and self.tally.repeated == 0

    @property
    def failed_fraction(self) -> float:
        """Share of images whose status is not ``ok``."""
        return 1.0 - self.tally.status[OK] / self.plan.num_images

    @property
    def exit_code(self) -> int:
        """0 when the run is complete and no more images failed than the configuration accepts, else 1."""
        return 0 if self.complete and self.failed_fraction <= self.config.max_failed_fraction else 1

    def as_dict(self) -> dict[str, Any]:
        """The report as it is written: GFLOPs for people, the ledger's integers beside them."""
        plan, tally = self.plan, self.tally
        return {
            "complete": self.complete,
            "images": plan.num_images,
            "missing": tally.missing,
            "repeated": tally.repeated,
            "status": {status: tally.status[status] for status in STATUSES},
            "errors": dict(tally.errors.most_common()),
            "budget": {
                "mode": self.config.budget.mode,
                "asked_gflops": plan.budget_macs / GIGA,
                "planned_gflops": plan.policy.expected_gflops * plan.num_images,
                "spent_gflops": self.ledger["spent_macs"] / GIGA,
                "in_labels_gflops": tally.spent_macs / GIGA,
                "wasted_gflops": self.ledger["wasted_macs"] / GIGA,
                "used_fraction": self.ledger["spent_macs"] / plan.budget_macs,
            },
            "exits_planned": dict(zip(plan.exits, plan.policy.exit_fractions, strict=True)),
            "exits_realised": {name: tally.exits[name] for name in plan.exits},
            "accuracy_planned": plan.policy.accuracy,
            "accuracy_expected": self.ledger["expected_accuracy"],
            "accuracy_standard_error": plan.policy.accuracy_se,
            "labelled_in_this_start": plan.remaining,
            "wall_s": self.wall_s,
            "images_per_s": plan.remaining / self.wall_s,
            "ledger": self.ledger,
        }

    def text(self) -> str:
        """The report in a few lines for a person."""
        report = self.as_dict()
        budget, tally = report["budget"], self.tally
        exits = ", ".join(f"{name} {count:,}" for name, count in report["exits_realised"].items())
        lines = [
            f"{self.plan.num_images:,} images: {tally.status[OK]:,} ok, {tally.status[UNREADABLE]:,} unreadable, "
            f"{tally.status[FAILED]:,} failed" + ("" if self.complete else f", {tally.missing:,} WITHOUT A ROW"),
            f"asked {budget['asked_gflops']:,.3f} GFLOPs, planned {budget['planned_gflops']:,.3f}, "
            f"spent {budget['spent_gflops']:,.3f} ({100 * budget['used_fraction']:.1f} %), "
            f"of which {budget['wasted_gflops']:,.3f} wasted by failures",
            f"exits: {exits}",
        ]
        if report["accuracy_expected"] is not None:
            lines.append(f"expected accuracy {100 * report['accuracy_expected']:.1f} %")
        if self.plan.remaining:
            lines.append(
                f"{self.plan.remaining:,} images in {self.wall_s:.1f} s, {report['images_per_s']:.1f} images/s"
            )
        lines += [f"  {count:,} x {reason}" for reason, count in tally.errors.most_common(_SHOWN_REASONS)]
        return "\n".join(lines)
