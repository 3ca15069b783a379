"""Actors that load networks: one that dies of it each time ends the job, instead of being started for ever.

Ray starts an actor again whose process was killed, by a lost node or by a kernel without memory alike, and Ray Data asks it to
do so without end. What raises while it loads ends the job at once, so the start that comes after too many deaths raises.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray
from ray._private.worker import global_worker

logger = logging.getLogger(__name__)

MOST_DEATHS = 3
"""In a row, of one actor, while it loads; lost nodes seldom hit the same actor so often within seconds."""


class CannotLoadError(RuntimeError):
    """The processes of a pool die while they load their networks; its text is for the user."""


class Loads:
    """Who loads networks and who has loaded them; a part of an actor of the job."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: Counter[str] = Counter()
        self._loaded: set[str] = set()

    def begins_to_load(self, pool: str, actor: str) -> tuple[int, bool]:
        """How often this actor has begun before without an end, and whether any actor of the pool has ever loaded."""
        self._begun[actor] += 1
        return self._begun[actor] - 1, pool in self._loaded

    def has_loaded(self, pool: str, actor: str) -> None:
        """The actor is ready."""
        del self._begun[actor]
        self._loaded.add(pool)


@contextlib.contextmanager
def loading(loads: Any, pool: str) -> Iterator[None]:
    """The body loads the networks of an actor; outside of actors nothing is watched.

    loads: handle of an actor with :class:`Loads`. pool: what the user calls the pool, such as ``pools.1``. Raises CannotLoadError
    when this actor has died of it :data:`MOST_DEATHS` times in a row and no other of its pool has ever come further.
    """
    if global_worker.mode != ray.WORKER_MODE:
        yield
        return
    context = ray.get_runtime_context()
    died, others_can = ray.get(loads.begins_to_load.remote(pool, context.get_actor_id()))
    if died >= MOST_DEATHS and not others_can:
        raise CannotLoadError(
            f"{pool}: a process died {died} times in a row while it loaded its networks, the last time on node "
            f"{ray.util.get_node_ip_address()}, and no other could; most often there is too little memory for them"
        )
    if died:
        logger.warning("%s: a process died while it loaded its networks, %d times in a row", pool, died)
    yield
    loads.has_loaded.remote(pool, context.get_actor_id())
