"""The rooms of the project: which may import which, and that none is too large to be found one's way in."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ANCHORNET_ROOMS = [
    "units",
    "files",
    "images",
    "models",
    "budget",
    "ledger",
    "cascade",
    "data",
    "systems",
    "report",
    "bundle",
    "calibration",
]
JOBS_ROOMS = ["settings", "resources", "shell", "data", "labelling", "training", "scoring"]
"""From top to bottom of README's list: a room imports from itself and from those before it. Verbs come last."""
LARGEST_ROOM = 9


def _modules_imported(path: Path) -> set[str]:
    """Full names of what a file imports from anchornet and jobs, names of modules and names in modules alike."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith(("anchornet.", "jobs."))}


@pytest.mark.parametrize(("package", "rooms"), [("anchornet", ANCHORNET_ROOMS), ("jobs", JOBS_ROOMS)])
def test_imports_point_one_way(package: str, rooms: list[str]) -> None:
    wrong = []
    for path in (ROOT / package).rglob("*.py"):
        place = path.relative_to(ROOT / package).with_suffix("").parts[0]
        allowed = rooms[: rooms.index(place) + 1] if place in rooms else [*rooms, place]
        for name in _modules_imported(path):
            top, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if top == package and room in rooms and room not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_verb_calls_the_insides_of_another() -> None:
    """Only the demo calls other jobs, by their command line's ``main``."""
    verbs = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__", "demo", "demo_network", "demo_report"}
    for path in (ROOT / "jobs").rglob("*.py"):
        if path.stem not in {"demo", "demo_report"}:
            assert not {f"jobs.{verb}" for verb in verbs} & _modules_imported(path), path


def test_no_import_goes_in_a_circle() -> None:
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for package in ("anchornet", "jobs")
        for path in (ROOT / package).rglob("*.py")
        if path.stem != "__init__"
    }
    arrows = {name: _modules_imported(path) & set(paths) - {name} for name, path in paths.items()}
    while ends := [name for name, targets in arrows.items() if not targets]:  # take away what imports nothing more
        arrows = {name: targets - set(ends) for name, targets in arrows.items() if name not in ends}
    assert not arrows


def test_a_stranger_finds_the_room() -> None:
    for package in ("anchornet", "jobs"):
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
            assert len(modules) <= LARGEST_ROOM, folder
