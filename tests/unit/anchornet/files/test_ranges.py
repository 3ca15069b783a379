"""A number outside its range is refused with its key and the rule that it breaks."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from anchornet.files.ranges import LARGEST, check_number


@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        (0, {"least": 1}, "a.b must be >= 1, got 0"),
        (0.0, {"above": 0}, "a.b must be > 0, got 0.0"),
        (1.5, {"least": 0, "most": 1}, "a.b must be <= 1, got 1.5"),
        (math.nan, {"least": 0}, "a.b must be >= 0, got nan"),
        (math.nan, {"above": 0}, "a.b must be > 0, got nan"),
        (math.nan, {}, f"a.b must be <= {LARGEST}, got nan"),
        (math.inf, {"above": 0}, f"a.b must be <= {LARGEST}, got inf"),
        (2**70, {"least": 1}, f"a.b must be <= {LARGEST}, got {2**70}"),
    ],
)
def test_it_is_refused(value: float, rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_number("a.b", value, **rule)


@pytest.mark.parametrize(
    ("value", "rule"),
    [(None, {"least": 1}), (1, {"least": 1}), (1, {"least": 0, "most": 1}), (1e-300, {"above": 0}), (LARGEST, {})],
)
def test_the_edge_of_a_range_is_within_it(value: float | None, rule: dict[str, Any]) -> None:
    check_number("a.b", value, **rule)
