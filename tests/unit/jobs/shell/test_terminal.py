"""Who writes where while descriptor 2 is turned away. In processes of their own: pytest owns the descriptors of this one."""

from __future__ import annotations

import contextlib
import os
import pty
import re
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
    print("from Ray's driver")
    mine.info("during")
    terminal.say("said")
    terminal.result("the result\\n")
    {inside}
sys.stderr.write("after\\n")
terminal.result("another\\n")
"""


def run(log: Path, inside: str = "pass") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.replace("{inside}", inside), str(log)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_only_the_jobs_own_lines_reach_the_terminal(tmp_path: Path) -> None:
    finished = run(tmp_path / "ray.log")
    assert [line.split(" INFO ")[-1] for line in finished.stderr.splitlines()] == ["before", "during", "said", "after"]
    assert finished.stdout == "the result\nanother\n"
    log = (tmp_path / "ray.log").read_text()
    for text in ("from C++", "from a library", "a warning", "from its logger", "from Ray's driver"):
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


ON_A_TERMINAL = """
import logging, sys
from jobs.shell import terminal
terminal.configure_logging()
with terminal.lines_of("photos-1a2b3c"):
    logging.getLogger("jobs.x").info("before")
    assert terminal.is_live() == (sys.argv[1] == "live"), terminal.is_live()
    terminal.live("1 of 2")
    logging.getLogger("jobs.x").info("between")
    terminal.live("2 of 2, " + "and a text that is longer than the terminal is wide " * 5)
    terminal.live("")
terminal.say("after")
"""


def shown_on_a_terminal(kind: str) -> tuple[int, str]:
    """Exit code of the program on a terminal of its own, 60 columns wide, and what was written there."""
    controller, terminal_end = pty.openpty()
    command = [sys.executable, "-c", ON_A_TERMINAL, "live"]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=terminal_end, env={**os.environ, "TERM": kind, "COLUMNS": "60"}
    )
    os.close(terminal_end)
    shown = b""
    with contextlib.suppress(OSError):  # that is how the end of a terminal reads
        while part := os.read(controller, 4096):
            shown += part
    os.close(controller)
    return process.wait(), shown.decode()


def test_on_a_terminal_the_last_line_is_rewritten_and_others_come_above_it() -> None:
    code, shown = shown_on_a_terminal("xterm")
    assert code == 0
    lines = [line.rsplit(terminal.ERASE, 1)[-1] for line in shown.replace("\r\n", "\n").split("\n")]
    assert [line.split(" INFO ")[-1] for line in lines] == ["before", "between", "after", ""]
    assert all(" photos-1a2b3c jobs.x INFO " in line for line in lines[:2])
    assert shown.count("1 of 2") == 2  # once more below the line that came between
    longest = max(len(part) for part in re.split(r"[\r\n]|\x1b\[K", shown))
    assert longest < 60


def test_a_terminal_that_cannot_rewrite_a_line_is_none() -> None:
    code, shown = shown_on_a_terminal("dumb")
    assert code != 0
    assert "AssertionError: False" in shown
