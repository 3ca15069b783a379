"""What the folder of a label run holds from earlier starts: finished images, spend, and what it was started with."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anchornet.bundle import Bundle
from anchornet.cascade.rows import FAILED
from anchornet.data.reading import READ_THREADS
from anchornet.files import storage
from anchornet.files.documents import read_json, write_json
from anchornet.ledger.ledger import TAKEN_OVER, FileMark
from anchornet.ledger.mark import MarkState
from anchornet.report.label_counts import label_tables
from jobs.settings.label import LabelConfig
from jobs.shell.run_folder import RunFolder
from jobs.shell.stops import FolderTakenError

_PENDING = ".pending.parquet"
"""End of the name of a checkpoint file whose label file may be incomplete (Ray Data's two-phase commit)."""


def identity(config: LabelConfig, bundle: Bundle) -> dict[str, Any]:
    """What labels the images: a run folder never mixes the labels of two networks."""
    assert bundle.frontier is not None
    return {
        **{f"bundle's {part}": value for part, value in bundle.frontier.hashes.items()},
        "inference.precision": config.inference.precision,
        "input.max_pixels": config.input.max_pixels,
        "input.accept_truncated": config.input.accept_truncated,
        "output": asdict(config.output),
    }


def count_labelled(run: RunFolder) -> int:
    """Images whose rows are written and committed; an uncommitted file is deleted and computed again by the resume."""
    folder = run.finished_ids
    if not storage.exists(folder):
        return 0
    uris = {uri for uri, _ in storage.list_files(folder)}
    whole = [
        uri for uri in uris if uri.endswith(".parquet") and not uri.endswith(_PENDING) and _pending(uri) not in uris
    ]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return sum(pool.map(_num_rows, whole))


def _num_rows(uri: str) -> int:
    file_system, path = storage.resolve(uri)
    with file_system.open_input_file(path) as file:
        return int(pq.read_metadata(file).num_rows)


def drop_doubtful_commits(run: RunFolder) -> None:
    """Forget ids whose commit was cut off between copy and deletion, so that their rows are computed again.

    Ray then finds both ``X.parquet`` and ``X.pending.parquet``, deletes the label file and keeps the ids: the images would
    never get a row.
    """
    folder = run.finished_ids
    if storage.exists(folder):
        uris = {uri for uri, _ in storage.list_files(folder)}
        for uri in uris:
            if not uri.endswith(_PENDING) and _pending(uri) in uris:
                storage.delete(uri)


def spent_so_far(run: RunFolder, num_labelled: int) -> int:
    """Multiply-adds that earlier starts of this run may have spent, as the ledger's mark says.

    Raises ValueError when there are labels and no mark: the run folder is not whole.
    """
    content = FileMark(run.mark).read()
    if content is None:
        if num_labelled:
            raise ValueError(
                f"run folder {run.uri} holds {num_labelled} labels but no {run.mark}, so what they cost is unknown; "
                f"restore that file, or choose another run.folder"
            )
        return 0
    return MarkState.from_bytes(content).authorised_macs


def retry_failed(run: RunFolder, wanted: bool) -> int:
    """Take away the rows with status ``failed`` when they are ``wanted`` again; how many those were.

    Their ids are written down first: a start that is cut off here is finished by the next one, whether that wants it or not, so
    that no image is left without a row or with two.
    """
    if not storage.exists(run.retry):
        if not wanted:
            return 0
        failed = [
            table["image_id"].filter(pc.equal(table["status"], FAILED))
            for table in label_tables(run.labels, ["image_id", "status"])
        ]
        write_json(run.retry, [each for column in failed for each in column.to_pylist()])
    ids = pa.array(read_json(run.retry), pa.int64())
    if len(ids):
        run.forget_success()
    _keep_rows(run.finished_ids, lambda table: pc.invert(pc.is_in(table["image_id"], ids)))
    _keep_rows(
        run.labels,
        lambda table: pc.invert(pc.and_(pc.is_in(table["image_id"], ids), pc.equal(table["status"], FAILED))),
    )
    storage.delete(run.retry)
    return len(ids)


def _keep_rows(folder: str, keep: Callable[[pa.Table], pa.ChunkedArray]) -> None:
    """Write the Parquet files of a folder again with some of their rows; one that loses none is left alone, one that loses all
    goes."""
    if not storage.exists(folder):
        return
    for uri in [uri for uri, _ in storage.list_files(folder) if uri.endswith(".parquet")]:
        file_system, path = storage.resolve(uri)
        table = pq.read_table(path, filesystem=file_system, partitioning=None)
        kept = table.filter(keep(table))
        if not len(kept):
            storage.delete(uri)
        elif len(kept) < len(table):
            sink = pa.BufferOutputStream()
            pq.write_table(kept, sink, compression="zstd")
            storage.write_bytes(uri, sink.getvalue().to_pybytes())


def check_ours(run: RunFolder, error: BaseException) -> None:
    """Raises FolderTakenError in place of an error that says, wherever it was raised, that another ledger has taken over."""
    if TAKEN_OVER in str(error):
        raise FolderTakenError(
            f"another job has started in the run folder {run.uri} and goes on with its budget, so this one stops; "
            f"one job at a time, or another run.folder"
        ) from error


def _pending(uri: str) -> str:
    return uri.removesuffix(".parquet") + _PENDING
