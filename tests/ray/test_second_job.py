"""A second job in the run folder of another one of the same cluster: in object storage no lock of a machine keeps it out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import ray

from anchornet.bundle import load_bundle
from anchornet.data.manifest import open_manifest
from anchornet.files import config as configuration
from anchornet.files import storage
from anchornet.report.label_counts import label_tables
from jobs import label
from jobs.labelling import ledger_actor
from jobs.labelling.plan import plan_label
from jobs.labelling.resume import identity
from jobs.settings.label import LabelConfig
from jobs.shell.run_folder import RunFolder
from tests.workshop import NUM_BAD, NUM_GOOD, Workshop

pytestmark = [pytest.mark.ray, pytest.mark.s3]


@pytest.fixture
def folder(s3_bucket: str) -> RunFolder:
    return RunFolder(f"{s3_bucket}/run")


@pytest.fixture
def told(workshop: Workshop, folder: RunFolder) -> list[str]:
    """The settings of both jobs."""
    budget = f"budget.gflops_per_image={2 * workshop.middle_gflops}"
    paths = [f"run.folder={folder.uri}", f"bundle={workshop.bundle}", f"input.path={workshop.images}"]
    return [*paths, budget, "max_failed_fraction=0.1"]


@pytest.fixture
def first(told: list[str], folder: RunFolder) -> Iterator[Any]:
    """What the first job holds while it works: the ledger of the run folder, with all that comes before it."""
    config = configuration.load_config(LabelConfig, None, told)
    bundle = load_bundle(config.bundle)
    plan = plan_label(config, bundle, open_manifest(folder.manifest, config.input, config.run.seed))
    folder.remember(identity(config, bundle))
    ledger = ledger_actor.start_ledger(plan.ledger, folder.absolute.mark)
    ledger_actor.answer(ledger.report.remote())
    yield ledger
    ray.kill(ledger)


def run(told: list[str]) -> int:
    return label.main([part for each in told for part in ("--set", each)])


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {uri: storage.read_bytes(uri) for uri, _ in storage.list_files(folder.uri)}


def test_it_ends_with_one_line_and_changes_nothing(
    told: list[str],
    folder: RunFolder,
    first: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ledger_actor, "_LEAVES_S", 0.0)  # the first job does not leave
    for name in ("x.parquet", "x.pending.parquet"):  # a commit of the first job, between copy and deletion
        storage.write_bytes(storage.join(folder.finished_ids, name), b"")
    before = contents(folder)
    assert run(told) == 3
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
    assert line.startswith("error: another job of this cluster works in this run folder (its ledger writes s3://")
    assert contents(folder) == before
    assert ledger_actor.answer(first.report.remote())["num_starts"] == 1  # it goes on


class Leaves(logging.Handler):
    """The first job ends when the second one says that it waits for it."""

    def __init__(self, ledger: Any) -> None:
        super().__init__()
        self.ledger, self.waited = ledger, False

    def emit(self, record: logging.LogRecord) -> None:
        if "waiting for it to leave" in record.getMessage():
            self.waited = True
            ray.kill(self.ledger)


def test_it_waits_for_the_ledger_of_a_job_that_has_just_ended_and_labels_every_image(
    told: list[str], folder: RunFolder, first: Any
) -> None:
    leaves = Leaves(first)
    ledger_actor.logger.addHandler(leaves)
    try:
        assert run(told) == 0
    finally:
        ledger_actor.logger.removeHandler(leaves)
    assert leaves.waited
    ids = pa.concat_tables(label_tables(folder.labels))["image_id"].to_pylist()
    assert sorted(ids) == list(range(NUM_GOOD + NUM_BAD))
