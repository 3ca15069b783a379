"""Blocks of the manifest as they reach the tasks that decode: batches, and not single rows, in a first start and in a resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.data import DataContext

from anchornet.data.inputs import InputSettings
from anchornet.data.manifest import open_manifest
from jobs.labelling import pipeline
from jobs.shell.run_folder import RunFolder
from jobs.shell.worker_log import Notes
from tests.small_images import write_folders, write_parquet

pytestmark = pytest.mark.ray
NUM_IMAGES, BATCH, GROUP = 60, 8, 20


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """A run folder whose finished images Ray's filter leaves out."""
    folder = RunFolder(str(tmp_path / "run"))
    context = DataContext.get_current()
    context.checkpoint_config = pipeline.checkpointing(folder)
    yield folder
    context.checkpoint_config = None


def with_size(table: pa.Table) -> pa.Table:
    return table.select(["image_id"]).append_column("block", pa.array([len(table)] * len(table)))


def cut(num_rows: int) -> Counter[int]:
    """Rows that shall lie in a block of each size, of so many that come together."""
    whole = num_rows // BATCH * BATCH
    return Counter({BATCH: whole, num_rows - whole: num_rows - whole})


@pytest.mark.parametrize("finished", [[], list(range(1, 42, 2))], ids=["first start", "resume"])
@pytest.mark.parametrize("in_groups", [False, True], ids=["files", "row groups"])
def test_blocks_are_batches_whatever_is_finished(
    run: RunFolder, tmp_path: Path, finished: list[int], in_groups: bool
) -> None:
    images = str(tmp_path / "images")
    images = (
        write_parquet(f"{images}.parquet", NUM_IMAGES, group_rows=GROUP)
        if in_groups
        else write_folders(images, NUM_IMAGES)
    )
    assert open_manifest(run.manifest, InputSettings(path=images), 0) == NUM_IMAGES
    if finished:
        Path(run.finished_ids).mkdir(parents=True)
        pq.write_table(pa.table({"image_id": pa.array(finished, pa.int64())}), f"{run.finished_ids}/0.parquet")
    notes = ray.remote(num_cpus=0)(Notes).remote()
    rows = pipeline._manifest_rows(run, BATCH, "image", notes)
    rows.map_batches(with_size, batch_size=None, batch_format="pyarrow").write_parquet(str(tmp_path / "out"))
    seen = pq.read_table(tmp_path / "out")
    left = set(range(NUM_IMAGES)) - set(finished)
    assert sorted(seen["image_id"].to_pylist()) == sorted(left)
    together = Counter(image_id // GROUP if in_groups else 0 for image_id in left)
    assert Counter(seen["block"].to_pylist()) == +sum(map(cut, together.values()), Counter())
