"""Sections that several jobs share."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal

_FEWEST_CPUS = 4
"""Logical CPUs with which every job runs at its default sizes."""


def require(condition: bool, message: str) -> None:
    """Raises ValueError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def require_folder(name: str, folder: str) -> None:
    """Raises ValueError for an empty name of a folder that is written to; ``name`` is its key."""
    require(bool(folder.strip()), f"{name} is empty, and would write into the root of the disk; name a folder")


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Where the job runs."""

    address: str | None = None
    """Ray address (``auto``, ``ray://host:10001``); None joins the cluster of ``ray job submit`` or starts a local Ray."""
    local_cpus: int | None = None
    """Logical CPUs of a local Ray; None: as many as there are cores, and at least 4. Operators hold fractions, and a
    pipeline whose operators hold every CPU waits for ever (see docs/surprises.md); every CPU more starts a process."""
    price_per_hour: float | None = None
    """Money per hour for the whole cluster, for the estimates of ``label --dry-run``; None leaves money out."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        cpus = self.local_cpus
        require(cpus is None or cpus >= _FEWEST_CPUS, f"cluster.local_cpus must be >= {_FEWEST_CPUS}, got {cpus}")
        price = self.price_per_hour
        require(price is None or 0 <= price < math.inf, f"cluster.price_per_hour must be >= 0, got {price}")

    @property
    def is_local(self) -> bool:
        """True when the job starts a Ray of its own, which cannot grow (``ray job submit`` sets RAY_ADDRESS)."""
        return not (self.address or os.environ.get("RAY_ADDRESS"))

    def cpus_of_local_ray(self) -> int:
        """Logical CPUs to start a local Ray with."""
        return self.local_cpus or max(_FEWEST_CPUS, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where the job writes."""

    folder: str
    """Run folder, local or ``s3://``: results, report, resolved configuration, checkpoints. The same folder resumes."""
    seed: int = 0
    """Seed of initial weights, of the order of training images, and of the order in which a label job meets its images."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        require(
            bool(self.folder.strip()), "run.folder is empty, and would write into the root of the disk; name a folder"
        )


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """One pool of actors in the label pipeline."""

    actors: int = 1
    """Actors at the start."""
    max_actors: int | None = None
    """Ray Data grows the pool up to this many; None keeps it at ``actors``."""
    cpus: float = 0.5
    """Logical CPUs an actor holds."""
    gpus: float = 0.0
    """GPUs an actor holds; fractions share one GPU."""
    batch_size: int = 64
    """Images per call; memory and speed only, never changes a label under a fixed policy."""
    accelerator_type: str | None = None
    """Kind of GPU node to use, as Ray names it (``H200``, ``L4``); None takes any."""
    threads: int | None = None
    """CPU threads of torch in each actor; None: the cores of a local machine shared evenly among the actors."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        require(self.actors >= 1, f"pool actors must be >= 1, got {self.actors}")
        most = self.max_actors
        require(most is None or most >= self.actors, f"pool max_actors must be >= actors ({self.actors}), got {most}")
        require(self.cpus >= 0 and self.gpus >= 0, f"pool cpus and gpus must be >= 0, got {self.cpus}, {self.gpus}")
        require(self.batch_size >= 1, f"pool batch_size must be >= 1, got {self.batch_size}")

    @property
    def largest(self) -> int:
        """The most actors this pool can have."""
        return self.max_actors or self.actors


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How networks are run when nothing is learned."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of convolutions and linear layers; softmax and the logit sum are always float32."""
