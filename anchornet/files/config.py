"""Typed configuration: frozen dataclasses, with YAML as their text form.

One loader for every job. A key that no dataclass knows is refused with the nearest valid one, a value of the wrong type
with the type it should have; ranges are checked by each class in ``__post_init__``. Defaults live in the classes only.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml

from anchornet.files import storage

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the source, the key, the rule and the next step."""


def load_config(cls: type[T], path: str | None = None, overrides: Sequence[str] = ()) -> T:
    """An instance of the dataclass ``cls`` from a YAML file (None: defaults) and ``section.key=value`` overrides.

    Raises ConfigError for a missing file, an unknown key, a wrong type, a missing required key, or a value that the
    class itself refuses.
    """
    tree = _read_yaml(path) if path else {}
    source = path or "defaults"
    for override in overrides:
        _apply_override(tree, override)
    return typing.cast(T, _build(cls, tree, source, section=""))


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
        tree = yaml.safe_load(storage.read_bytes(path))
    except FileNotFoundError as error:
        raise ConfigError(f"configuration {path} does not exist; see jobs/configs/ for examples") from error
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
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML; put it in quotes") from error
    for key in keys[:-1]:
        child = tree.setdefault(key, {})
        if isinstance(child, _Override):
            child = tree[key] = child.value
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {key} is a value, not a section")
        tree = child
    tree[keys[-1]] = _Override(text, value)


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
        if name in tree:
            values[name] = _convert(tree[name], hints[name], source, dotted)
        elif dataclasses.is_dataclass(hints[name]):
            values[name] = _build(hints[name], {}, source, dotted)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{source}: {dotted} is required; set it in the file or with --set {dotted}=...")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


def _unknown_key(key: str, valid: list[str], source: str, section: str) -> str:
    place = f"section {section!r}" if section else "top level"
    nearest = difflib.get_close_matches(key, valid, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{source}: unknown key {key!r} at {place}{hint} (valid: {', '.join(valid)})"


def _convert(value: Any, hint: Any, source: str, dotted: str) -> Any:
    """``value`` as the annotated type ``hint``; ints are taken for floats, lists for tuples, nothing else is guessed."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, source, dotted)
    if isinstance(value, _Override):
        value = value.as_type(hint)
    if dataclasses.is_dataclass(hint):
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise ConfigError(f"{source}: {dotted} must be a section, got {value!r}")
        return _build(hint, value, source, dotted)
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
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-4 (no dot) as text
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(f"{source}: {dotted} must be {hint.__name__}, got {value!r} ({type(value).__name__})")
