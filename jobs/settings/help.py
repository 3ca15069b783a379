"""The settings of a job as text for ``--help``, read from its dataclass: names, types, defaults, and the fields' docstrings.

A docstring under a field is no attribute of anything at run time; it is read from the source of the class.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

WIDTH = 110
KIND = "kind"
"""The field that says which class of a union of dataclasses a section is."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of what a job can be told."""

    path: str
    """Dotted, as ``--set`` takes it; of a list it is the first entry that is named (``pools.0.cpus``)."""
    type: str
    default: str
    """As YAML; empty where a value must be given."""
    text: str
    only_for: str = ""
    """The kind of section that has this setting, where there are several."""


def settings_text(cls: type) -> str:
    """Every setting of the dataclass ``cls``, one below the other."""
    return "settings (--set NAME=VALUE, or nested in the file):\n" + "\n".join(map(_entry, settings_of(cls)))


def settings_of(cls: type, path: str = "", only_for: str = "") -> Iterator[Setting]:
    """The settings of a dataclass and of the sections in it, in the order of the fields."""
    hints, texts = typing.get_type_hints(cls), field_texts(cls)
    for field in dataclasses.fields(cls):
        hint, dotted = hints[field.name], f"{path}{field.name}"
        sections = _sections(hint)
        if hint not in sections:  # a plain section has no line of its own, its fields have
            text = texts.get(field.name) or _first_paragraph(sections[0] if sections else None)
            yield Setting(path=dotted, type=type_text(hint), default=default_text(field), text=text, only_for=only_for)
        inner = f"{dotted}.0." if typing.get_origin(hint) is tuple else f"{dotted}."
        for section in sections:
            kind = f"{dotted}.{KIND}={_kind(section)}" if len(sections) > 1 else only_for
            yield from settings_of(section, inner, kind)


def field_texts(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, those of its bases included; fields without one are left out."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            texts |= _texts_in(ast.parse(textwrap.dedent(inspect.getsource(base))).body[0])
    return texts


def _texts_in(node: ast.stmt) -> dict[str, str]:
    assert isinstance(node, ast.ClassDef)
    texts = {}
    for field, after in itertools.pairwise(node.body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = " ".join(text.split())
    return texts


def _sections(hint: Any) -> list[type]:
    """The dataclasses that a value of this type may be, or (of a list) hold."""
    if dataclasses.is_dataclass(hint):
        return [typing.cast(type, hint)]
    return [section for argument in typing.get_args(hint) for section in _sections(argument)]


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _kind(section: type) -> str:
    """The value of the field ``kind`` that chooses this class of a union."""
    return str(typing.get_args(typing.get_type_hints(section)[KIND])[0])


def type_text(hint: Any) -> str:
    """A type as a person would say it: ``number``, ``list of text``, ``hard | fixed``, ``whole number or null``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return " or ".join(type_text(argument) for argument in arguments)
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin is tuple:
        return f"list of {type_text(arguments[0])}"
    if origin is Mapping:
        return f"section of {type_text(arguments[1])} by name"
    if dataclasses.is_dataclass(hint):
        return "section"
    names = {
        str: "text",
        float: "number",
        int: "whole number",
        bool: "true | false",
        type(None): "null",
        Any: "anything",
    }
    return names.get(hint, str(hint))


def default_text(field: dataclasses.Field[Any]) -> str:
    """A field's default as YAML; empty where it has none, or where it is a section with defaults of its own."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING or dataclasses.is_dataclass(value):
        return ""
    return json.dumps(value, default=dataclasses.asdict)


def _first_paragraph(section: type | None) -> str:
    text = inspect.getdoc(section) if section else None
    return " ".join((text or "").split("\n\n")[0].split())


def _entry(setting: Setting) -> str:
    default = f", default {setting.default}" if setting.default else ""
    only = f" (with {setting.only_for})" if setting.only_for else ""
    text = textwrap.fill(
        re.sub(r"\bNone\b", "null", setting.text), WIDTH, initial_indent="      ", subsequent_indent="      "
    )
    return f"  {setting.path}  [{setting.type}{default}]{only}\n{text}"
