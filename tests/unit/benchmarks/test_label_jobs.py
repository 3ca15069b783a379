"""A row of the table of label jobs, from a report and labels."""

from __future__ import annotations

import pyarrow as pa

from benchmarks.label_jobs import COLUMNS, cells


def test_a_label_is_right_when_it_names_the_folder_of_its_photograph() -> None:
    report = {
        "images": 4,
        "budget": {"spent_gflops": 0.39, "used_fraction": 0.975},
        "accuracy_expected": 0.7,
        "status": {"ok": 3, "unreadable": 0, "failed": 1},
        "images_per_s": 12.34,
    }
    uris = [f"s3://bucket/test/{name}/1.jpg" for name in ("Apple", "Pear", "Plum", "Ripe%20Kiwi")]
    labels = pa.table({"uri": uris, "label": ["Apple", "Apple", None, "Ripe Kiwi"]})
    row = dict(zip(COLUMNS, cells("hard", 0.1, report, labels), strict=True))
    assert row["right"].startswith("50.0 % +- 25.0")
    assert (row["spent"], row["used"], row["promised"]) == ("0.0975", "97.5 %", "70.0 %")
    assert row["ok / unreadable / failed"] == "3 / 0 / 1"
