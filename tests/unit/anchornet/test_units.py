"""Numbers that are printed are numbers that are accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.units import GIGA, gflops_text


@pytest.mark.parametrize(
    ("gflops", "text"),
    [
        (0.060028600, "0.06003"),
        (0.06003, "0.06003"),
        (0.060030003, "0.06004"),
        (1.1, "1.100"),
        (27402.1, "27402.100"),
        (0.0, "0.000"),
        (0.1 + 0.2, "0.3000"),
        (5e-9, "0.000000005"),
        (1e308, "1e+308"),
    ],
)
def test_text(gflops: float, text: str) -> None:
    assert gflops_text(gflops) == text


@given(macs=st.integers(0, 10**15))
def test_never_below_and_never_far_above(macs: int) -> None:
    read = round(float(gflops_text(macs / GIGA)) * GIGA)
    assert macs <= read <= macs + max(10**6, macs // 1000)


@given(a=st.integers(0, 10**13), b=st.integers(0, 10**13))
def test_keeps_the_order(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert float(gflops_text(low / GIGA)) <= float(gflops_text(high / GIGA))
