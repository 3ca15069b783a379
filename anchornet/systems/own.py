"""A system of one's own: any object that says what ``System`` asks for, named in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class OwnSettings:
    """Where the system lies and what it is told. Raises ValueError for a name that is none."""

    kind: Literal["own"]
    """A system of your own, see ``anchornet/systems/system.py``."""
    name: str
    """``module:attribute`` of the system; the module must be importable where the job and its workers run."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that the system understands."""

    weight_files: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        """Refuse what cannot be imported."""
        module, separator, attribute = self.name.partition(":")
        if not (module and separator and attribute):
            raise ValueError(f"system.name must be module:attribute, got {self.name!r}; name the object to import")

    @property
    def implementation(self) -> str:
        """Where the system lies."""
        return self.name
