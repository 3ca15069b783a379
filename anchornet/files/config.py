"""Typed configuration: frozen dataclasses, with YAML as their text form.

One loader for every job. A key that no dataclass knows is refused with the nearest valid one, a value of the wrong type
with the type it should have; numbers must be finite and whole ones below 2^53; ranges are checked by each class in
``__post_init__``. Defaults live in the classes only. Texts of a file or of the command line may name variables of the
environment (``$SCRATCH/run``), which are put in.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml

from anchornet.files import storage
from anchornet.files.yaml_text import TwiceError, parse, with_variables

_LARGEST = 2**53
"""Whole numbers beyond it are slips of the finger, and not every library keeps them exactly."""

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the source, the key, the rule and the next step."""


def load_config(cls: type[T], path: str | None = None, overrides: Sequence[str] = ()) -> T:
    """An instance of the dataclass ``cls`` from a YAML file (None: defaults) and ``section.key=value`` overrides.

    Raises ConfigError for a missing file, a doubled or unknown key, a wrong type, a missing required key, a variable of the
    environment that is not set, or a value that the class itself refuses.
    """
    tree = _read_yaml(path) if path else {}
    source = path or "defaults"
    for override in overrides:
        _apply_override(tree, override)
    tree = _with_variables(tree, source, "")
    return typing.cast(T, _build(cls, tree, source, section=""))


def read_value(hint: Any, value: Any, source: str, name: str) -> Any:
    """``value`` as the annotated type ``hint``, such as a union of sections; ``name`` is its key, for errors."""
    return _convert(value, hint, source, name)


def to_dict(config: Any) -> dict[str, Any]:
    """``config`` as plain dicts, lists and scalars, ready for YAML or JSON."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def from_dict(cls: type[T], tree: Mapping[str, Any], source: str) -> T:
    """An instance of ``cls`` from nested mappings, with the same checks as ``load_config``; ``source`` is for errors."""
    return typing.cast(T, _build(cls, tree, source, section=""))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        tree = parse(storage.read_bytes(path))
    except FileNotFoundError as error:
        raise ConfigError(f"configuration {path} does not exist; see jobs/configs/ for examples") from error
    except TwiceError as error:
        raise ConfigError(f"configuration {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"configuration {path} is not valid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"configuration {path} must be a mapping of sections, got {type(tree).__name__}")
    return tree


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one ``section.key=value`` in place, as an _Override: its type is known only when the dataclass is built."""
    dotted, separator, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"override {override!r} must look like section.key=value")
    try:
        value = parse(text)
    except TwiceError as error:
        raise ConfigError(f"override {override!r}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML; put it in quotes") from error
    here: Any = tree
    for key, following in itertools.pairwise(keys):
        here = _child(here, key, following.isdigit(), override)
    _place(here, keys[-1], _Override(text, value), override)


def _with_variables(value: Any, source: str, dotted: str) -> Any:
    """``value`` whose texts have the environment's variables put in; keys stay as they are."""
    if isinstance(value, dict):
        return {key: _with_variables(each, source, f"{dotted}.{key}".lstrip(".")) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_variables(each, source, f"{dotted}[{position}]") for position, each in enumerate(value)]
    if isinstance(value, _Override):
        return _Override(_with_variables(value.text, source, dotted), _with_variables(value.value, source, dotted))
    if not isinstance(value, str):
        return value

    def unset(name: str) -> str:
        hint = "export it, write the value itself, or write $$ for a dollar sign"
        return f"{source}: {dotted} names the variable ${name}, which is not set in the environment; {hint}"

    try:
        return with_variables(value, unset)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _child(here: Any, key: str, is_list: bool, override: str) -> Any:
    """The section or list at ``key``, made when it is not there; raises ConfigError when a value stands in its place."""
    known = (
        here.get(key) if isinstance(here, dict) else here[int(key)] if _index(here, key, override) < len(here) else None
    )
    if isinstance(known, _Override):
        known = known.value
    child = ([] if is_list else {}) if known is None else known
    if not isinstance(child, list if is_list else dict):
        raise ConfigError(f"override {override!r}: {key} is {'not a list' if is_list else 'a value, not a section'}")
    _place(here, key, child, override)
    return child


def _place(here: Any, key: str, value: Any, override: str) -> None:
    """Set ``value`` at ``key`` of a section, or at that position of a list, which may grow by one."""
    if isinstance(here, dict):
        here[key] = value
    elif _index(here, key, override) < len(here):
        here[int(key)] = value
    else:
        here.append(value)


def _index(here: list[Any], key: str, override: str) -> int:
    """The position that ``key`` names in a list; at most one past its end."""
    if not key.isdigit() or int(key) > len(here):
        raise ConfigError(
            f"override {override!r}: {key} must be a position in a list of {len(here)}, at most one past it"
        )
    return int(key)


@dataclasses.dataclass(frozen=True)
class _Override:
    """A value from the command line: its text, and what YAML makes of it (numbers and lists come out typed)."""

    text: str
    value: Any

    def as_type(self, hint: Any) -> Any:
        """The text itself for a string, so that ``2026_11`` and ``my photos #1`` stay what they are, else the value."""
        plain_text = hint is str and not self.text.lstrip().startswith(("'", '"'))
        return self.text if plain_text else self.value


def _build(cls: Any, tree: Mapping[str, Any], source: str, section: str) -> Any:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in tree:
        if key not in fields:
            raise ConfigError(_unknown_key(str(key), list(fields), source, section))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        dotted = f"{section}.{name}" if section else name
        if tree.get(name) is None and name in tree and _is_section(hints[name]) and _has_default(field):
            continue  # a section without anything in it
        if name in tree:
            values[name] = _convert(_with_default_kind(tree[name], field), hints[name], source, dotted)
        elif dataclasses.is_dataclass(hints[name]):
            values[name] = _build(hints[name], {}, source, dotted)
        elif not _has_default(field):
            raise ConfigError(f"{source}: {dotted} is required; set it in the file or with --set {dotted}=...")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        known = not section or f"{section}." in str(error)  # many messages name their section
        raise ConfigError(f"{source}: {error}" if known else f"{source}: {section}: {error}") from error


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _is_section(hint: Any) -> bool:
    """True for what is written as a section or a list and cannot be null."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(dataclasses.is_dataclass(option) for option in options)
    return dataclasses.is_dataclass(hint) or typing.get_origin(hint) in (tuple, dict, Mapping)


def _with_default_kind(value: Any, field: dataclasses.Field[Any]) -> Any:
    """``value``, a section, with the ``kind`` of the field's default when it names none."""
    if field.default_factory is dataclasses.MISSING or not isinstance(value, Mapping) or "kind" in value:
        return value
    kind = getattr(field.default_factory(), "kind", None)
    return value if kind is None else {"kind": kind, **value}


def _unknown_key(key: str, valid: list[str], source: str, section: str) -> str:
    place = f"section {section!r}" if section else "top level"
    nearest = difflib.get_close_matches(key, valid, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{source}: unknown key {key!r} at {place}{hint} (valid: {', '.join(valid)})"


def _convert(value: Any, hint: Any, source: str, dotted: str) -> Any:
    """``value`` as the annotated type ``hint``; ints are taken for floats, lists for tuples, nothing else is guessed."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = _kinds(arguments)
        return (
            _convert_kind(value, kinds, source, dotted) if kinds else _convert_union(value, arguments, source, dotted)
        )
    if isinstance(value, _Override):
        value = value.as_type(hint)
    if dataclasses.is_dataclass(hint):
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise ConfigError(f"{source}: {dotted} must be a section, got {value!r}")
        return _build(hint, value, source, dotted)
    if origin in (dict, Mapping):
        return _convert_mapping(value, arguments[1], source, dotted)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{source}: {dotted} must be a list, got {value!r}")
        return tuple(_convert(item, arguments[0], source, f"{dotted}[{i}]") for i, item in enumerate(value))
    if origin is typing.Literal:
        if value not in arguments:
            nearest = difflib.get_close_matches(str(value), [str(a) for a in arguments], n=1)
            hint_text = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(f"{source}: {dotted} must be one of {list(arguments)}, got {value!r}{hint_text}")
        return value
    return _convert_scalar(value, hint, source, dotted)


def _kinds(options: tuple[Any, ...]) -> dict[str, Any]:
    """kind -> dataclass, for a union of sections that are told apart by a field ``kind``; empty for any other union."""
    sections = [option for option in options if dataclasses.is_dataclass(option)]
    if len(sections) < len(options):
        return {}
    return {typing.get_args(typing.get_type_hints(section)["kind"])[0]: section for section in sections}


def _convert_kind(value: Any, kinds: Mapping[str, Any], source: str, dotted: str) -> Any:
    """The section whose ``kind`` is named in it."""
    if not isinstance(value, Mapping):
        given = value.value if isinstance(value, _Override) else value
        raise ConfigError(f"{source}: {dotted} must be a section with a kind ({', '.join(kinds)}), got {given!r}")
    if "kind" not in value:
        raise ConfigError(f"{source}: {dotted}.kind is required; set it to one of {', '.join(kinds)}")
    kind = value["kind"].text if isinstance(value["kind"], _Override) else value["kind"]
    if kind not in kinds:
        nearest = difflib.get_close_matches(str(kind), kinds, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ConfigError(f"{source}: {dotted}.kind must be one of {', '.join(kinds)}, got {kind!r}{hint}")
    return _build(kinds[kind], {**value, "kind": kind}, source, dotted)


def _convert_mapping(value: Any, hint: Any, source: str, dotted: str) -> dict[str, Any]:
    """A section with keys of the user's own, values of type ``hint`` (Any takes what YAML gives)."""
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        given = value.value if isinstance(value, _Override) else value
        raise ConfigError(f"{source}: {dotted} must be a section, got {given!r}")
    if hint is Any:
        return {str(key): item.value if isinstance(item, _Override) else item for key, item in value.items()}
    return {str(key): _convert(item, hint, source, f"{dotted}.{key}") for key, item in value.items()}


def _convert_union(value: Any, options: tuple[Any, ...], source: str, dotted: str) -> Any:
    given = value.value if isinstance(value, _Override) else value
    if given is None and type(None) in options:
        return None
    problems = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(value, option, source, dotted)
        except ConfigError as error:
            problems.append(error)
    raise problems[0]


def _convert_scalar(value: Any, hint: Any, source: str, dotted: str) -> Any:
    if hint is float and not isinstance(value, bool):
        number: float | None
        try:
            number = float(value)  # a text too: YAML reads 1e-4 (no dot) as one
        except (TypeError, ValueError, OverflowError):
            number = math.inf if isinstance(value, int) else None
        if number is not None:
            if not math.isfinite(number):
                raise ConfigError(f"{source}: {dotted} must be a finite number, got {value!r}")
            return number
    if hint is int and isinstance(value, int) and abs(value) >= _LARGEST:
        raise ConfigError(f"{source}: {dotted} must be a whole number below 2^53, got {value}")
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(f"{source}: {dotted} must be {hint.__name__}, got {value!r} ({type(value).__name__})")
