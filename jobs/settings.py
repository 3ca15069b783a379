"""What each job can be told: one frozen dataclass per section, one per job.

A field's docstring gives its unit and what None means. ``python -m jobs.NAME --help`` lists the fields of a job.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Literal

from anchornet.images.augment import CropSettings
from anchornet.models.training_settings import AnchorNetTraining, CascadeSettings, ClassifierTraining

_FEWEST_CPUS = 4
"""Logical CPUs with which every job runs at its default sizes."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


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
        _require(cpus is None or cpus >= _FEWEST_CPUS, f"cluster.local_cpus must be >= {_FEWEST_CPUS}, got {cpus}")
        price = self.price_per_hour
        _require(price is None or 0 <= price < math.inf, f"cluster.price_per_hour must be >= 0, got {price}")

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
    """Seed of initial weights and of the order of training images."""


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """Labelled images: class folders of image files, or Parquet with columns ``image`` (bytes) and ``label``."""

    path: str
    """Folder or ``s3://`` prefix. Class folders: ``path/CLASS/...``; Parquet: ``path`` or files below it end in .parquet."""
    limit: int | None = None
    """Use at most this many images, drawn evenly from the shuffled list; None uses all."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require(self.limit is None or self.limit > 0, f"limit must be > 0 or null, got {self.limit}")


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
        _require(self.actors >= 1, f"pool actors must be >= 1, got {self.actors}")
        most = self.max_actors
        _require(most is None or most >= self.actors, f"pool max_actors must be >= actors ({self.actors}), got {most}")
        _require(self.cpus >= 0 and self.gpus >= 0, f"pool cpus and gpus must be >= 0, got {self.cpus}, {self.gpus}")
        _require(self.batch_size >= 1, f"pool batch_size must be >= 1, got {self.batch_size}")

    @property
    def largest(self) -> int:
        """The most actors this pool can have."""
        return self.max_actors or self.actors


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How networks are run when nothing is learned."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of convolutions and linear layers; softmax and the logit sum are always float32."""


@dataclass(frozen=True, kw_only=True)
class BudgetSettings:
    """The one number. Exactly one of the two sizes must be given."""

    total_gflops: float | None = None
    """GFLOPs (multiply-adds / 1e9) for the whole job."""
    gflops_per_image: float | None = None
    """The same, divided by the number of images in the manifest."""
    mode: Literal["hard", "fixed"] = "hard"
    """``hard``: never exceeded, the policy moves as the job runs. ``fixed``: one policy, reproducible labels, the spend
    is only expected."""

    def __post_init__(self) -> None:
        """Refuse a missing, doubled or non-positive budget."""
        given = [v for v in (self.total_gflops, self.gflops_per_image) if v is not None]
        _require(
            len(given) == 1,
            f"give exactly one of budget.total_gflops and budget.gflops_per_image, got "
            f"{self.total_gflops} and {self.gflops_per_image}; set the other one to null",
        )
        _require(0 < given[0] < math.inf, f"the budget must be a number > 0 of GFLOPs, got {given[0]}")


@dataclass(frozen=True, kw_only=True)
class InputSettings:
    """The images to label."""

    path: str
    """Folder or ``s3://`` prefix that is listed recursively, or a Parquet file with a column ``uri``."""
    limit: int | None = None
    """Label only the first this many of the listing; None labels all."""
    max_pixels: int = 100_000_000
    """Larger images get status ``unreadable`` instead of being decoded."""
    decode_cpus: float = 0.5
    """Logical CPUs of one read-and-decode task."""
    read_threads: int = 16
    """Concurrent reads within one task; for object storage."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require(self.limit is None or self.limit > 0, f"input.limit must be > 0 or null, got {self.limit}")
        _require(self.max_pixels > 0, f"input.max_pixels must be > 0, got {self.max_pixels}")
        _require(self.decode_cpus > 0, f"input.decode_cpus must be > 0, got {self.decode_cpus}")
        _require(self.read_threads > 0, f"input.read_threads must be > 0, got {self.read_threads}")


@dataclass(frozen=True, kw_only=True)
class ModelFolders:
    """Trained networks, each the run folder of a train job or the model folder in it; all None when the bundle exists
    already."""

    anchornet: str | None = None
    glance: str | None = None
    patch: str | None = None

    @property
    def given(self) -> bool:
        """True when all three folders are named."""
        return len(self.folders) == 3

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that are named, in the order of the fields."""
        return tuple(folder for folder in (self.anchornet, self.glance, self.patch) if folder is not None)

    def __post_init__(self) -> None:
        """Refuse an incomplete set."""
        folders = self.folders
        _require(len(folders) in (0, 3), f"models needs all of anchornet, glance and patch, or none, got {folders}")


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """``jobs.calibrate``: exit table and frontier into the bundle."""

    run: RunSettings
    bundle: str
    """Bundle folder; made from ``models`` when those are given."""
    data: DatasetSettings
    models: ModelFolders = field(default_factory=ModelFolders)
    cascade: CascadeSettings = field(default_factory=CascadeSettings)
    """Order and patches; used when the bundle is made from ``models``."""
    pool: PoolSettings = field(default_factory=PoolSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """``jobs.label``: labels for a folder of images under a compute budget."""

    run: RunSettings
    bundle: str
    """Calibrated bundle, folder or ``s3://``."""
    input: InputSettings
    budget: BudgetSettings
    stage1: PoolSettings = field(default_factory=PoolSettings)
    stage2: PoolSettings = field(default_factory=PoolSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    rows_per_file: int = 4096
    """Rows that a Parquet file of labels should have at least (the last ones have fewer). What is not written yet is
    computed again after a crash, so fewer rows lose less."""
    dry_run: bool = False
    """Sample some images, print what the job would cost, and stop. The same as ``--dry-run``."""
    max_failed_fraction: float = 1.0
    """Exit code 1 when more than this fraction of the images is unreadable or failed."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        fraction = self.max_failed_fraction
        _require(0 <= fraction <= 1, f"max_failed_fraction must be in [0, 1], got {fraction}")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """``jobs.evaluate``: accuracy and GFLOPs of every exit, the frontier, and three references on a labelled set."""

    run: RunSettings
    bundle: str
    data: DatasetSettings
    full: str | None = None
    """Run folder of a classifier trained with role ``full`` (224x224); None leaves that reference out and says so."""
    gflops_per_image: tuple[float, ...] = ()
    """Budgets to evaluate along the frontier; empty: seven, evenly spaced over its useful range."""
    pool: PoolSettings = field(default_factory=PoolSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)


@dataclass(frozen=True, kw_only=True)
class InitSettings:
    """Weights to start from; both None is from scratch."""

    model: str | None = None
    """Run folder of a train job with the same architecture; other class counts get a new last layer."""
    weights: str | None = None
    """State dict on disk with torchvision's parameter names; other class counts get a new last layer."""

    def __post_init__(self) -> None:
        """Refuse two sources."""
        _require(None in (self.model, self.weights), "give init.model or init.weights, not both")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The processes that train together, each with its share of every batch."""

    count: int | tuple[int, ...] = 1
    """Number of workers, or [fewest, most]: the run starts with what there is and grows with the cluster."""
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
        _require(
            shape_ok and min(counts) >= 1, f"workers.count must be a number >= 1 or [fewest, most], got {self.count}"
        )
        _require(self.cpus > 0, f"workers.cpus must be > 0, got {self.cpus}")
        _require(self.threads is None or self.threads >= 1, f"workers.threads must be >= 1, got {self.threads}")
        _require(self.max_failures >= 0, f"workers.max_failures must be >= 0, got {self.max_failures}")

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
    """What both train jobs share."""

    run: RunSettings
    data: DatasetSettings
    """Training images."""
    validation: DatasetSettings | None = None
    """Images that choose the epoch to keep; None keeps the last epoch."""
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
        _require(0 <= fraction <= 1, f"max_unreadable_fraction must be in [0, 1], got {fraction}")
        _require(self.shuffle_buffer >= 0, f"shuffle_buffer must be >= 0, got {self.shuffle_buffer}")


@dataclass(frozen=True, kw_only=True)
class TrainAnchornetConfig(TrainConfig):
    """``jobs.train_anchornet``: stage I, the network that proposes patches."""

    training: AnchorNetTraining = field(default_factory=AnchorNetTraining)


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig(TrainConfig):
    """``jobs.train_classifier``: stage II, one downstream network in one of its roles."""

    role: Literal["glance", "patch", "full"]
    """``glance``: the image shrunk to 95; ``patch``: AnchorNet's crops; ``full``: the image at 224, for comparison."""
    architecture: str
    """torchvision's name of the network, or ``module:function`` called with the number of classes."""
    anchornet: str | None = None
    """Run folder of ``jobs.train_anchornet``; needed by role ``patch``, whose crops it chooses."""
    glance: str | None = None
    """Run folder of the trained glance network; role ``patch`` then validates the sum with its logits as well."""
    num_patches: int = 4
    """Crops per image, in training and validation."""
    training_patches: int | None = None
    """Train on only this many of them, drawn anew for each image; null trains on all, as the paper."""
    iou_threshold: float = 0.3
    """Largest overlap (intersection over union) of two crops of one image."""
    training: ClassifierTraining = field(default_factory=ClassifierTraining)

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        patch = self.role == "patch"
        _require(not patch or self.anchornet is not None, "role patch needs anchornet, a run of jobs.train_anchornet")
        _require(
            patch or (self.anchornet is None and self.glance is None),
            f"role {self.role} uses neither anchornet nor glance; leave them out",
        )
        _require(self.num_patches >= 1, f"num_patches must be >= 1, got {self.num_patches}")
