"""The ledger's address on Ray, without Ray: its name, and that it never starts without a mark."""

from __future__ import annotations

from pathlib import Path

import pytest

from anchornet.budget.frontier import fit_frontier
from anchornet.ledger.plan import LedgerPlan
from benchmarks.tables import EXIT_MACS, synthetic_table
from jobs.labelling.ledger_actor import LedgerActor, ledger_name


def test_a_ledger_without_a_mark_is_no_fresh_budget(tmp_path: Path) -> None:
    frontier = fit_frontier(synthetic_table(200, 0))
    plan = LedgerPlan(budget_macs=10**12, num_images=100, exit_macs=EXIT_MACS, stage_starts=(0, 1), frontier=frontier)
    with pytest.raises(
        RuntimeError, match=r"absent\.json is not to be seen from node .*must lie where every node sees it"
    ):
        LedgerActor(plan, str(tmp_path / "absent.json"))


def test_each_run_has_a_ledger_of_its_own() -> None:
    assert ledger_name("s3://bucket/a/ledger.json") == ledger_name("s3://bucket/a/ledger.json")
    assert ledger_name("s3://bucket/a/ledger.json") != ledger_name("s3://bucket/b/ledger.json")
    assert ledger_name("x").startswith("ledger-")
