"""Every file of a folder gives pixels or a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import decode_folder
from tests.small_images import encode


def test_what_is_read_is_counted_and_what_is_not_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deep").mkdir()
    for number in range(3):
        (tmp_path / "deep" / f"{number}.png").write_bytes(encode(number))
    (tmp_path / "cut.png").write_bytes(encode(0)[:-40])
    (tmp_path / "none.jpg").write_bytes(b"")
    assert decode_folder.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["cut.png: truncated or damaged PNG", "none.jpg: empty file"]
    assert [line.split(maxsplit=1) for line in said[2:]] == [
        ["3", "read"],
        ["1", "truncated or damaged PNG"],
        ["1", "empty file"],
    ]
