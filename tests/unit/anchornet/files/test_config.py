"""The configuration loader: what it takes, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from anchornet.files.config import ConfigError, from_dict, load_config, to_dict


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    steps: tuple[int, ...] = ()
    kind: Literal["step", "cosine"] = "step"

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate must be > 0, got {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    count: int = 3
    limit: int | None = None
    workers: int | tuple[int, ...] = 1
    on: bool = False
    inner: Inner = field(default_factory=Inner)


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return str(path)


def test_file_then_overrides_then_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ninner: {rate: 1, steps: [1, 2]}\nworkers: [1, 4]\n")
    config = load_config(Outer, path, ["inner.rate=1e-4", "limit=7", "on=true"])
    assert config == Outer(name="a", limit=7, workers=(1, 4), on=True, inner=Inner(rate=1e-4, steps=(1, 2)))


@pytest.mark.parametrize("text", ["data/my photos #1", "2026_11", "on", "1e3", "a: b", " x"])
def test_an_override_of_a_text_is_taken_as_it_stands(text: str) -> None:
    assert load_config(Outer, None, [f"name={text}"]).name == text


def test_a_quoted_override_is_read_as_yaml() -> None:
    assert load_config(Outer, None, ["name='a b'"]).name == "a b"
    assert load_config(Outer, None, ["name=x", "inner={rate: 2, steps: [3]}", "inner.kind=cosine"]).inner == Inner(
        rate=2.0, steps=(3,), kind="cosine"
    )


def test_a_plain_dict_and_back() -> None:
    config = Outer(name="a", inner=Inner(steps=(1, 2)))
    assert to_dict(config)["inner"] == {"rate": 0.1, "steps": [1, 2], "kind": "step"}
    assert from_dict(Outer, to_dict(config), "test") == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "name is required; set it in the file or with --set name="),
        (["name=a", "inner.rte=1"], "unknown key 'rte' at section 'inner'; did you mean 'rate'"),
        (["name=a", "cuont=1"], "unknown key 'cuont' at top level; did you mean 'count'"),
        (["name=a", "count=1.5"], "count must be int, got 1.5"),
        (["name=a", "count=true"], "count must be int, got True"),
        (["name=a", "inner.kind=cosin"], "must be one of .* did you mean 'cosine'"),
        (["name=a", "inner.steps=3"], "inner.steps must be a list, got 3"),
        (["name=a", "inner.rate=fast"], "inner.rate must be float, got 'fast'"),
        (["name=a", "inner.rate=-1"], "rate must be > 0, got -1"),
        (["name=a", "inner=3"], "inner must be a section, got 3"),
        (["name"], "must look like section.key=value"),
        (["name=a", "name.x=1"], "name is a value, not a section"),
        (["name=[1"], "the value is not valid YAML"),
    ],
)
def test_refusals_name_the_key_and_the_rule(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, None, overrides)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(Outer, str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("text", ["- 1\n", "name: [", "just text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"must be a mapping|not valid YAML"):
        load_config(Outer, write(tmp_path, text))
