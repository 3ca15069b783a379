"""Who writes where while descriptor 2 is turned away. In processes of their own: pytest owns the descriptors of this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.shell import terminal
from jobs.shell.provenance import ROOT

PROGRAM = """
import logging, os, sys, warnings
from pathlib import Path
from jobs.shell import terminal
terminal.configure_logging()
terminal.configure_logging()
mine, other = logging.getLogger("jobs.x"), logging.getLogger("ray.x")
mine.info("before")
with terminal.quiet(Path(sys.argv[1])):
    os.write(2, b"from C++\\n")
    sys.stderr.write("from a library\\n")
    warnings.warn("a warning")
    other.warning("from its logger")
    mine.info("during")
    terminal.say("said")
    {inside}
sys.stderr.write("after\\n")
"""


def run(log: Path, inside: str = "pass") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.replace("{inside}", inside), str(log)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_only_the_jobs_own_lines_reach_the_terminal(tmp_path: Path) -> None:
    shown = run(tmp_path / "ray.log").stderr.splitlines()
    assert [line.split(" INFO ")[-1] for line in shown] == ["before", "during", "said", "after"]
    log = (tmp_path / "ray.log").read_text()
    for text in ("from C++", "from a library", "a warning", "from its logger"):
        assert text in log


def test_the_log_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "ray.log").write_text("of an earlier start\n")
    run(tmp_path / "ray.log")
    assert (tmp_path / "ray.log").read_text().startswith("of an earlier start\nfrom C++")


@pytest.mark.parametrize(
    ("inside", "last"),
    [("raise KeyError('a bug')", "KeyError: 'a bug'"), ("raise KeyboardInterrupt", "KeyboardInterrupt")],
)
def test_a_traceback_is_shown(tmp_path: Path, inside: str, last: str) -> None:
    finished = run(tmp_path / "ray.log", inside)
    assert finished.returncode != 0
    assert finished.stderr.splitlines()[-1] == last
    assert "Traceback" not in (tmp_path / "ray.log").read_text()


def test_the_log_lies_in_a_local_run_folder_and_else_in_a_temporary_file(tmp_path: Path) -> None:
    assert terminal.log_file(str(tmp_path / "run")) == tmp_path / "run" / "ray.log"
    there = terminal.log_file("s3://bucket/run")
    assert there.exists()
    there.unlink()
