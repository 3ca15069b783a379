"""What ``jobs.train`` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from anchornet.data.listing import DatasetSettings
from anchornet.files.ranges import LARGEST_SIDE, check_number
from anchornet.images.augment import CropSettings
from anchornet.systems.registry import RecipeSettings
from jobs.settings.common import ClusterSettings, RunSettings, require


@dataclass(frozen=True, kw_only=True)
class InitSettings:
    """Weights to start from; both None is from scratch."""

    model: str | None = None
    """Run folder of a train job with the same architecture; other class counts get a new last layer."""
    weights: str | None = None
    """State dict on disk with torchvision's parameter names; other class counts get a new last layer."""

    def __post_init__(self) -> None:
        """Refuse two sources."""
        require(None in (self.model, self.weights), "give init.model or init.weights, not both")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The processes that train together, each with its share of every batch."""

    count: int | tuple[int, ...] = 1
    """Number of workers, or [fewest, most]: the run starts with what there is and grows with the cluster. 0: no process of
    its own, the network learns in the one that was started (Ray Train's local mode); some ten seconds less to start."""
    use_gpu: bool | None = None
    """One GPU per worker; None: if the cluster has one."""
    cpus: float = 1.0
    """Logical CPUs a worker holds (reading images holds its own)."""
    threads: int | None = None
    """CPU threads of torch in each worker; None: the machine's cores shared evenly among its workers."""
    accelerator_type: str | None = None
    """Kind of GPU node to use, as Ray names it (``H200``, ``L4``); None takes any."""
    max_failures: int = 2
    """Crashes after which the run goes on from its last checkpoint; nodes that are taken away never count."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        counts = self.count if isinstance(self.count, tuple) else (self.count,)
        shape_ok = len(counts) == 1 or (len(counts) == 2 and counts[0] <= counts[1])
        require(
            self.count == 0 or (shape_ok and min(counts) >= 1),
            f"workers.count must be 0, a number >= 1, or [fewest, most], got {self.count}",
        )
        check_number("workers.count", counts[-1])
        check_number("workers.cpus", self.cpus, above=0)
        check_number("workers.threads", self.threads, least=1)
        check_number("workers.max_failures", self.max_failures, least=0)

    @property
    def fewest(self) -> int:
        """Workers without which the run does not start."""
        return self.count[0] if isinstance(self.count, tuple) else self.count

    @property
    def most(self) -> int:
        """Workers that the run grows to."""
        return self.count[-1] if isinstance(self.count, tuple) else self.count


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """``jobs.train``: one network, taught by a recipe."""

    run: RunSettings
    recipe: RecipeSettings
    """What is taught: the networks that learn, the frozen ones, what they are fed, and the schedule."""
    data: DatasetSettings
    """Training images."""
    validation: DatasetSettings | None = None
    """Images that choose the epoch to keep; None keeps the last epoch."""
    image_size: int = 224
    """Side in pixels of the validation images, that of the cascade that the network is for; ``crop.size`` is the training
    images'."""
    max_unreadable_fraction: float = 0.01
    """The run stops when more than this share of the images cannot be read or decoded."""
    shuffle_buffer: int = 2048
    """Images per worker among which Parquet rows are shuffled (0.15 MB each); class folders are shuffled as a whole."""
    init: InitSettings = field(default_factory=InitSettings)
    crop: CropSettings = field(default_factory=CropSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        fraction = self.max_unreadable_fraction
        require(0 <= fraction <= 1, f"max_unreadable_fraction must be in [0, 1], got {fraction}")
        check_number("shuffle_buffer", self.shuffle_buffer, least=0)
        check_number("image_size", self.image_size, least=1, most=LARGEST_SIDE)
