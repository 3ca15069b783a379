"""The lowest versions that pyproject.toml allows, as pins for pip: ``python tests/oldest.py pyproject.toml > oldest.txt``.

Tools that only look at the source (ruff, mypy and their like) are left out: the tests do not use them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

TESTED_WITH = ("timm", "pytest", "hypothesis", "moto")
"""Of the extra ``dev``, what the tests import."""
_BOUND = re.compile(r"(?P<name>[A-Za-z0-9-]+)(?P<extras>\[[^]]*\])?>=(?P<version>[0-9.]+)")


def oldest(requirement: str) -> str:
    """``name[extras]==version`` of a requirement ``name[extras]>=version``; to pip 2.0 and 2.0.0 are the same.

    Raises ValueError for a requirement of another form.
    """
    found = _BOUND.fullmatch(requirement)
    if not found:
        raise ValueError(f"requirement {requirement!r} must have the form name>=version, so that its lowest is known")
    return f"{found['name']}{found['extras'] or ''}=={found['version']}"


def pins(project: dict[str, object]) -> list[str]:
    """A pin for every dependency, and for those of ``dev`` that tests import; of table ``project`` of a pyproject.toml."""
    dependencies, extras = project["dependencies"], project["optional-dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(extras, dict)
    tools = [line for line in extras["dev"] if line.startswith(TESTED_WITH)]
    return [oldest(line) for line in [*dependencies, *tools]]


if __name__ == "__main__":
    sys.stdout.write("\n".join(pins(tomllib.loads(Path(sys.argv[1]).read_text())["project"])) + "\n")
