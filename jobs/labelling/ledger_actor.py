"""The ledger's address on Ray: one named actor that holds :class:`anchornet.ledger.ledger.Ledger` and nothing else.

Ray restarts it when it dies; it then reads its write-ahead mark from the run folder and goes on, so that nothing is ever
granted twice. Its methods may be retried: a lease asked for twice is charged twice, a settlement counts once.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle

from anchornet.ledger.ledger import FileMark, Lease, Ledger, LedgerPlan
from anchornet.ledger.mark import MarkState


class LedgerActor:
    """Leases and settlements of one run."""

    def __init__(self, plan: LedgerPlan, mark_uri: str) -> None:
        mark = FileMark(mark_uri)
        if mark.read() is None:
            raise RuntimeError(
                f"the ledger's mark {mark_uri} is not to be seen from node {ray.util.get_node_ip_address()}: what was spent "
                f"is unknown. run.folder must lie where every node sees it, such as s3://"
            )
        self._ledger = Ledger.open(plan, mark)
        self._stage_rows = [0] * len(plan.stage_starts)
        self._stage_compute_s = [0.0] * len(plan.stage_starts)

    def lease(self, stage: int, image_ids: np.ndarray) -> Lease:
        """Policy and allowance for a batch; see :meth:`anchornet.ledger.ledger.Ledger.lease`."""
        return self._ledger.lease(stage, image_ids)

    def settle(
        self,
        stage: int,
        rows: int,
        compute_s: float,
        lease_id: int,
        spent_macs: int,
        exit_counts: tuple[int, ...],
        num_failed: int,
    ) -> None:
        """What a batch really cost, and how long it was computed; see :meth:`anchornet.ledger.ledger.Ledger.settle`."""
        self._stage_rows[stage] += rows
        self._stage_compute_s[stage] += compute_s
        self._ledger.settle(lease_id, spent_macs, exit_counts, num_failed)

    def skip(self, image_ids: np.ndarray) -> None:
        """Images that will never be leased; see :meth:`anchornet.ledger.ledger.Ledger.skip`."""
        self._ledger.skip(image_ids)

    def close(self) -> None:
        """See :meth:`anchornet.ledger.ledger.Ledger.close`."""
        self._ledger.close()

    def report(self) -> dict[str, Any]:
        """The ledger's report so far, with rows and compute seconds of each stage (since the ledger's last start)."""
        return {**self._ledger.report(), "stage_rows": self._stage_rows, "stage_compute_s": self._stage_compute_s}


def ledger_name(mark_uri: str) -> str:
    """The actor's name: its mark's, shortened, so that two runs on a cluster never meet."""
    return "ledger-" + hashlib.sha256(mark_uri.encode()).hexdigest()[:12]


def start_ledger(plan: LedgerPlan, mark_uri: str) -> ActorHandle:
    """The running ledger actor of this run, named after its mark so that a person can find it in the dashboard.

    The driver writes the first, empty mark: for the actor, which may come up again elsewhere, no mark is an error and never
    a fresh budget.
    """
    mark = FileMark(mark_uri)
    if mark.read() is None:
        mark.write(MarkState().to_bytes())
    name = ledger_name(mark_uri)
    actor = ray.remote(LedgerActor).options(name=name, num_cpus=0, max_restarts=-1, max_task_retries=-1)
    return actor.remote(plan, mark_uri)
