"""What a label job did: planned beside realised, from the ledger and from the rows that were written."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anchornet.budget.frontier import Frontier
from anchornet.cascade.rows import FAILED, OK, STATUSES, UNREADABLE
from anchornet.files import storage
from anchornet.files.documents import write_json
from anchornet.report.label_counts import LabelCounts, count_labels, label_tables
from anchornet.units import GIGA
from jobs.labelling.plan import LabelPlan
from jobs.settings.label import LabelConfig
from jobs.shell.run_folder import RunFolder

_SHOWN_REASONS = 5


def make_report(config: LabelConfig, plan: LabelPlan, ledger: dict[str, Any], wall_s: float) -> dict[str, Any]:
    """What ``report.json`` holds: GFLOPs for people, the ledger's integers beside them.

    ledger: the closed ledger's own report. The rows are counted here, from the files.
    """
    counts = count_labels(RunFolder(config.run.folder).labels, plan.num_images)
    spent_macs = ledger["spent_macs"]
    return {
        "complete": counts.missing == 0 and counts.repeated == 0,
        "images": plan.num_images,
        "missing": counts.missing,
        "repeated": counts.repeated,
        "status": {status: counts.status[status] for status in STATUSES},
        "errors": dict(counts.errors.most_common()),
        "budget": {
            "mode": config.budget.mode,
            "asked_gflops": plan.budget_macs / GIGA,
            "planned_gflops": (plan.spent_macs + plan.policy.expected_macs * plan.remaining) / GIGA,
            "spent_gflops": spent_macs / GIGA,
            "in_labels_gflops": counts.spent_macs / GIGA,
            "wasted_gflops": (spent_macs - counts.spent_macs) / GIGA,
            "used_fraction": spent_macs / plan.budget_macs,
        },
        "exits_planned": dict(zip(plan.exits, plan.policy.exit_fractions, strict=True)),
        "exits_realised": {name: counts.exits[name] for name in plan.exits},
        "accuracy_planned": plan.policy.accuracy,
        "accuracy_expected": _accuracy(plan.ledger.frontier, counts),
        "accuracy_standard_error": plan.policy.accuracy_se,
        "labelled_in_this_start": plan.remaining,
        "wall_s": wall_s,
        "images_per_s": plan.remaining / wall_s,
        "ledger": ledger,
    }


def write_outcome(run: RunFolder, report: dict[str, Any]) -> None:
    """The rows that are not ``ok`` in a file of their own, the report, and last, when every image has one row, the mark of it."""
    if report["status"][FAILED] + report["status"][UNREADABLE]:
        _write_failures(run)
    elif storage.exists(run.failures):
        storage.delete(run.failures)
    write_json(run.report, report)
    if report["complete"]:
        storage.write_bytes(run.success, b"")


def _write_failures(run: RunFolder) -> None:
    parts = [table.filter(pc.not_equal(table["status"], OK)) for table in label_tables(run.labels)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(parts), sink, compression="zstd")
    storage.write_bytes(run.failures, sink.getvalue().to_pybytes())


def _accuracy(frontier: Frontier, counts: LabelCounts) -> float | None:
    """Expected accuracy of a fixed policy that spends what the labels cost; None without labels, here or in the calibration."""
    if not counts.status[OK]:
        return None
    gflops = counts.spent_macs / GIGA / counts.status[OK]
    return frontier.at(min(max(gflops, frontier.minimum_gflops), frontier.maximum_gflops)).accuracy


def exit_code(report: dict[str, Any], max_failed_fraction: float) -> int:
    """0 when every image has exactly one row and no larger share than this is not ``ok``, else 1."""
    return 0 if report["complete"] and failed_fraction(report) <= max_failed_fraction else 1


def failed_fraction(report: dict[str, Any]) -> float:
    """Share of the images that have no label."""
    without: float = 1.0 - report["status"][OK] / report["images"]
    return without


def render(report: dict[str, Any], max_failed_fraction: float = 1.0) -> str:
    """The report in a few lines for a person; the last one says when more images failed than were allowed to."""
    budget, status = report["budget"], report["status"]
    exits = ", ".join(f"{name} {count:,}" for name, count in report["exits_realised"].items())
    lines = [
        f"{report['images']:,} images: {status[OK]:,} ok, {status[UNREADABLE]:,} unreadable, {status[FAILED]:,} failed"
        + ("" if report["complete"] else f", {report['missing']:,} WITHOUT A ROW"),
        f"asked {budget['asked_gflops']:,.3f} GFLOPs, planned {budget['planned_gflops']:,.3f}, "
        f"spent {budget['spent_gflops']:,.3f} ({100 * budget['used_fraction']:.1f} %), "
        f"of which {budget['wasted_gflops']:,.3f} wasted by failures",
        f"exits: {exits}",
    ]
    if report["accuracy_expected"] is not None:
        lines.append(f"expected accuracy {100 * report['accuracy_expected']:.1f} %")
    if report["labelled_in_this_start"]:
        lines.append(
            f"{report['labelled_in_this_start']:,} images in {report['wall_s']:.1f} s, "
            f"{report['images_per_s']:.1f} images/s"
        )
    lines += [f"  {count:,} x {reason}" for reason, count in list(report["errors"].items())[:_SHOWN_REASONS]]
    if (share := failed_fraction(report)) > max_failed_fraction:
        lines.append(
            f"{100 * share:.1f} % of the images have no label, more than max_failed_fraction "
            f"({max_failed_fraction:g}) allows: exit code 1"
        )
    return "\n".join(lines)
