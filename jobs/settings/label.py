"""What ``jobs.label`` can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from anchornet.data.inputs import InputSettings
from anchornet.files.ranges import check_number
from jobs.settings.common import ClusterSettings, InferenceSettings, PoolSettings, RunSettings, require

_FEW_ROWS, _MANY_FILES = 4096, 1000
"""Rows of a label file of a small job, and about as many files as a large one leaves."""


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
        sizes = {"total_gflops": self.total_gflops, "gflops_per_image": self.gflops_per_image}
        given = {key: value for key, value in sizes.items() if value is not None}
        require(
            len(given) == 1,
            f"give exactly one of budget.total_gflops and budget.gflops_per_image, got "
            f"{self.total_gflops} and {self.gflops_per_image}; set the other one to null",
        )
        for key, value in given.items():
            require(0 < value < math.inf, f"budget.{key} must be a number > 0 of GFLOPs, got {value}")


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """What label rows hold beside the label."""

    top_k: int = 0
    """Column ``top``: so many of the most likely classes, each with its softmax, the likeliest first; 0 leaves it out."""
    embedding: bool = False
    """Column ``embedding``: what the head of the network at the exit taken was given, float16. Rows of one exit can be compared;
    those of another exit come from another network."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_number("output.top_k", self.top_k, least=0)


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """``jobs.label``: labels for a folder of images under a compute budget."""

    run: RunSettings
    bundle: str
    """Calibrated bundle, folder or ``s3://``."""
    input: InputSettings
    budget: BudgetSettings
    output: OutputSettings = field(default_factory=OutputSettings)
    pools: tuple[PoolSettings, ...] = ()
    """One pool of actors per stage of the bundle's cascade, in order; empty: by the size of the cluster."""
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    rows_per_file: int | None = None
    """Rows that a Parquet file of labels should have at least (the last ones have fewer); null: 4,096, or a thousandth of the
    images when that is more. What is not written yet is computed again after a crash, so fewer rows lose less."""
    dry_run: bool = False
    """Sample some images, print what the job would cost, and stop. The same as ``--dry-run``."""
    retry_failed: bool = False
    """Compute again the rows with status ``failed`` that earlier starts left; those that are ``unreadable`` stay. The same as
    ``--retry-failed``."""
    max_failed_fraction: float = 0.05
    """Exit code 1 when more than this fraction of the images is unreadable or failed."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.rows_per_file is not None:
            check_number("rows_per_file", self.rows_per_file, least=1)
        fraction = self.max_failed_fraction
        require(0 <= fraction <= 1, f"max_failed_fraction must be in [0, 1], got {fraction}")

    def least_rows_per_file(self, num_images: int) -> int:
        """What is asked for, else so many that a job of ``num_images`` leaves no more than about a thousand files."""
        return self.rows_per_file or max(_FEW_ROWS, num_images // _MANY_FILES)

    def pools_for(self, num_stages: int) -> tuple[PoolSettings, ...]:
        """A pool for each stage, or none. Raises ValueError when the configuration names another number of them."""
        require(
            len(self.pools) in (0, num_stages),
            f"pools has {len(self.pools)} entries, the bundle's cascade has {num_stages} stages; give one for each, or none",
        )
        return self.pools
