"""The configuration loader: what it takes, and how it says no."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize(("written", "name"), [("2026", "2026"), ("1.5", "1.5"), ("'on'", "on"), ("a b", "a b")])
def test_a_number_in_a_file_is_taken_for_a_text_that_looks_like_one(tmp_path: Path, written: str, name: str) -> None:
    assert load_config(Outer, write(tmp_path, f"name: {written}\n")).name == name


@pytest.mark.parametrize("written", ["on", "[a]", "{a: 1}", "2026-11-26"])
def test_what_is_no_text_in_a_file_is_not_made_one(tmp_path: Path, written: str) -> None:
    with pytest.raises(ConfigError, match="name must be str, got"):
        load_config(Outer, write(tmp_path, f"name: {written}\n"))


@pytest.mark.parametrize("text", ["", "# nothing but a remark\n", "inner:\n"])
def test_a_file_that_says_nothing_leaves_the_defaults(tmp_path: Path, text: str) -> None:
    assert load_config(Outer, write(tmp_path, text), ["name=a"]) == Outer(name="a")


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
        (["name=a", "inner.rate=true"], "inner.rate must be float, got True"),
        (["name=a", "workers=null"], "workers must be int, got None"),
        (["name=a", "workers=many"], "workers must be int, got 'many'"),
        (["name=a", "inner.rate=-1"], "rate must be > 0, got -1"),
        (["name=a", "inner=3"], "inner must be a section, got 3"),
        (["name"], "must look like section.key=value"),
        (["name=a", "name.x=1"], "name is a value, not a section"),
        (["name=[1"], "the value is not valid YAML"),
        (
            ["name=a", "inner={rate: 1, rate: 2}"],
            "override .*: key 'rate' stands twice in one section, in lines 1 and 1",
        ),
        (["name=a", "inner.rate=nan"], "inner.rate must be a finite number, got 'nan'"),
        (["name=a", "inner.rate=.nan"], "inner.rate must be a finite number, got nan"),
        (["name=a", "inner.rate=inf"], "inner.rate must be a finite number, got 'inf'"),
        (["name=a", "inner.rate=-.inf"], "inner.rate must be a finite number, got -inf"),
        (["name=a", f"inner.rate={10**400}"], "inner.rate must be a finite number, got 1000"),
        (["name=a", f"count={2**70}"], f"count must be a whole number below 2.53, got {2**70}"),
        (["name=a", f"limit={-(2**70)}"], f"limit must be a whole number below 2.53, got -{2**70}"),
        (["name=a", f"inner.steps=[1, {2**53}]"], r"inner.steps\[1\] must be a whole number below 2.53"),
    ],
)
def test_refusals_name_the_key_and_the_rule(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, None, overrides)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; see jobs/configs/ for examples"):
        load_config(Outer, str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "must be a mapping of sections, got list"),
        ("name: [", r"configuration .*job\.yaml is not valid YAML: "),
        ("just text", "must be a mapping of sections, got str"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, write(tmp_path, text))


class TestDoubledKeys:
    """YAML would take the last one without a word."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("name: a\ncount: 1\nname: b\n", "key 'name' stands twice in one section, in lines 1 and 3; keep one"),
            ("name: a\ninner:\n  rate: 1\n  'rate': 2\n", "key 'rate' stands twice in one section, in lines 3 and 4"),
            ("name: a\ninner: {steps: [1], kind: step, kind: step}\n", "key 'kind' stands twice"),
            ("name: [{a: 1, a: 1}]\n", "key 'a' stands twice"),
        ],
    )
    def test_they_are_refused_with_their_lines(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=rf"configuration .*job\.yaml: {message}"):
            load_config(Outer, write(tmp_path, text))

    def test_the_same_key_in_two_sections_is_none(self, tmp_path: Path) -> None:
        text = "name: a\ninner: {rate: 2}\n"
        assert load_config(Outer, write(tmp_path, text)).inner.rate == 2

    def test_a_merge_is_none(self, tmp_path: Path) -> None:
        text = "shape: &a {kind: circle, radius: 2}\nother: {<<: *a, radius: 3}\npens: [*a, *a, {<<: *a, radius: 4}]\n"
        drawing = load_config(Drawing, write(tmp_path, text))
        assert drawing.other == Circle(kind="circle", radius=3.0)
        assert [pen.radius for pen in drawing.pens] == [2.0, 2.0, 4.0]


class TestEmptySections:
    """A section with nothing in it is one that the command line may fill."""

    def test_it_is_filled_from_the_command_line(self, tmp_path: Path) -> None:
        path = write(tmp_path, "name: a\ninner:\nworkers: 2\n")
        assert load_config(Outer, path, ["inner.rate=3", "inner.steps=[1]"]).inner == Inner(rate=3.0, steps=(1,))
        path = write(tmp_path, "shape:\nother:\npens:\n")
        drawing = load_config(Drawing, path, ["shape.kind=circle", "pens.0.kind=circle", "other.side=4"])
        assert (drawing.shape, len(drawing.pens)) == (Circle(kind="circle"), 1)
        assert drawing.other == Square(kind="square", side=4.0)

    def test_else_it_has_its_defaults(self, tmp_path: Path) -> None:
        drawing = load_config(Drawing, write(tmp_path, "shape: {kind: circle}\nother:\npens:\n"))
        assert (drawing.other, drawing.pens) == (Square(kind="square", side=2.0), ())

    def test_a_required_one_says_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"shape must be a section with a kind \(circle, square\), got None"):
            load_config(Drawing, write(tmp_path, "shape:\n"))


class TestVariables:
    """$NAME in a text is a variable of the environment."""

    @pytest.mark.parametrize(
        ("written", "name"),
        [
            *(("$SCRATCH/run", "/big/run"), ("${SCRATCH}run", "/bigrun"), ("a$$b", "a$b"), ("$$SCRATCH", "$SCRATCH")),
            *(("cost in $", "cost in $"), ("$-x", "$-x"), ("$EMPTY/x", "/x")),
        ],
    )
    def test_they_are_put_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, name: str) -> None:
        monkeypatch.setenv("SCRATCH", "/big")
        monkeypatch.setenv("EMPTY", "")
        assert load_config(Outer, write(tmp_path, f"name: {written}\n")).name == name
        assert load_config(Outer, None, [f"name={written}"]).name == name
        assert load_config(Outer, None, [f"name='{written}'"]).name == name

    @pytest.mark.parametrize("written", ["$NOT_SET/run", "x/${NOT_SET}", "s3://b/_$NOT_SET$"])
    def test_one_that_is_not_set_is_refused(self, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
        monkeypatch.delenv("NOT_SET", raising=False)
        message = (
            r"defaults: name names the variable \$NOT_SET, which is not set in the environment; export it, write the"
        )
        with pytest.raises(ConfigError, match=message):
            load_config(Outer, None, [f"name={written}"])

    def test_the_key_is_named_wherever_it_lies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NOT_SET", raising=False)
        path = write(tmp_path, "shape: {kind: square, side: 1, notes: {files: [a, $NOT_SET]}}\n")
        with pytest.raises(ConfigError, match=r"job\.yaml: shape\.notes\.files\[1\] names the variable \$NOT_SET"):
            load_config(Drawing, path)

    def test_what_a_bundle_holds_is_taken_as_it_is(self) -> None:
        assert from_dict(Outer, {"name": "$NOT_SET"}, "bundle").name == "$NOT_SET"


def test_a_refusal_of_a_section_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^defaults: inner: rate must be > 0, got -1"):
        load_config(Outer, None, ["name=a", "inner.rate=-1"])
    with pytest.raises(ConfigError, match=r"^defaults: pens\[0\]: radius must be > 0, got 0"):
        load_config(Pens, None, ["pens.0.radius=0"])


WHOLE = st.integers(-(2**53) + 1, 2**53 - 1)
CONFIGURATIONS = st.builds(
    Outer,
    name=st.text("aé1 #:'\"[]{}.,-=\\", max_size=8),
    count=WHOLE,
    limit=st.one_of(st.none(), WHOLE),
    workers=st.one_of(WHOLE, st.lists(WHOLE, max_size=3).map(tuple)),
    on=st.booleans(),
    inner=st.builds(
        Inner,
        rate=st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False),
        steps=st.lists(WHOLE, max_size=3).map(tuple),
        kind=st.sampled_from(["step", "cosine"]),
    ),
)


@settings(max_examples=40)
@given(CONFIGURATIONS)
def test_any_configuration_comes_back_from_its_yaml(tmp_path_factory: pytest.TempPathFactory, config: Outer) -> None:
    path = tmp_path_factory.mktemp("config") / "job.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert load_config(Outer, str(path)) == config


@settings(max_examples=40)
@given(CONFIGURATIONS)
def test_the_command_line_can_say_whatever_a_file_can(config: Outer) -> None:
    said = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in to_dict(config).items()]
    assert load_config(Outer, None, said) == config


@given(
    st.sampled_from(["name", "count", "limit", "workers", "inner"]), st.integers(0, 5), st.sampled_from("abcdefghijkl")
)
def test_a_slip_of_the_finger_is_refused_with_the_key_that_was_meant(key: str, place: int, letter: str) -> None:
    slip = key[: place % len(key)] + letter + key[place % len(key) :]
    with pytest.raises(
        ConfigError, match=rf"unknown key '{slip}' at top level; did you mean '{key}'\? \(valid: name, "
    ):
        load_config(Outer, None, ["name=a", f"{slip}=1"])


@dataclass(frozen=True, kw_only=True)
class Circle:
    kind: Literal["circle"]
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Pen:
    radius: float

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"radius must be > 0, got {self.radius}")


@dataclass(frozen=True, kw_only=True)
class Pens:
    pens: tuple[Pen, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Square:
    kind: Literal["square"]
    side: float
    names: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    shape: Circle | Square
    other: Circle | Square = field(default_factory=lambda: Square(kind="square", side=2.0))
    pens: tuple[Circle, ...] = ()


class TestKinds:
    """Unions of sections that are told apart by ``kind``."""

    def test_the_kind_chooses_the_class(self) -> None:
        drawing = load_config(Drawing, overrides=["shape.kind=square", "shape.side=3"])
        assert drawing.shape == Square(kind="square", side=3.0)

    def test_a_default_gives_the_kind_where_none_is_named(self) -> None:
        drawing = load_config(Drawing, overrides=["shape.kind=circle", "other.side=5"])
        assert drawing.other == Square(kind="square", side=5.0)

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["shape.radius=2"], r"shape\.kind is required; set it to one of circle, square"),
            (["shape.kind=sqare"], r"shape\.kind must be one of circle, square, got 'sqare'; did you mean 'square'"),
            (["shape.kind=square"], r"shape\.side is required"),
            (["shape.kind=circle", "shape.side=2"], r"unknown key 'side' at section 'shape'"),
            (["shape=3"], r"shape must be a section with a kind \(circle, square\), got 3"),
            (["shape.kind=square", "shape.side=1", "shape.names.a=x"], r"shape\.names\.a must be int, got 'x'"),
            (["shape.kind=square", "shape.side=1", "shape.names=4"], r"shape\.names must be a section, got 4"),
        ],
    )
    def test_what_does_not_fit_is_named(self, overrides: list[str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_config(Drawing, overrides=overrides)

    def test_keys_of_ones_own(self) -> None:
        values = ["shape.kind=square", "shape.side=1", "shape.names.a=1", "shape.names.b=2", "shape.notes.x=[1, two]"]
        shape = load_config(Drawing, overrides=values).shape
        assert isinstance(shape, Square)
        assert (shape.names, shape.notes) == ({"a": 1, "b": 2}, {"x": [1, "two"]})

    def test_plain_values_come_back(self) -> None:
        drawing = load_config(Drawing, overrides=["shape.kind=circle", "pens.0.kind=circle"])
        assert from_dict(Drawing, to_dict(drawing), "here") == drawing


class TestLists:
    """Sections in a list, by position."""

    def test_positions_name_entries(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text("shape: {kind: circle}\npens:\n  - {kind: circle}\n  - {kind: circle}\n")
        drawing = load_config(Drawing, str(tmp_path / "c.yaml"), ["pens.1.radius=7", "pens.2.kind=circle"])
        assert [pen.radius for pen in drawing.pens] == [1.0, 7.0, 1.0]

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["pens.1.kind=circle"], "1 must be a position in a list of 0, at most one past it"),
            (["pens.0.kind=circle", "pens.first.radius=1"], "pens is a value, not a section"),
            (["shape.kind=circle", "shape.0.x=1"], "shape is not a list"),
        ],
    )
    def test_positions_that_are_not_there(self, overrides: list[str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_config(Drawing, overrides=overrides)
