"""What calibrate and evaluate refuse: exit code 2 and one line, before anything is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from anchornet.bundle import load_bundle
from jobs import calibrate, evaluate
from tests.workshop import Workshop

pytestmark = pytest.mark.ray


def arguments(workshop: Workshop, folder: Path, *settings: str) -> list[str]:
    values = [f"run.folder={folder}/run", f"bundle={workshop.bundle}", *settings]
    return [part for value in values for part in ("--set", value)]


@pytest.fixture
def unreadable(tmp_path: Path) -> Path:
    """Class folders without a single image in them."""
    for name in ("ant", "bee"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.jpg").write_bytes(b"no picture")
    return tmp_path / "data"


def test_a_pool_that_can_never_start(
    workshop: Workshop, unreadable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(workshop, tmp_path, f"data.path={unreadable}", "pool.actors=9", "pool.cpus=0.5")
    assert calibrate.main(command) == 2
    said = capsys.readouterr().err
    assert "9 actors and a reading task need 5 logical CPUs and 0 GPUs, Ray has 4 and 0; lower pool.actors" in said


def test_no_readable_image(
    workshop: Workshop, unreadable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_bundle(workshop.bundle).frontier
    assert calibrate.main(arguments(workshop, tmp_path, f"data.path={unreadable}")) == 2
    assert "none of the labelled images is readable; look at the column 'error'" in capsys.readouterr().err
    assert load_bundle(workshop.bundle).frontier == before


def test_a_full_network_that_is_not_there(
    workshop: Workshop, unreadable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(arguments(workshop, tmp_path, f"data.path={unreadable}", f"full={tmp_path}/none")) == 2
    assert "none does not exist; train it with recipe classifier, or set full to null" in capsys.readouterr().err
