"""The files of a run: the one place that knows their names."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchornet.files import documents, storage
from jobs.shell.stops import FolderTakenError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Where a job writes, local or ``s3://``; every property is a URI below it."""

    uri: str

    def at(self, *parts: str) -> str:
        """The URI of something else below this folder."""
        return storage.join(self.uri, *parts)

    @property
    def name(self) -> str:
        """A short name of the run for logs, metrics and actors: the folder's own, and a hash of its path."""
        path = storage.absolute(self.uri).rstrip("/")
        return f"{path.rpartition('/')[2]}-{hashlib.sha256(path.encode()).hexdigest()[:6]}"

    @property
    def absolute(self) -> RunFolder:
        """The same folder as workers on the same file system name it."""
        return RunFolder(storage.absolute(self.uri))

    @property
    def config(self) -> str:
        """The resolved configuration."""
        return self.at("config.yaml")

    @property
    def provenance(self) -> str:
        """Commit, versions, hardware."""
        return self.at("provenance.json")

    @property
    def identity(self) -> str:
        """What the run was started for; another start with something else is refused."""
        return self.at("identity.json")

    @property
    def report(self) -> str:
        """What the job did; written last."""
        return self.at("report.json")

    @property
    def report_text(self) -> str:
        """The same as Markdown."""
        return self.at("report.md")

    @property
    def log(self) -> str:
        """What Ray had to say."""
        return self.at("ray.log")

    @property
    def picture(self) -> str:
        """The frontier."""
        return self.at("frontier.png")

    @property
    def labels(self) -> str:
        """Folder of the label rows."""
        return self.at("labels")

    @property
    def success(self) -> str:
        """Empty; there when every image has exactly one row, as tools that read folders of Parquet look for it."""
        return self.at("labels", "_SUCCESS")

    @property
    def failures(self) -> str:
        """The label rows that are not ``ok``, together."""
        return self.at("failures.parquet")

    @property
    def manifest(self) -> str:
        """Folder of the manifest."""
        return self.at("manifest")

    @property
    def finished_ids(self) -> str:
        """Folder where Ray Data keeps the ids of written rows."""
        return self.at("checkpoint")

    @property
    def mark(self) -> str:
        """The ledger's write-ahead mark."""
        return self.at("ledger.json")

    @property
    def retry(self) -> str:
        """Ids of failed images whose rows are being taken away, so that they are computed again; there for moments."""
        return self.at("retry.json")

    @property
    def estimate(self) -> str:
        """What ``--dry-run`` found."""
        return self.at("dry_run.json")

    @property
    def metrics(self) -> str:
        """One line per finished epoch."""
        return self.at("metrics.jsonl")

    @property
    def model(self) -> str:
        """The trained network."""
        return self.at("model")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A lock on a local run folder for the body, given up with the process however it ends.

        Raises FolderTakenError when another process of this machine has it. Object storage has no such locks: there the
        ledger finds out, from its mark.
        """
        if storage.is_remote(self.uri):
            yield
            return
        path = Path(self.absolute.at(".lock"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise FolderTakenError(
                    f"another job works in the run folder {self.uri} ({file.read().strip()}); wait for it, stop it, or choose "
                    f"another run.folder"
                ) from error
            except OSError:  # a file system without locks; the ledger's mark remains
                logger.debug("no lock on %s", path, exc_info=True)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def forget_success(self) -> None:
        """Rows are about to be taken away or added: nobody shall take the labels for whole meanwhile."""
        if storage.exists(self.success):
            storage.delete(self.success)

    def read_report(self) -> dict[str, Any] | None:
        """The report, None when there is none yet."""
        return documents.read_json(self.report) if storage.exists(self.report) else None

    def check_same(self, mine: dict[str, Any], forgiven: tuple[str, ...] = ()) -> None:
        """Raises ValueError when the run was started with something else than ``mine``, key by key.

        forgiven: keys that may be empty in ``mine`` because they are not known yet.
        """
        if not storage.exists(self.identity):
            return
        known = documents.read_json(self.identity)
        for key, value in json.loads(json.dumps(mine)).items():
            if known.get(key) != value and (value or key not in forgiven):
                raise ValueError(
                    f"run folder {self.uri} was started with {key} {known.get(key)!r}, got {value!r}; "
                    f"choose another run.folder"
                )

    def remember(self, mine: dict[str, Any]) -> None:
        """Write down at the first start what the run is started with."""
        if not storage.exists(self.identity):
            documents.write_json(self.identity, mine)


def model_in(folder: str) -> str:
    """The model folder that a run folder holds, or ``folder`` itself when it is one."""
    inner = RunFolder(folder).model
    return inner if storage.exists(inner) else folder
