"""What the folder of a label run holds from earlier starts: finished images, spend, and what it was started with."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from anchornet.bundle import Bundle
from anchornet.files import storage
from anchornet.ledger.ledger import FileMark
from anchornet.ledger.mark import MarkState
from jobs.settings.label import LabelConfig
from jobs.shell.run_folder import RunFolder

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
    }


def count_labelled(run: RunFolder) -> int:
    """Images whose rows are written and committed; an uncommitted file is deleted and computed again by the resume."""
    folder = run.finished_ids
    if not storage.exists(folder):
        return 0
    count, uris = 0, [uri for uri, _ in storage.list_files(folder)]
    for uri in uris:
        if uri.endswith(".parquet") and not uri.endswith(_PENDING) and _pending(uri) not in uris:
            file_system, path = storage.resolve(uri)
            with file_system.open_input_file(path) as file:
                count += pq.read_metadata(file).num_rows
    return count


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


def _pending(uri: str) -> str:
    return uri.removesuffix(".parquet") + _PENDING
