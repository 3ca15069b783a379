"""A label job that is killed at random moments and started again by the same command each time, and what that costs.

    python -m benchmarks.kills --folder runs/kills
    python -m benchmarks.kills --folder runs/terminated --signal TERM

Made pictures and the tests' networks, which are never trained and write down each forward pass before they make it,
so that what was computed is known whatever became of the process. The job runs undisturbed first; then, in another
run folder, its driver gets ``--signal`` at ``--times`` moments, uniformly random within half the seconds that the
undisturbed job took (later ones would find a job that has ended), and the next start follows at once; the last one
runs to its end. Then every image has to have exactly one row, the statuses to add up, and what the networks wrote
down to fit into the budget. Prints a Markdown table.

A start with an exit code that is neither 0 nor the signal's own ends the script with what the start said: that is how
a run folder's lock, or a ledger's name, that a dead start still held would be seen.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from anchornet.bundle import load_bundle
from anchornet.files.documents import read_json
from anchornet.ledger.mark import MarkState
from anchornet.units import GIGA
from benchmarks.markdown import line
from tests.heads import until
from tests.label_job import LabelJob
from tests.workshop import NUM_BAD, Workshop, build_logging_shop

MOST_S = 600.0
"""No start, and nothing that it leaves behind, lasts longer."""
GONE_S = 120.0
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def main(argv: Sequence[str] | None = None) -> int:
    """0 when nothing was lost and nothing spent twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="must not exist")
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--times-least", type=float, default=4.0, help="budget, in first exits of every image")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(argv)
    chosen.folder.mkdir(parents=True)
    shop = build_logging_shop(chosen.folder / "shop", chosen.images)
    plain = Job(shop, chosen.folder / "undisturbed", chosen.times_least)
    [undisturbed] = plain.run([], signal.SIGKILL)
    plain.label_job.check()
    job = Job(shop, chosen.folder / "disturbed", chosen.times_least)
    sent = getattr(signal, f"SIG{chosen.signal}")
    starts = job.run(moments(chosen.seed, chosen.times, undisturbed.ended_s / 2), sent)
    job.label_job.check()
    print(table(starts, undisturbed))
    for name, each in (("disturbed", job), ("undisturbed", plain)):
        print(f"\n{spent(name, each.label_job.report(), computed_gflops(each.label_job))}")
    return 0


def moments(seed: int, times: int, within_s: float) -> list[float]:
    """Seconds after the start at which each of the starts is hit."""
    return [float(each) for each in np.random.default_rng(seed).uniform(0, within_s, times)]


def computed_gflops(job: LabelJob) -> float:
    """GFLOPs that the networks of all starts wrote down, and AnchorNet's, which writes nothing, once for every label.

    So no less was computed, but more may have been: an AnchorNet that repeats itself is not seen.
    """
    exits = load_bundle(job.shop.bundle).cascade().exits
    rows = sum(int(line.split()[0]) for line in job.macs_log.read_text().splitlines())
    return (rows * exits[-1].macs + job.report()["status"]["ok"] * exits[0].macs) / GIGA


@dataclass
class Start:
    """One start of a job, and what was seen of it; seconds are since its process began, NaN for what never was."""

    process: Any
    rows_before: int
    files_before: int
    epoch_before: int = 0
    """Of the ledger's mark: how many ledgers had been opened."""
    began_s: float = field(default_factory=time.monotonic)
    sent_s: float = float("nan")
    first_label_s: float = float("nan")
    ended_s: float = float("nan")
    gone_s: float = float("nan")
    """When the last process below it had ended, but for Ray's two agents, which stay for a minute and do nothing."""
    all_gone_s: float = float("nan")
    """When those two had ended as well."""
    rows_after: int = 0
    written: str = "neither"
    """Which of report and ledger's mark are of this start."""
    _below: dict[int, psutil.Process] = field(default_factory=dict)

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        code: int | None = self.process.poll()
        return code

    def look(self, num_files: int) -> None:
        """See what is there now. num_files: label files in the run folder."""
        now_s = time.monotonic() - self.began_s
        if self.code is None:
            self._add_below(self.process.pid)
            if num_files > self.files_before and np.isnan(self.first_label_s):
                self.first_label_s = now_s
        elif np.isnan(self.ended_s):
            self.ended_s = now_s
        if self.code is not None and np.isnan(self.all_gone_s):
            self._see_who_is_left(now_s)

    def _add_below(self, pid: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in psutil.Process(pid).children(recursive=True):
                self._below.setdefault(each.pid, each)

    def _see_who_is_left(self, now_s: float) -> None:
        """After the end: a raylet whose driver has died may still start workers; they belong to this start."""
        names = {pid: name for pid, each in list(self._below.items()) if (name := _name(each))}
        for pid, name in names.items():
            if name.endswith("/raylet"):
                self._add_below(pid)
        if not names:
            self.all_gone_s = now_s
        if np.isnan(self.gone_s) and all(name.startswith(AGENTS) for name in names.values()):
            self.gone_s = now_s


def _name(process: psutil.Process) -> str:
    """What a process that runs calls itself; nothing for one that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return "".join(process.cmdline()[:1]) or process.name()
    return ""


class Job:
    """The starts of one run folder."""

    def __init__(self, shop: Workshop, folder: Path, times_least: float) -> None:
        folder.mkdir()
        self.label_job = LabelJob(shop, folder, str(folder / "run"))
        self.label_job.times_least, self.label_job.num_bad = times_least, NUM_BAD
        self._labels = Path(self.label_job.run.labels)
        self._report, self._mark = Path(self.label_job.run.report), Path(self.label_job.run.mark)
        self._starts: list[Start] = []

    def run(self, moments_s: Sequence[float], sent: signal.Signals) -> list[Start]:
        """All starts: one for each moment, unless the job ends before, and one that runs to the end."""
        for moment_s in moments_s:
            if self._start(moment_s, sent).code == 0:
                break
        else:
            self._start(MOST_S, sent)
        assert until(self._all_gone, GONE_S), "processes of a job that has ended still run"
        return self._starts

    def _start(self, moment_s: float, sent: signal.Signals) -> Start:
        """One start, hit at this moment if it still runs."""
        self._report.unlink(missing_ok=True)
        rows, files, epoch = self._rows(), self._files(), self._epoch()
        start = Start(self.label_job.start("rows_per_file=16"), rows, files, epoch)
        self._starts.append(start)
        until(lambda: self._look() or start.code is not None or time.monotonic() - start.began_s >= moment_s, MOST_S)
        if start.code is None:
            start.sent_s = time.monotonic() - start.began_s
            os.kill(start.process.pid, sent)
        assert until(lambda: self._look() or start.code is not None, MOST_S)
        self._look()
        self._judge(start, sent)
        return start

    def _judge(self, start: Start, sent: signal.Signals) -> None:
        """Write down what a start left; AssertionError when it ended neither well nor of its signal."""
        start.rows_after, start.written = self._rows(), self._written(start.epoch_before)
        told = 0 if np.isnan(start.sent_s) else 128 + sent
        assert start.code in (0, told, -sent if told else 0), self.label_job.text()[-3000:]

    def _epoch(self) -> int:
        """How many ledgers were opened so far."""
        return self._mark_state().epoch

    def _mark_state(self) -> MarkState:
        return MarkState.from_bytes(self._mark.read_bytes()) if self._mark.exists() else MarkState()

    def _written(self, epoch_before: int) -> str:
        """Which of the two are of a start before which so many ledgers were opened, and whether they say the same."""
        state, report = self._mark_state(), read_json(str(self._report)) if self._report.exists() else None
        if report is not None and state.epoch > epoch_before:
            same = report["ledger"]["spent_macs"] == state.authorised_macs
            return "both" if same else "both, and they differ"
        return "report" if report is not None else "mark" if state.epoch > epoch_before else "neither"

    def _look(self) -> None:
        """See what all starts do; of those before, whether their processes have gone."""
        files = self._files()
        for start in self._starts:
            start.look(files)

    def _all_gone(self) -> bool:
        self._look()
        return not any(np.isnan(start.all_gone_s) for start in self._starts)

    def _files(self) -> int:
        return len(list(self._labels.glob("*.parquet"))) if self._labels.exists() else 0

    def _rows(self) -> int:
        """In label files that are whole; one that is being written, or never will be, holds none."""
        rows = 0
        for file in self._labels.glob("*.parquet"):
            with contextlib.suppress(pa.ArrowInvalid, FileNotFoundError):
                rows += pq.ParquetFile(file).metadata.num_rows
        return rows


def table(starts: Sequence[Start], undisturbed: Start) -> str:
    """What was seen, as Markdown."""
    columns = ("start", "hit after", "code", "ended", "its workers gone", "Ray's agents too")
    columns += ("first label after", "rows", "report and mark of this start")
    lines = [line(columns), line(["---"] * len(columns))]
    lines += [line((str(number), *_cells(start))) for number, start in enumerate(starts, 1)]
    return "\n".join([*lines, line(("undisturbed", *_cells(undisturbed)))])


def _cells(start: Start) -> tuple[str, ...]:
    since_s = 0.0 if np.isnan(start.sent_s) else start.sent_s
    sign = "+ " if since_s else ""
    return (
        _seconds(start.sent_s),
        str(start.code),
        *(sign + _seconds(each_s - since_s) for each_s in (start.ended_s, start.gone_s, start.all_gone_s)),
        _seconds(start.first_label_s),
        f"{start.rows_before:,} to {start.rows_after:,}",
        start.written,
    )


def _seconds(seconds: float) -> str:
    return "" if np.isnan(seconds) else f"{seconds:.1f} s"


def spent(name: str, report: dict[str, Any], computed: float) -> str:
    """Where the budget went, and how fast the last start was. computed: GFLOPs that the networks counted themselves."""
    budget = report["budget"]
    share = {each: 100 * budget[f"{each}_gflops"] / budget["asked_gflops"] for each in ("spent", "in_labels", "wasted")}
    return (
        f"{name}: asked {budget['asked_gflops']:.1f} GFLOPs, spent {share['spent']:.1f} %, "
        f"in labels {share['in_labels']:.1f} %, wasted {share['wasted']:.1f} %, "
        f"counted by the networks {100 * computed / budget['asked_gflops']:.1f} %; "
        f"last start {report['labelled_in_this_start']:,} images at {report['images_per_s']:.1f} images/s; "
        f"statuses {report['status']}"
    )


if __name__ == "__main__":
    sys.exit(main())
