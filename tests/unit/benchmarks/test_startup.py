"""What the start-up benchmark sees of other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.startup import WORKER, Processes, run


def test_it_sees_the_processes_below_one_and_their_cpu() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    processes = Processes()
    while len(processes.cpu_s) < 2:
        processes.look(child.pid)
    child.communicate(b"\n")
    assert {name.partition(" -c ")[0] for name, _ in processes.by_name()} == {
        sys.executable
    }  # its path may hold a space
    assert os.getpid() not in {pid for pid, _ in processes.cpu_s}
    assert processes.total_cpu_s >= 0
    assert not processes.workers


def test_agents_of_ray_are_no_workers() -> None:
    assert WORKER.match("ray::IDLE")
    assert not WORKER.match("ray::DashboardAgent")


def test_a_job_that_fails_is_an_error_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1: .*No module named 'jobs'"):
        run(tmp_path, ("images", "bundle"), 0.1, tmp_path / "run")
