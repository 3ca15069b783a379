"""Calibration looks at its data before it touches the bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import calibrate
from tests.small_images import encode
from tests.tiny_bundle import save_tiny_models


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "does not exist"), ("held_out", "does not know, such as 'dog'")]
)
def test_unusable_data_leave_a_bundle_as_it_is(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "frontier.json").write_text("of an earlier calibration")
    (tmp_path / "held_out" / "dog").mkdir(parents=True)
    (tmp_path / "held_out" / "dog" / "1.png").write_bytes(encode(0))
    settings = [f"run.folder={tmp_path / 'run'}", f"bundle={bundle}", f"data.path={tmp_path / name}"]
    settings += [f"models.{role}={folder}" for role, folder in save_tiny_models(str(tmp_path / "models")).items()]
    assert calibrate.main([part for setting in settings for part in ("--set", setting)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in bundle.iterdir()] == ["frontier.json"]
    assert not (tmp_path / "run").exists()
