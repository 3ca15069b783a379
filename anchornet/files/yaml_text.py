"""YAML as people write it: parsed strictly, with the variables of the environment put in.

YAML itself takes the last of two equal keys without a word; here that is an error with both lines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})")


class TwiceError(ValueError):
    """A key that stands twice in one section; the text names it and the lines."""


def parse(text: str | bytes) -> Any:
    """What ``text`` says, as plain dicts, lists and scalars. Raises yaml.YAMLError, and TwiceError for a doubled key."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is not None:
        _refuse_doubled(node, set())
    return yaml.safe_load(text)


def _refuse_doubled(node: yaml.Node, seen: set[int]) -> None:
    if id(node) in seen:  # an alias, maybe of something that it is part of
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubled(item, seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in lines:
                    first = lines[key.tag, key.value]
                    raise TwiceError(
                        f"key {key.value!r} stands twice in one section, in lines {first} and {line}; keep one"
                    )
                lines[key.tag, key.value] = line
            _refuse_doubled(value, seen)


def with_variables(text: str, where: Callable[[str], str]) -> str:
    """``text`` with ``$NAME`` and ``${NAME}`` replaced by the environment's value, and ``$$`` by a dollar sign.

    where: the message for a variable that is not set, from its name. Raises ValueError with that.
    """

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name = match[2] or match[3]
        if name not in os.environ:
            raise ValueError(where(name))
        return os.environ[name]

    return _VARIABLE.sub(value, text)
