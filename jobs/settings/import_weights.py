"""What ``jobs.import_weights`` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.systems.registry import SystemSettings
from jobs.settings.common import require_folder


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """``jobs.import_weights``: a bundle from published weight files."""

    bundle: str
    """Bundle folder to write, local or ``s3://``; one that is there is replaced."""
    classes: str
    """File with one class name per line, in the order of the logits."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Weight files (PyTorch) by role, local or ``s3://``; those that ``system.members`` name need not be named here."""
    architectures: Mapping[str, str] = field(default_factory=dict)
    """Architectures by role, as torchvision or ``module:function`` name them; AnchorNet's own need not be named."""
    system: SystemSettings = field(default_factory=AnchorNetSettings)
    """How the networks are put together."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        require_folder("bundle", self.bundle)
