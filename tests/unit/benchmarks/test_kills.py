"""What the benchmark of killed jobs sees of a process, and how it says it."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from benchmarks.kills import Start, moments, spent, table

REPORT = {
    "budget": {"asked_gflops": 200.0, "spent_gflops": 100.0, "in_labels_gflops": 80.0, "wasted_gflops": 20.0},
    "status": {"ok": 5},
    "labelled_in_this_start": 3,
    "images_per_s": 1.5,
}


def a_start(program: str) -> Start:
    return Start(subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE), 3, 1)


def test_moments_are_the_same_for_a_seed_and_lie_within_the_seconds() -> None:
    assert moments(0, 10, 60.0) == moments(0, 10, 60.0) != moments(1, 10, 60.0)
    assert all(0 <= each <= 60 for each in moments(2, 100, 60.0))


def test_a_start_that_is_killed_is_over_when_the_last_process_below_it_is() -> None:
    start = a_start("import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=sys.stdin)")
    while not start._below:
        start.look(1)
    assert math.isnan(start.first_label_s)
    start.look(2)
    assert start.first_label_s > 0
    start.process.kill()
    start.process.wait()
    start.look(2)
    assert start.code == -9 and start.ended_s > 0 and math.isnan(start.gone_s)
    start.process.stdin.close()  # what its child waits for
    while math.isnan(start.gone_s):
        start.look(2)
    assert start.all_gone_s >= start.gone_s >= start.ended_s


@pytest.mark.parametrize(
    ("sent_s", "said"),
    [(5.0, "| 1 | 5.0 s | 0 | + 2.0 s | + 3.0 s | + 55.0 s | 4.0 s | 3 to 0 | neither |"),
     (math.nan, "| 1 |  | 0 | 7.0 s | 8.0 s | 60.0 s | 4.0 s | 3 to 0 | neither |")],
)  # fmt: skip
def test_seconds_after_a_signal_are_told_from_those_of_a_start_that_ended_by_itself(sent_s: float, said: str) -> None:
    start = a_start("")
    start.process.wait()
    start.sent_s, start.first_label_s, start.ended_s, start.gone_s, start.all_gone_s = sent_s, 4.0, 7.0, 8.0, 60.0
    assert table([start], start).splitlines()[2] == said


def test_shares_are_of_the_budget_that_was_asked_for() -> None:
    said = spent("disturbed", REPORT, 90.0)
    assert said.startswith("disturbed: asked 200.0 GFLOPs, spent 50.0 %, in labels 40.0 %, wasted 10.0 %, counted by")
    assert "by the networks 45.0 %; last start 3 images at 1.5 images/s; statuses {'ok': 5}" in said
