"""A label job that is killed at random moments and started again by the same command each time, and what that costs.

    python -m benchmarks.kills --folder runs/kills
    python -m benchmarks.kills --folder runs/terminated --signal TERM

Made pictures and the tests' networks, which are never trained and write down each forward pass before they make it, so that what
was computed is known whatever became of the process. The job runs undisturbed first; then, in another run folder, its driver gets
``--signal`` at ``--times`` moments, uniformly random within half the seconds that the undisturbed job took (later ones would find
a job that has ended), and the next start follows at once; the last one runs to its end. Then every image has to have exactly one
row, the statuses to add up, and what the networks wrote down to fit into the budget. Prints a Markdown table.
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
import pyarrow.parquet as pq

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
    with contextlib.redirect_stdout(sys.stderr):
        shop = build_logging_shop(chosen.folder / "shop", chosen.images)
    plain = Job(shop, chosen.folder / "undisturbed", chosen.times_least)
    [undisturbed] = plain.run([], signal.SIGKILL)
    plain.label_job.check()
    job = Job(shop, chosen.folder / "disturbed", chosen.times_least)
    sent = getattr(signal, f"SIG{chosen.signal}")
    starts = job.run(moments(chosen.seed, chosen.times, undisturbed.ended_s / 2), sent)
    job.label_job.check()
    print(table(starts, undisturbed, job.label_job.report(), plain.label_job.report()))
    return 0


def moments(seed: int, times: int, within_s: float) -> list[float]:
    """Seconds after the start at which each of the starts is hit."""
    return [float(each) for each in np.random.default_rng(seed).uniform(0, within_s, times)]


@dataclass
class Start:
    """One start of a job, and what was seen of it; seconds are since its process began, NaN for what never was."""

    process: Any
    rows_before: int
    files_before: int
    began_s: float = field(default_factory=time.monotonic)
    sent_s: float = float("nan")
    first_label_s: float = float("nan")
    ended_s: float = float("nan")
    gone_s: float = float("nan")
    """When the last process below it had ended, but for Ray's two agents, which stay for a minute and do nothing."""
    rows_after: int = 0
    report_written: bool = False
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
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in psutil.Process(self.process.pid).children(recursive=True):
                    self._below.setdefault(each.pid, each)
            if num_files > self.files_before and np.isnan(self.first_label_s):
                self.first_label_s = now_s
        elif np.isnan(self.ended_s):
            self.ended_s = now_s
        if self.code is not None and np.isnan(self.gone_s) and not any(map(_runs, self._below.values())):
            self.gone_s = now_s


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        is_agent = "".join(process.cmdline()[:1]).startswith(AGENTS)
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE and not is_agent
    return False


class Job:
    """The starts of one run folder."""

    def __init__(self, shop: Workshop, folder: Path, times_least: float) -> None:
        folder.mkdir()
        self.label_job = LabelJob(shop, folder, str(folder / "run"))
        self.label_job.times_least, self.label_job.num_bad = times_least, NUM_BAD
        self._labels = Path(self.label_job.run.labels)
        self._report = Path(self.label_job.run.report)
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
        start = Start(self.label_job.start("rows_per_file=16"), self._rows(), self._files())
        self._starts.append(start)
        until(lambda: self._look() or start.code is not None or time.monotonic() - start.began_s >= moment_s, MOST_S)
        if start.code is None:
            start.sent_s = time.monotonic() - start.began_s
            os.kill(start.process.pid, sent)
        assert until(lambda: self._look() or start.code is not None, MOST_S)
        self._look()
        start.rows_after, start.report_written = self._rows(), self._report.exists()
        return start

    def _look(self) -> None:
        """See what all starts do; of those before, whether their processes have gone."""
        files = self._files()
        for start in self._starts:
            start.look(files)

    def _all_gone(self) -> bool:
        self._look()
        return not any(np.isnan(start.gone_s) for start in self._starts)

    def _files(self) -> int:
        return len(list(self._labels.glob("*.parquet"))) if self._labels.exists() else 0

    def _rows(self) -> int:
        return sum(pq.ParquetFile(file).metadata.num_rows for file in self._labels.glob("*.parquet"))


def table(starts: Sequence[Start], undisturbed: Start, report: dict[str, Any], plain: dict[str, Any]) -> str:
    """What was seen, as Markdown."""
    columns = ("start", "hit after", "code", "ended", "its workers gone", "first label after", "rows", "report")
    lines = [line(columns), line(["---"] * len(columns))]
    for number, start in enumerate(starts, 1):
        lines.append(line((str(number), *_cells(start))))
    lines.append(line(("undisturbed", *_cells(undisturbed))))
    return "\n".join([*lines, "", _spent("disturbed", report), _spent("undisturbed", plain)])


def _cells(start: Start) -> tuple[str, ...]:
    since_s = 0.0 if np.isnan(start.sent_s) else start.sent_s
    after = "after the signal" if since_s else ""
    return (
        _seconds(start.sent_s),
        str(start.code),
        f"{_seconds(start.ended_s - since_s)} {after}".strip(),
        f"{_seconds(start.gone_s - since_s)} {after}".strip(),
        _seconds(start.first_label_s),
        f"{start.rows_before:,} to {start.rows_after:,}",
        "yes" if start.report_written else "no",
    )


def _seconds(seconds: float) -> str:
    return "" if np.isnan(seconds) else f"{seconds:.1f} s"


def _spent(name: str, report: dict[str, Any]) -> str:
    budget = report["budget"]
    share = {each: 100 * budget[f"{each}_gflops"] / budget["asked_gflops"] for each in ("spent", "in_labels", "wasted")}
    return (
        f"{name}: asked {budget['asked_gflops']:.1f} GFLOPs, spent {share['spent']:.1f} %, in labels {share['in_labels']:.1f} %, "
        f"wasted {share['wasted']:.1f} %; statuses {report['status']}"
    )


if __name__ == "__main__":
    sys.exit(main())
