"""The ledger's address on Ray: one named actor that holds :class:`anchornet.ledger.ledger.Ledger` and nothing else.

Ray restarts it when it dies; it then reads its write-ahead mark from the run folder and goes on, so that nothing is ever
granted twice. Its methods may be retried: a statement that arrives twice counts once.
"""

from __future__ import annotations

import logging
import time
from typing import Any, TypeAlias

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from anchornet.ledger.ledger import FileMark, Grant, Ledger, LedgerPlan, Statement
from anchornet.ledger.mark import MarkState
from jobs.resources.loading import Loads
from jobs.shell.metrics import JobMetrics
from jobs.shell.run_folder import RunFolder
from jobs.shell.stops import FolderTakenError
from jobs.shell.worker_log import Notes

logger = logging.getLogger(__name__)

LedgerHandle: TypeAlias = Any
"""Ray's handle of the running ledger; Ray's own type of it hides the class's methods from checkers."""

_RETURN_S = 5.0
"""How long the driver waits for purses at the end: workers that live give back at once, those that died never do."""
_POLL_S = 0.05
NAMESPACE = "anchornet"
"""Of the ledgers' names on a cluster, so that a second job in the same run folder meets the first one's."""
_LEAVES_S = 30.0
"""Ray takes some seconds to end the ledger of a driver that died."""


class LedgerActor(Notes, Loads):
    """The ledger of one run, with what its workers have to say and whether they can load."""

    def __init__(self, plan: LedgerPlan, mark_uri: str) -> None:
        super().__init__()
        mark = FileMark(mark_uri)
        if mark.read() is None:
            raise RuntimeError(
                f"the ledger's mark {mark_uri} is not to be seen from node {ray.util.get_node_ip_address()}: what was spent "
                f"is unknown. run.folder must lie where every node sees it, such as s3://"
            )
        self._ledger = Ledger.open(plan, mark, time.monotonic())
        self._metrics = JobMetrics(run_of(mark_uri).name, self._ledger.report())

    def exchange(self, statement: Statement) -> Grant:
        """What a worker did, for what it may do next; see :meth:`anchornet.ledger.ledger.Ledger.exchange`."""
        grant = self._ledger.exchange(statement, time.monotonic())
        self._metrics.stated(statement)
        return grant

    def skip(self, image_ids: np.ndarray) -> None:
        """Images that will never be computed; see :meth:`anchornet.ledger.ledger.Ledger.skip`."""
        self._ledger.skip(image_ids)

    def num_open(self) -> int:
        """Workers that hold a purse."""
        return self._ledger.account.num_open()

    def close(self) -> None:
        """See :meth:`anchornet.ledger.ledger.Ledger.close`."""
        self._ledger.close()

    def report(self) -> dict[str, Any]:
        """The ledger's report so far; the driver asks every few seconds, which also keeps the metrics there."""
        report = self._ledger.report()
        self._metrics.stands(report)
        return report


def answer(reference: ray.ObjectRef[Any], timeout_s: float | None = None) -> Any:
    """What a method of the ledger gave (or any actor's): ``ray.get`` with a type that checkers understand."""
    return ray.get(reference, timeout=timeout_s)


def await_purses(ledger: LedgerHandle) -> None:
    """Return when every purse is back, or when those that are missing are surely their dead workers'."""
    deadline_s = time.monotonic() + _RETURN_S
    while answer(ledger.num_open.remote()) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)


def ledger_name(mark_uri: str) -> str:
    """The actor's name: its run's."""
    return f"ledger-{run_of(mark_uri).name}"


def run_of(mark_uri: str) -> RunFolder:
    """The run folder in which a mark lies."""
    return RunFolder(mark_uri.rpartition("/")[0])


def start_ledger(plan: LedgerPlan, mark_uri: str) -> LedgerHandle:
    """The running ledger actor of this run, named after its mark so that a person can find it in the dashboard.

    It lives on the driver's node: Ray would put an actor that asks for nothing on any node, spot machines included, and without
    the driver the job ends anyway.

    The driver writes the first, empty mark: for the actor, which may come up again elsewhere, no mark is an error and never
    a fresh budget. Raises FolderTakenError when another job of this cluster works in the run folder and does not leave.
    """
    mark = FileMark(mark_uri)
    if mark.read() is None:
        mark.write(MarkState().to_bytes())
    name = ledger_name(mark_uri)
    remote: Any = ray.remote(LedgerActor)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    named = remote.options(
        name=name,
        namespace=NAMESPACE,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=here,
    )
    deadline_s = time.monotonic() + _LEAVES_S
    while True:
        try:
            return named.remote(plan, mark_uri)
        except ValueError as error:  # the name is taken
            if time.monotonic() > deadline_s:
                raise FolderTakenError(
                    f"another job of this cluster works in this run folder (its ledger writes {mark_uri}); wait for it, stop "
                    f"it, or choose another run.folder"
                ) from error
            logger.info("the ledger of another job in this run folder is still there; waiting for it to leave")
            time.sleep(1.0)
