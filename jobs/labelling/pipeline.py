"""The label pipeline: manifest -> read and decode -> one pool of actors per stage -> label rows."""

from __future__ import annotations

import os

import ray.data
from ray.data import DataContext, Dataset, TaskPoolStrategy
from ray.data.checkpoint import CheckpointConfig

from anchornet.data.manifest import manifest_files
from anchornet.data.reading import ReadAndDecode, decode_memory_bytes
from anchornet.files import storage
from jobs.data.manifest_rows import GroupedRows, ManifestRows, RowGroupContents, in_row_groups
from jobs.labelling.actors import CALLS_IN_FLIGHT, StageActor, StageWork
from jobs.labelling.ledger_actor import LedgerHandle, await_purses
from jobs.labelling.plan import SMALL_TASK_CPUS, LabelPlan, process_names
from jobs.labelling.progress import progress_lines
from jobs.resources.capacity import Stall
from jobs.resources.pools import pool_options
from jobs.settings.label import LabelConfig
from jobs.shell.run_folder import RunFolder
from jobs.shell.worker_log import Telling

_UNCUT = {"override_num_blocks": 1}
"""Ray would cut what the tasks of a read give into 200 blocks in all, and after the filter of a resume once more, into single
rows, each a task that decodes. There are as many blocks as tasks nevertheless, and the repartition cuts them into batches."""


def run_pipeline(config: LabelConfig, plan: LabelPlan, ledger: LedgerHandle) -> None:
    """Stream every image that has no row yet through the pools and write its row."""
    folder = RunFolder(config.run.folder).absolute
    file_system, path = storage.resolve(folder.labels)
    context = DataContext.get_current()
    context.checkpoint_config = checkpointing(folder)
    try:
        with progress_lines(ledger, plan.exits, Stall(config.cluster.stall_s, process_names(config, plan))):
            pipeline(config, plan, ledger).write_parquet(
                path,
                filesystem=file_system,
                min_rows_per_file=config.least_rows_per_file(plan.num_images),
                ray_remote_args={"num_cpus": SMALL_TASK_CPUS},
                compression="zstd",
            )
    finally:
        await_purses(ledger)
        context.checkpoint_config = None


def pipeline(config: LabelConfig, plan: LabelPlan, ledger: LedgerHandle) -> Dataset:
    """Manifest rows -> output rows, lazily."""
    settings, first, folder = config.input, plan.pools[0], RunFolder(config.run.folder)
    decode = ReadAndDecode(plan.preprocessing, settings.max_pixels, settings.read_threads, settings.accept_truncated)
    rows = _manifest_rows(folder, first.batch_size, settings.image_column, ledger)
    rows = rows.map_batches(
        Telling(decode, ledger, folder.name),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=settings.decode_cpus,
        # On a single machine no more at once than it has cores, though its logical CPUs may be more: each is a process.
        compute=TaskPoolStrategy(size=os.cpu_count() if config.cluster.is_local else None),
        # Declared for its own sake, and because tasks with the same resources as the actors after them would be fused
        # into those: images would then be decoded by the processes that hold the GPUs.
        memory=decode_memory_bytes(plan.preprocessing, settings.max_pixels, first.batch_size),
    )
    for index, pool in enumerate(plan.pools):
        work = StageWork(storage.absolute(config.bundle), index, pool, config.inference, config.output, folder.name)
        rows = rows.map_batches(
            StageActor,
            fn_constructor_args=(work, ledger),
            batch_size=pool.batch_size,
            batch_format="pyarrow",
            **pool_options(pool, CALLS_IN_FLIGHT),
        )
    return rows


def _manifest_rows(folder: RunFolder, batch_size: int, image_column: str, ledger: LedgerHandle) -> Dataset:
    """The manifest, cut into blocks of one batch, so that reading and decoding runs in many tasks.

    Of images in row groups the bytes are read before the cut, by the group.
    """
    files = manifest_files(folder.manifest)
    if in_row_groups(files):
        rows = ray.data.read_datasource(GroupedRows(files, batch_size), num_cpus=SMALL_TASK_CPUS, **_UNCUT)
        rows = rows.map_batches(
            Telling(RowGroupContents(image_column, batch_size), ledger, folder.name),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=SMALL_TASK_CPUS,
        )
    else:
        rows = ray.data.read_datasource(ManifestRows(files), num_cpus=SMALL_TASK_CPUS, **_UNCUT)
    return rows.repartition(target_num_rows_per_block=batch_size)


def checkpointing(folder: RunFolder) -> CheckpointConfig:
    """Ray Data's own resume: ids of written rows are kept beside the labels, and dropped before any download."""
    file_system, path = storage.resolve(folder.finished_ids)
    return CheckpointConfig(
        id_column="image_id", checkpoint_path=path, override_filesystem=file_system, delete_checkpoint_on_success=False
    )
