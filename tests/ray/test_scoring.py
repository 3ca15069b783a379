"""What calibrate and evaluate refuse: exit code 2 and one line, before anything is replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from anchornet.bundle import load_bundle
from anchornet.report.label_counts import label_tables
from jobs import calibrate, evaluate, label
from jobs.shell.run_folder import RunFolder
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
        for number in range(5):
            (tmp_path / "data" / name / f"{number}.jpg").write_bytes(b"no picture")
    return tmp_path / "data"


def test_a_pool_that_can_never_start(
    workshop: Workshop, unreadable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(workshop, tmp_path, f"data.path={unreadable}", "pool.actors=9", "pool.cpus=0.5")
    assert calibrate.main(command) == 2
    said = capsys.readouterr().err
    said_so = "9 actors and a reading task need 5 logical CPUs and 0 GPUs, Ray has 4 logical CPUs and 0 GPUs: "
    assert said_so in said and "lower pool.actors" in said


def test_no_readable_image(
    workshop: Workshop, unreadable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_bundle(workshop.bundle).frontier
    assert calibrate.main(arguments(workshop, tmp_path, f"data.path={unreadable}")) == 2
    assert "none of the labelled images is readable; look at the column 'error'" in capsys.readouterr().err
    assert load_bundle(workshop.bundle).frontier == before


def test_images_without_labels_calibrate_a_bundle_that_labels(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(workshop.bundle, bundle)
    (tmp_path / "flat").mkdir()
    for number, uri in enumerate(workshop.good_uris):
        shutil.copy(uri, tmp_path / "flat" / f"{number}.jpg")
    common = [f"bundle={bundle}", f"run.folder={tmp_path}/calibrate", "labelled=false", f"data.path={tmp_path}/flat"]
    assert calibrate.main([part for value in common for part in ("--set", value)]) == 0
    assert "Without labels nothing is known to be right" in capsys.readouterr().out
    loaded = load_bundle(str(bundle))
    assert loaded.frontier is not None
    assert (loaded.frontier.labelled, loaded.frontier.num_images, loaded.calibrator) == (
        False,
        len(workshop.good_uris),
        None,
    )
    budget = 0.5 * (loaded.frontier.minimum_gflops + loaded.frontier.maximum_gflops)
    job = [f"bundle={bundle}", f"run.folder={tmp_path}/label", f"input.path={tmp_path}/flat", "budget.mode=fixed"]
    job.append(f"budget.gflops_per_image={budget}")
    assert label.main([part for value in job for part in ("--set", value)]) == 0
    rows = pa.concat_tables(label_tables(RunFolder(f"{tmp_path}/label").labels))
    assert rows["status"].to_pylist() == ["ok"] * len(workshop.good_uris)
    assert rows["label"].null_count == 0
    assert rows["confidence"].null_count == len(rows)
    assert len(set(rows["exit"].to_pylist())) > 1
    assert sum(rows["gflops"].to_pylist()) / len(rows) == pytest.approx(budget, rel=0.15)


def test_a_full_network_that_is_not_there(
    workshop: Workshop, unreadable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(arguments(workshop, tmp_path, f"data.path={unreadable}", f"full={tmp_path}/none")) == 2
    assert "none does not exist; train it with recipe classifier, or set full to null" in capsys.readouterr().err
