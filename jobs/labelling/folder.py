"""What the folder of a label run holds from earlier starts: finished images, spend, and what it was started with."""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from anchornet.bundle import Bundle
from anchornet.files import storage
from anchornet.ledger.ledger import FileMark
from anchornet.ledger.mark import MarkState
from jobs.settings import LabelConfig

CHECKPOINT_FOLDER = "checkpoint"
LABELS_FOLDER = "labels"
MARK_FILE = "ledger.json"
REPORT_FILE = "report.json"
_IDENTITY_FILE = "identity.json"
_PENDING = ".pending.parquet"
"""End of the name of a checkpoint file whose label file may be incomplete (Ray Data's two-phase commit)."""


def check_same_run(config: LabelConfig, bundle: Bundle) -> None:
    """Remember at the first start what labels the images; refuse (ValueError) to mix another network's labels in."""
    assert bundle.frontier is not None
    uri = storage.join(config.run.folder, _IDENTITY_FILE)
    mine = {
        **{f"bundle's {part}": value for part, value in bundle.frontier.hashes.items()},
        "inference.precision": config.inference.precision,
        "input.max_pixels": config.input.max_pixels,
    }
    if not storage.exists(uri):
        storage.write_bytes(uri, (json.dumps(mine, indent=2) + "\n").encode())
        return
    known = json.loads(storage.read_bytes(uri))
    changed = [name for name, value in mine.items() if known.get(name) != value]
    if changed:
        raise ValueError(
            f"run folder {config.run.folder} holds labels made with {changed[0]} {known.get(changed[0])}, now it is "
            f"{mine[changed[0]]}; choose another run.folder"
        )


def count_labelled(run_folder: str) -> int:
    """Images whose rows are written and committed; an uncommitted file is deleted and computed again by the resume."""
    folder = storage.join(run_folder, CHECKPOINT_FOLDER)
    if not storage.exists(folder):
        return 0
    count, uris = 0, [uri for uri, _ in storage.list_files(folder)]
    for uri in uris:
        if uri.endswith(".parquet") and not uri.endswith(_PENDING) and _pending(uri) not in uris:
            file_system, path = storage.resolve(uri)
            with file_system.open_input_file(path) as file:
                count += pq.read_metadata(file).num_rows
    return count


def drop_doubtful_commits(run_folder: str) -> None:
    """Forget ids whose commit was cut off between copy and deletion, so that their rows are computed again.

    Ray then finds both ``X.parquet`` and ``X.pending.parquet``, deletes the label file and keeps the ids: the images would
    never get a row.
    """
    folder = storage.join(run_folder, CHECKPOINT_FOLDER)
    if storage.exists(folder):
        uris = {uri for uri, _ in storage.list_files(folder)}
        for uri in uris:
            if not uri.endswith(_PENDING) and _pending(uri) in uris:
                storage.delete(uri)


def spent_so_far(run_folder: str, num_labelled: int) -> int:
    """Multiply-adds that earlier starts of this run may have spent, as the ledger's mark says.

    Raises ValueError when there are labels and no mark: the run folder is not whole.
    """
    content = FileMark(storage.join(run_folder, MARK_FILE)).read()
    if content is None:
        if num_labelled:
            raise ValueError(
                f"run folder {run_folder} holds {num_labelled} labels but no {MARK_FILE}, so what they cost is unknown; "
                f"restore that file, or choose another run.folder"
            )
        return 0
    return MarkState.from_bytes(content).authorised_macs


def _pending(uri: str) -> str:
    return uri.removesuffix(".parquet") + _PENDING
