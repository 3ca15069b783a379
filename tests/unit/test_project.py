"""Rules that hold for the project as a whole: directions, versions, what lies where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import anchornet
from tests import oldest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted((ROOT / "anchornet").rglob("*.py"))


def _imported(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_science_imports_neither_ray_nor_jobs(path: Path) -> None:
    assert not _imported(path) & {"ray", "jobs", "cluster"}


def test_importing_every_module_of_the_science_loads_no_ray() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES if path.stem != "__main__"]
    _assert_not_loaded("ray", modules)


@pytest.mark.parametrize(
    "module",
    [
        "anchornet.data.reading",
        "anchornet.data.sources",
        "jobs.data.dataset",
        "jobs.training.shards",
        "jobs.settings.train",
    ],
)
def test_processes_that_only_read_images_do_not_load_torch(module: str) -> None:
    # Torch is 0.8 GB of memory and four seconds of a core, in every process that decodes.
    _assert_not_loaded("torch", [module])


@pytest.mark.parametrize("package", ["matplotlib", "torchvision", "scipy"])
def test_a_job_loads_no_library_before_it_needs_it(package: str) -> None:
    # Torchvision takes longer than torch; each process of a job would pay for it.
    _assert_not_loaded(
        package, [f"jobs.{path.stem}" for path in (ROOT / "jobs").glob("*.py") if "demo" not in path.stem]
    )


def _assert_not_loaded(package: str, modules: list[str]) -> None:
    program = (
        f"import importlib, sys; [importlib.import_module(m) for m in {modules!r}]; print({package!r} in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.stdout == "False\n", finished.stderr


def test_the_jobs_do_not_import_the_cluster() -> None:
    assert not [path for path in (ROOT / "jobs").rglob("*.py") if "cluster" in _imported(path)]


def test_version_package_and_changelog_agree() -> None:
    head = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert head is not None
    assert PROJECT["project"]["version"] == anchornet.__version__ == head[1]


def test_torch_is_never_pinned_or_capped() -> None:
    (torch,) = [line for line in PROJECT["project"]["dependencies"] if re.match(r"torch\b", line)]
    assert re.fullmatch(r"torch>=\d+\.\d+", torch)


def test_the_lowest_versions_are_pins_of_every_dependency() -> None:
    project = PROJECT["project"]
    lines = oldest.pins(project)
    assert len(lines) == len(project["dependencies"]) + len(oldest.TESTED_WITH)
    assert all(re.fullmatch(r"[A-Za-z0-9-]+(\[[a-z,]+\])?==[0-9.]+", line) for line in lines)
    assert {line.partition("==")[0] for line in lines} >= {"torch", "ray[data,default,train]", "moto[server]"}
    assert oldest.oldest("a-b[c]>=1.2") == "a-b[c]==1.2"
    for line in ("torch", "torch>2", "torch>=2,<3", "torch==2.6"):
        with pytest.raises(ValueError, match="must have the form name>=version"):
            oldest.oldest(line)


def test_every_test_file_lies_in_a_tier() -> None:
    tiers = [ROOT / tier for tier in PROJECT["tool"]["pytest"]["ini_options"]["testpaths"]]
    stray = [path for path in (ROOT / "tests").rglob("test_*.py") if not any(tier in path.parents for tier in tiers)]
    assert not stray


def test_pre_commit_and_ci_run_the_same_lint() -> None:
    assert "entry: make lint\n" in (ROOT / ".pre-commit-config.yaml").read_text()
    assert "\nmake lint\n" in (ROOT / ".ci" / "run").read_text()


def test_tests_never_sleep() -> None:
    calls = (
        (path, node)
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    )
    assert not [path for path, node in calls if ast.unparse(node.func) in ("time.sleep", "sleep", "asyncio.sleep")]


def test_no_module_is_called_utils() -> None:
    folders = [ROOT / name for name in ("anchornet", "jobs", "cluster", "benchmarks", "tests")]
    assert not [path for folder in folders for path in folder.rglob("utils.py")]
