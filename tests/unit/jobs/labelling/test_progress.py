"""What a label job says of itself while it runs."""

from __future__ import annotations

from typing import Any

from jobs.labelling.progress import progress_line


def state(*exits: int, spent: int = 0) -> dict[str, Any]:
    return {"exits_realised": list(exits), "spent_macs": spent, "asked_macs": 100 * 10**9}


def test_before_the_ledger_has_answered() -> None:
    line = progress_line(None, ("a", "b"), 12.3)
    assert line.startswith("nothing labelled yet, 12 s: Ray starts the processes")


def test_before_the_first_batch() -> None:
    assert "the first batch is being read" in progress_line(state(0, 0), ("a", "b"), 12.3)


def test_counts_spend_and_rate() -> None:
    line = progress_line(state(30, 10, spent=25 * 10**9), ("a", "b"), 20.0)
    assert line == "labelled 40 (a 30 b 10), charged 25.0 GFLOPs (25.0 % of 100.0), 2.0 images/s"


def test_a_first_batch_that_is_charged_but_not_settled_is_counted_as_spent() -> None:
    assert progress_line(state(0, 0, spent=10**9), ("a", "b"), 5.0).startswith("labelled 0 (a 0 b 0), charged 1.0")
