"""A job in a process of its own: nothing is on the terminal that the job itself did not say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workshop import Workshop

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
OWN_LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<run>\S+-[0-9a-f]{6}) (anchornet|jobs)[.\w]* (INFO|WARNING) .+"
)
PLAN_LINE = re.compile(r"(images|budget|plan|accuracy) +.+")


def label(workshop: Workshop, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    settings = [f"run.folder={folder}", f"bundle={workshop.bundle}", f"input.path={workshop.images}"]
    settings += [f"budget.gflops_per_image={workshop.middle_gflops}", "max_failed_fraction=0.1", *overrides]
    command = [sys.executable, "-m", "jobs.label", *(part for setting in settings for part in ("--set", setting))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_terminal_shows_the_job_and_nothing_of_ray(workshop: Workshop, tmp_path: Path) -> None:
    finished = label(workshop, tmp_path)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stderr.splitlines()
    own = [OWN_LINE.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, own, strict=True) if not match and not PLAN_LINE.fullmatch(line)] == []
    assert len({match["run"] for match in own if match}) == 1
    assert sum("what it says itself goes to" in line for line in lines) == 1
    assert "ledger has died" not in finished.stderr
    # The C++ core speaks of each actor pool there; without that, this test would show nothing.
    assert "core_worker.cc" in (tmp_path / "ray.log").read_text()
    assert finished.stdout.startswith("45 images: 42 ok, 3 unreadable, 0 failed")


def test_a_refusal_is_one_line_and_the_exit_code_two(workshop: Workshop, tmp_path: Path) -> None:
    finished = label(workshop, tmp_path, "pools=[{batch_sise: 3}]")
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) == 1
    assert "did you mean 'batch_size'" in finished.stderr
