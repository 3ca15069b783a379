"""Where the seconds of a short label job go: one JSON line per run.

    python -m benchmarks.startup --images 600 --tree . --tree /path/to/another/checkout --rounds 3

Each round runs the label job of every tree once, in turn, so that a machine that gets slower meanwhile slows them all. The
bundle holds tiny networks: what is measured is start-up, not arithmetic. Times are seconds since the process was started;
``first_lease_s`` is when the first batch has reached an actor that has its networks, which is the end of the start.
``startup_cpu_s`` and ``cpu_s`` are what the job and all processes below it used until then and in all, read from /proc
(Linux): other work on the machine changes them less.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

POLL_S = 0.1
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
NAME_LENGTH = 160
WORKER = re.compile(r"ray::(?!DashboardAgent|RuntimeEnvAgent)")
"""How the command line of a Ray worker begins, also of one that waits for work (``ray::IDLE``)."""
PROGRAM = """
import json, sys, time
def mark(name):
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps([name, time.time()]) + chr(10))
def marking(owner, method, before, after):
    inner = getattr(owner, method)
    def outer(*arguments, **named):
        mark(before)
        try:
            return inner(*arguments, **named)
        finally:
            mark(after)
    setattr(owner, method, outer)
mark("python")
from jobs import label
import ray, ray.data
mark("imported")
marking(ray, "init", "planned", "ray")
marking(ray.data.Dataset, "write_parquet", "pipeline", "written")
code = label.main(sys.argv[2:])
mark("end")
sys.exit(code)
"""
"""Runs the job and notes when it passes what: the interpreter is up, its imports are done, the plan is made, Ray is up, the
pipeline is started, the labels are written, Ray is down."""


@dataclass
class Processes:
    """The processes of a run, as seen so far: CPU seconds and whether they were Ray workers, by (pid, start time)."""

    cpu_s: dict[tuple[int, str], float] = field(default_factory=dict)
    names: dict[tuple[int, str], str] = field(default_factory=dict)
    """The last command line of each."""
    workers: set[tuple[int, str]] = field(default_factory=set)

    def look(self, root: int) -> None:
        """Update from /proc: every process whose ancestors lead to ``root``."""
        table = {int(path.name): _stat(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
        for pid, stat in table.items():
            if stat is None or not _descends(pid, root, table):
                continue
            key = pid, stat[19]
            self.cpu_s[key] = (int(stat[11]) + int(stat[12])) / TICKS_PER_S
            self.names[key] = _command(pid)[:NAME_LENGTH] or self.names.get(key, "")
            if WORKER.match(self.names[key]):
                self.workers.add(key)

    @property
    def total_cpu_s(self) -> float:
        """CPU seconds of all of them so far."""
        return round(sum(self.cpu_s.values()), 1)

    def by_name(self) -> list[tuple[str, float]]:
        """(last command line, CPU seconds) of each process, the busiest first."""
        return sorted(((self.names[key], cpu) for key, cpu in self.cpu_s.items()), key=lambda item: -item[1])


def _stat(path: Path) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; None when the process is gone."""
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _descends(pid: int, root: int, table: dict[int, list[str] | None]) -> bool:
    while pid not in (root, 0):
        stat = table.get(pid)
        pid = int(stat[1]) if stat else 0
    return pid == root


def _command(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def run(
    tree: Path, workshop: tuple[str, str], gflops: float, folder: Path, detailed: bool = False
) -> dict[str, object]:
    """One label job of the checkout ``tree`` in a fresh run folder; its phases, processes and CPU seconds."""
    images, bundle = workshop
    marks, ledger = folder / "marks", folder / "run" / "ledger.json"
    folder.mkdir(parents=True)
    settings = [f"run.folder={folder}/run", f"bundle={bundle}", f"input.path={images}"]
    settings += [f"budget.gflops_per_image={gflops}"]
    command = [sys.executable, "-c", PROGRAM, str(marks), *(part for s in settings for part in ("--set", s))]
    processes, first_mark, leased, startup_cpu_s = Processes(), None, None, None
    started = time.time()
    with (folder / "output").open("wb") as output:
        job = subprocess.Popen(command, cwd=tree, stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": "."})
        while job.poll() is None:
            processes.look(job.pid)
            if leased is None and ledger.exists():
                content = ledger.read_bytes()
                first_mark = first_mark or content
                if content != first_mark:
                    leased, startup_cpu_s = time.time(), processes.total_cpu_s
            time.sleep(POLL_S)
    if job.returncode != 0:
        raise RuntimeError(f"the job of {tree} ended with {job.returncode}: {(folder / 'output').read_text()[-2000:]}")
    phases = dict(json.loads(line) for line in marks.read_text().splitlines())
    phases["first_lease"] = leased or phases["written"]
    seconds = {f"{name}_s": round(at - started, 2) for name, at in sorted(phases.items(), key=lambda item: item[1])}
    detail = {"processes": processes.by_name()} if detailed else {}
    return {
        **seconds,
        "workers": len(processes.workers),
        "startup_cpu_s": startup_cpu_s,
        "cpu_s": processes.total_cpu_s,
        "load": round(os.getloadavg()[0], 1),
        **detail,
    }


def main() -> None:
    """Print one JSON line per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tree", action="append", help="checkout to measure; may be given several times (default: .)")
    parser.add_argument("--detail", action="store_true", help="also the CPU seconds of each process")
    arguments = parser.parse_args()
    from tests.workshop import build_workshop, write_images  # jobs: seconds, of which the tests of this file need none

    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        write_images(images, arguments.images)
        shop = build_workshop(Path(folder, "workshop"))
        for number in range(arguments.rounds):
            for tree in arguments.tree or ["."]:
                place = Path(folder, f"run-{number}-{Path(tree).resolve().name}")
                result = run(
                    Path(tree).resolve(), (str(images), shop.bundle), shop.middle_gflops, place, arguments.detail
                )
                line = {"tree": Path(tree).resolve().name, "images": arguments.images, "round": number, **result}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
