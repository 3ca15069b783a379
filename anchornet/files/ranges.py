"""Ranges of the numbers that people set."""

from __future__ import annotations

LARGEST = 2**31 - 1
"""What is counted here (images, pixels, epochs, processes, GFLOPs of an image) is smaller by far."""

LARGEST_PICTURE = 178_956_970
"""Pixels; Pillow decodes no larger one."""
LARGEST_SIDE = 8192
"""Pixels; a batch of larger squares fits no memory."""


def check_number(
    key: str,
    value: float | None,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float = LARGEST,
) -> None:
    """Raises ValueError, naming ``key`` and the rule, unless ``value`` is None or in [least, most], or in (above, most]."""
    if value is None:
        return
    if least is not None and not value >= least:  # so that NaN is refused
        raise ValueError(f"{key} must be >= {least}, got {value}")
    if above is not None and not value > above:
        raise ValueError(f"{key} must be > {above}, got {value}")
    if not value <= most:
        raise ValueError(f"{key} must be <= {most}, got {value}")
