"""What counts as a demo that won."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import demo_seeds


def summary(anchor: float = 0.9, random: float = 0.5, cheap: float = 0.8, middle: float = 0.9) -> dict[str, Any]:
    """A run whose full network is 90 % right for 1 GFLOP."""
    return {
        "seed": 3,
        "anchor_patch_accuracy": [anchor, 1.0],
        "random_patch_accuracy": [random, 0.0],
        "full": {"gflops": 1.0, "accuracy": 0.9},
        "frontier": [
            {"gflops": 0.2, "accuracy": cheap},
            {"gflops": 0.5, "accuracy": middle},
            {"gflops": 0.6, "accuracy": 0.99},
        ],
        "seconds": {"images": 30.0, "ray": 60.0},
    }


def test_a_run_that_wins() -> None:
    assert demo_seeds.keeps_promises(summary())
    assert demo_seeds.as_good_from(summary()) == 0.5
    cells = demo_seeds.row(3, 0, summary(), held=True)
    assert cells == ["3", "0", "90.0 %", "50.0 %", "90.0 %", "1.0000", "0.5000", "90.0 %", "1.5", "yes"]


@pytest.mark.parametrize("changed", [{"anchor": 0.59}, {"middle": 0.89}])
def test_a_run_that_does_not(changed: dict[str, float]) -> None:
    assert not demo_seeds.keeps_promises(summary(**changed))


def test_no_budget_that_is_good_enough() -> None:
    weak = summary(middle=0.8)
    weak["frontier"][-1]["accuracy"] = 0.8
    assert demo_seeds.as_good_from(weak) == float("inf")


def test_a_finished_run_is_read_and_a_failed_one_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "summary.json").write_text(json.dumps(summary()))
    assert demo_seeds.main(["--seeds", "1", "--folder", str(tmp_path)]) == 0
    assert "1 of 1 runs keep all promises" in capsys.readouterr().out
    (tmp_path / "seed-0" / "summary.json").write_text(json.dumps(summary(anchor=0.5)))
    assert demo_seeds.main(["--seeds", "1", "--folder", str(tmp_path)]) == 1
    assert demo_seeds.row(7, 2, {}, held=False) == ["7", "2", *["-"] * 7, "no"]
