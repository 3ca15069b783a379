"""What ``jobs.calibrate`` and ``jobs.evaluate`` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anchornet.budget.combination import Combine
from anchornet.data.listing import DatasetSettings
from anchornet.files.ranges import check_number
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.systems.registry import SystemSettings
from jobs.settings.common import ClusterSettings, InferenceSettings, PoolSettings, RunSettings, require_folder


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """``jobs.calibrate``: exit table and frontier into the bundle."""

    run: RunSettings
    bundle: str
    """Bundle folder; made from ``models`` when those are given."""
    data: DatasetSettings
    labelled: bool = True
    """Whether the images have labels. False: ``data.path`` is anything that a label job takes; the frontier meets a budget as
    exactly, but nothing is known of accuracy, and label rows get no ``confidence``."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Trained networks by role, each the run folder of a train job or the model folder in it; empty when the bundle exists
    already."""
    system: SystemSettings = field(default_factory=AnchorNetSettings)
    """How the networks are put together; used when the bundle is made from ``models``."""
    combine: Combine = "fitted"
    """How what networks said becomes the label of an exit. ``fitted``: a weighted sum of all logits so far, one weight per view
    and exit, learned here. ``sum``: the paper's, all classifiers alike, AnchorNet's own logits left out; ``mean``: likewise,
    their mean; ``last``: the newest decides. ``auto``: what is most accurate on images that it was not fitted on. Without labels
    nothing can be learned: weights of an earlier calibration, else the rule of the system."""
    drop_exits: bool = True
    """Leave out exits without which the frontier is better (``system.skip`` of the bundle names them then); needs labels."""
    pool: PoolSettings = field(default_factory=PoolSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        require_folder("bundle", self.bundle)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """``jobs.evaluate``: accuracy and GFLOPs of every exit, the frontier, and three references on a labelled set."""

    run: RunSettings
    bundle: str
    """Calibrated bundle, folder or ``s3://``."""
    data: DatasetSettings
    full: str | None = None
    """Run folder of an ordinary classifier on whole images (recipe ``classifier``); None leaves that reference out."""
    gflops_per_image: tuple[float, ...] = ()
    """Budgets to evaluate along the frontier; empty: seven, evenly spaced over its useful range."""
    pool: PoolSettings = field(default_factory=PoolSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for position, gflops in enumerate(self.gflops_per_image):
            check_number(f"gflops_per_image[{position}]", gflops, above=0)
