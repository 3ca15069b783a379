"""JSON and YAML documents: what is no document is refused by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from anchornet.files import documents


def test_what_is_written_is_read(tmp_path: Path) -> None:
    uri = str(tmp_path / "deep" / "report.json")
    documents.write_json(uri, {"images": 3, "exits": ["glance"]})
    assert documents.read_json(uri) == {"images": 3, "exits": ["glance"]}
    assert Path(uri).read_text().endswith("}\n")


def test_damaged_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"images": ')
    with pytest.raises(ValueError, match=r"report\.json is not valid JSON \(.*\); restore the file"):
        documents.read_json(str(tmp_path / "report.json"))
