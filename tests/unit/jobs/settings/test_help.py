"""The list of settings: sections, lists of sections, and sections of several kinds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jobs.settings.help import settings_of, settings_text


@dataclass(frozen=True, kw_only=True)
class Pool:
    """One pool."""

    actors: int = 1
    """How many."""


@dataclass(frozen=True, kw_only=True)
class Near:
    """A place nearby."""

    kind: Literal["near"] = "near"
    """Which."""
    steps: float
    """How far, in steps."""


@dataclass(frozen=True, kw_only=True)
class Far:
    """A place far away."""

    kind: Literal["far"] = "far"
    """Which."""
    pool: Pool = field(default_factory=Pool)


@dataclass(frozen=True, kw_only=True)
class Base:
    """What both share."""

    name: str
    """Its name,
    on two lines."""


@dataclass(frozen=True, kw_only=True)
class Everything(Base):
    """One of each."""

    pools: tuple[Pool, ...] = (Pool(),)
    """Pools in order."""
    place: Near | Far
    """Where."""
    limit: int | None = None
    """At most; None is no limit."""
    budgets: tuple[float, ...] = ()
    """Some numbers."""
    spare: Pool | None = None
    mode: Literal["hard", "fixed"] = "hard"
    """How strict."""
    pool: Pool = field(default_factory=Pool)


def test_each_field_has_its_path_type_default_and_sentence() -> None:
    found = [(s.path, s.type, s.default, s.text) for s in settings_of(Everything)]
    assert found == [
        ("name", "text", "", "Its name, on two lines."),
        ("pools", "list of section", '[{"actors": 1}]', "Pools in order."),
        ("pools.0.actors", "whole number", "1", "How many."),
        ("place", "section or section", "", "Where."),
        ("place.kind", "near", '"near"', "Which."),
        ("place.steps", "number", "", "How far, in steps."),
        ("place.kind", "far", '"far"', "Which."),
        ("place.pool.actors", "whole number", "1", "How many."),
        ("limit", "whole number or null", "null", "At most; None is no limit."),
        ("budgets", "list of number", "[]", "Some numbers."),
        ("spare", "section or null", "null", "One pool."),
        ("spare.actors", "whole number", "1", "How many."),
        ("mode", "hard | fixed", '"hard"', "How strict."),
        ("pool.actors", "whole number", "1", "How many."),
    ]


def test_a_setting_of_one_kind_says_of_which() -> None:
    text = settings_text(Everything)
    assert "  place.steps  [number] (with place.kind=near)\n      How far, in steps." in text
    assert "  place.pool.actors  [whole number, default 1] (with place.kind=far)\n" in text


def test_null_is_called_null() -> None:
    assert "At most; null is no limit." in settings_text(Everything)
