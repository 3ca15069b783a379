"""The processes of a job's own Ray, watched from outside: what each was called, the most memory it held, and which died."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.heads import until

_DIED = re.compile(r"Disconnecting worker.* disconnect_type=[024], ")
"""What a raylet says of a worker that ended on its own: SYSTEM_ERROR, USER_ERROR, NODE_OUT_OF_MEMORY (``WorkerExitType`` in
Ray's ``common.proto``); 1 and 3 were told to."""


class JobProcesses:
    """Ray's workers below the process of a job that started its own Ray in ``folder`` (``RAY_TMPDIR``)."""

    def __init__(self, job: subprocess.Popen[bytes], folder: Path) -> None:
        self.job, self.folder = job, folder
        self.peak_bytes: dict[int, int] = {}
        """The most memory that each worker ever held, by process id; as the kernel keeps it, so that only what a process does
        after the last look at it is missed."""
        self.titles: dict[int, set[str]] = {}
        """What Ray called each worker at some time: the tasks and actors that it ran."""

    def watch(self, most_s: float, each: Callable[[], None] = lambda: None) -> bool:
        """Look a few times a second until the job has ended, and whether it has. each: called after every look."""

        def ended() -> bool:
            self._look()
            each()
            return self.job.poll() is not None

        return until(ended, most_s)

    def _look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.job.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, OSError):
                    title = "".join(process.cmdline()[:1])
                    if title.startswith("ray::"):
                        peak = max(self.peak_bytes.get(process.pid, 0), _peak_bytes(process))
                        self.peak_bytes[process.pid] = peak
                        self.titles.setdefault(process.pid, set()).add(title)

    def kill(self) -> None:
        """End the job with everything below it, if it has not ended."""
        if self.job.poll() is None:
            root = psutil.Process(self.job.pid)
            for process in (*root.children(recursive=True), root):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.job.wait()

    def running(self, name: str) -> list[int]:
        """Process ids of workers that were seen with ``name`` in their title."""
        return [pid for pid, titles in self.titles.items() if any(name in title for title in titles)]

    def deaths(self) -> list[str]:
        """A line for each worker that ended without being told to."""
        logs = list(self.folder.glob("ray/session_2*/logs/raylet.out"))
        assert logs, f"no raylet has written below {self.folder}"
        return [line for log in logs for line in log.read_text().splitlines() if _DIED.search(line)]


def _peak_bytes(process: psutil.Process) -> int:
    """The most that a process ever held in memory, where the kernel says so, else what it holds now."""
    status = Path(f"/proc/{process.pid}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else int(process.memory_info().rss)
