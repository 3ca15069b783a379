"""The unit of cost, and how people read it. GFLOPs here are multiply-adds / 1e9 (ResNet-50 at 224 is 4.09)."""

from __future__ import annotations

import math

GIGA = 10**9
"""Multiply-adds in a GFLOP."""
_SIGNIFICANT = 4
_BEYOND_USE = 1e15
"""GFLOPs that no job spends: a slip of the finger, which is shown as it was typed."""
_FEWEST_DECIMALS, _MOST_DECIMALS = 3, 9


def gflops_text(gflops: float) -> str:
    """``gflops`` >= 0 for a person: four significant digits or three decimals, rounded up.

    Never below the number itself, so a minimum that is printed is accepted when it is typed in again; and in the order
    of the numbers, so what was spent never looks like more than what was allowed.
    """
    if gflops >= _BEYOND_USE:
        return f"{gflops:.6g}"
    macs = math.ceil(gflops * GIGA - 1e-6)  # floating-point noise is no reason to round up
    magnitude = math.floor(math.log10(gflops)) if macs > 0 else 0
    decimals = min(max(_SIGNIFICANT - 1 - magnitude, _FEWEST_DECIMALS), _MOST_DECIMALS)
    step = 10 ** (_MOST_DECIMALS - decimals)
    return f"{-(-macs // step) * step / GIGA:.{decimals}f}"
