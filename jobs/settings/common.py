"""Sections that several jobs share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from anchornet.files.ranges import check_number

_FEWEST_CPUS, _MOST_CPUS = 4, 4096
"""Logical CPUs of a local Ray: with the fewest every job runs at its default sizes, and each is a process."""
AUTO = "auto"
"""Address of the Ray that runs on this machine, whatever it is."""
_LARGEST_PORT = 65535
_LARGEST_SEED = 2**32 - 1


def require(condition: bool, message: str) -> None:
    """Raises ValueError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def check_address(address: str, origin: str) -> None:
    """Raises ValueError, naming ``origin``, for the address of a cluster that is neither ``auto`` nor ``host:port``."""
    host, separator, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise ValueError(
            f"{origin} is {address}: Ray Client (ray://) is not supported; run the job on a machine of the cluster with "
            f"host:6379, or with ray job submit"
        )
    if "://" in address:
        raise ValueError(
            f"{origin} is {address}, which is a dashboard's address as ray job submit takes it; give the head's host:6379, "
            f"or submit the job"
        )
    if address != AUTO and not (separator and host and port.isdigit() and 0 < int(port) <= _LARGEST_PORT):
        raise ValueError(
            f"{origin} must be auto or host:port (often host:6379), got {address!r}; leave it out for a Ray here"
        )


def require_folder(name: str, folder: str) -> None:
    """Raises ValueError for an empty name of a folder that is written to; ``name`` is its key."""
    require(bool(folder.strip()), f"{name} is empty, and would write into the root of the disk; name a folder")


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Where the job runs."""

    address: str | None = None
    """Address of a running Ray, ``host:6379``, or ``auto`` for the one on this machine; None joins the cluster that RAY_ADDRESS
    names (``ray job submit`` sets it) or starts a local Ray."""
    local_cpus: int | None = None
    """Logical CPUs of a local Ray; None: as many as there are cores, and at least 4. Operators hold fractions, and a
    pipeline whose operators hold every CPU waits for ever (see docs/surprises.md); every CPU more starts a process."""
    max_cpus: float | None = None
    """Logical CPUs that the cluster may grow to, where Ray does not know it; None: whatever its autoscaler gives."""
    max_gpus: float | None = None
    """Likewise GPUs. A cluster that starts empty is planned for by these."""
    stall_s: float = 120.0
    """A job that has not moved for so many seconds says what it waits for, and goes on waiting."""
    dashboard: bool = False
    """Open Ray's dashboard on the loopback address; of a Ray that the job starts for itself, a cluster has its own."""
    price_per_hour: float | None = None
    """Money per hour for the whole cluster, for the estimates of ``label --dry-run``; None leaves money out."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.address is not None:
            check_address(self.address, "cluster.address")
        check_number("cluster.local_cpus", self.local_cpus, least=_FEWEST_CPUS, most=_MOST_CPUS)
        check_number("cluster.max_cpus", self.max_cpus, least=0)
        check_number("cluster.max_gpus", self.max_gpus, least=0)
        check_number("cluster.stall_s", self.stall_s, above=0)
        check_number("cluster.price_per_hour", self.price_per_hour, least=0)

    @property
    def is_local(self) -> bool:
        """True when the job starts a Ray of its own, which cannot grow (``ray job submit`` sets RAY_ADDRESS)."""
        return not self.address and os.environ.get("RAY_ADDRESS", "") in ("", "local")

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
        """Refuse a folder that is none, and a seed that not every generator takes."""
        require_folder("run.folder", self.folder)
        check_number("run.seed", self.seed, least=0, most=_LARGEST_SEED)


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
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that a node must have, such as ``ray.io/market-type: spot``; empty takes any."""
    threads: int | None = None
    """CPU threads of torch in each actor; None: the cores of a local machine shared evenly among the actors."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_number("pool actors", self.actors, least=1)
        check_number("pool max_actors", self.max_actors)
        most = self.max_actors
        require(most is None or most >= self.actors, f"pool max_actors must be >= actors ({self.actors}), got {most}")
        check_number("pool cpus", self.cpus, least=0)
        check_number("pool gpus", self.gpus, least=0)
        check_number("pool batch_size", self.batch_size, least=1)
        check_number("pool threads", self.threads, least=1)

    @property
    def largest(self) -> int:
        """The most actors this pool can have."""
        return self.max_actors or self.actors


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How networks are run when nothing is learned."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of convolutions and linear layers; softmax and the logit sum are always float32."""
    device: Literal["auto", "cpu"] = "auto"
    """``auto``: on the GPU where an actor holds one. ``cpu``: never, as when a cluster is tried out on a machine without."""
