"""What the demo says at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs import demo, demo_report


def evaluation(*accuracies: float) -> dict[str, Any]:
    """A report of evaluate whose frontier costs 0.1, 0.2, ... GFLOPs and has these accuracies."""
    return {
        "references": [
            *({"reference": "AnchorNet's patches alone", "accuracy": value} for value in (0.8, 0.85)),
            *({"reference": "random patches alone", "accuracy": value} for value in (0.5, 0.6)),
            {"reference": "full network", "accuracy": 0.9, "gflops": 0.5},
        ],
        "frontier": [{"accuracy": value, "gflops": 0.1 * (k + 1)} for k, value in enumerate(accuracies)],
    }


LABEL = {"asked_gflops": 0.1, "gflops": 0.09, "accuracy": 0.91, "images": 10, "folder": "x/label-1"}


def test_the_summary_has_what_a_script_needs() -> None:
    assert demo_report.summarise(3, evaluation(0.7, 0.92), [LABEL], {"ray": 1.23}, ["Dropped: exit glance."]) == {
        "seed": 3,
        "calibration": ["Dropped: exit glance."],
        "anchor_patch_accuracy": [0.8, 0.85],
        "random_patch_accuracy": [0.5, 0.6],
        "full": {"gflops": 0.5, "accuracy": 0.9},
        "frontier": [{"gflops": 0.1, "accuracy": 0.7}, {"gflops": 0.2, "accuracy": 0.92}],
        "labels": [{"asked_gflops": 0.1, "gflops": 0.09, "accuracy": 0.91, "images": 10}],
        "seconds": {"ray": 1.2},
    }


def test_three_lines_to_take_away() -> None:
    summary = demo_report.summarise(0, evaluation(0.7, 0.92, 0.95), [LABEL], {}, [])
    assert demo_report.take_away(summary) == [
        "The full network looks at every pixel: 90.0 % right for 0.5000 GFLOPs per image.",
        "The cascade: 92.0 % right for 0.2000 GFLOPs per image, 40 % of that cost.",
        "One patch that AnchorNet chose: 80.0 % right. One patch at random: 50.0 %.",
    ]


def test_a_cascade_that_falls_short_is_not_praised() -> None:
    summary = demo_report.summarise(0, evaluation(0.7, 0.85), [LABEL], {}, [])
    assert "85.0 % right (less than the full network)" in demo_report.take_away(summary)[1]


@pytest.mark.parametrize("path", sorted(demo.CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_another_folder_takes_the_place_of_the_demos_own(path: Path, tmp_path: Path) -> None:
    text = Path(demo.configuration(path.stem, str(tmp_path))).read_text()
    assert str(tmp_path) in text
    assert demo.FOLDER not in text
    assert demo.configuration(path.stem, demo.FOLDER) == str(path)
