"""The image of every node, without Docker: its arguments, what goes into it and what does not.

Not shown: that it builds, and that the base images exist.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
import ray
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from jobs.shell.provenance import COMMIT_VARIABLE
from jobs.shell.ray_session import NOT_SHIPPED
from tests.unit.cluster.cluster_files import AWS, DOCKERFILE, GCP, ROOT, docker_arguments

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def instructions() -> list[tuple[str, str]]:
    """What the Dockerfile says, continued lines joined: the word in capitals and the rest."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines())]


def all_of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def test_the_ray_of_the_image_is_admitted_and_no_older_than_the_one_tested_with() -> None:
    image = Version(docker_arguments()["RAY"])
    (asked,) = [requirement for each in PROJECT["dependencies"] if (requirement := Requirement(each)).name == "ray"]
    assert image in asked.specifier
    assert image >= Version(ray.__version__)


def test_the_python_of_the_image_is_admitted() -> None:
    major, minor = re.fullmatch(r"py(\d)(\d+)", docker_arguments()["PY"]).groups()  # type: ignore[union-attr]
    assert Version(f"{major}.{minor}") in SpecifierSet(PROJECT["requires-python"])


def test_the_base_is_rays_own_image_of_that_version() -> None:
    assert all_of("FROM") == ["rayproject/ray:${RAY}-${PY}-${PLATFORM}"]
    assert docker_arguments()["PLATFORM"] == "gpu"


@pytest.mark.parametrize("path", [DOCKERFILE, AWS, GCP], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_image_is_called_latest(path: object) -> None:
    assert ":latest" not in str(path.read_text())  # type: ignore[attr-defined]


def test_an_argument_that_is_used_after_the_base_is_named_after_it() -> None:
    # Docker forgets them at FROM, and an unknown one is an empty text.
    text = DOCKERFILE.read_text()
    after = text[text.index("\nFROM ") :].partition("\n")[2].partition("\n")[2]
    named = set(re.findall(r"^ARG (\w+)", after, re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)\}", after)) == named


def test_everything_that_is_copied_exists_and_belongs_to_ray() -> None:
    copied = [shlex.split(rest) for rest in all_of("COPY")]
    assert copied
    for words in copied:
        assert words[0] == "--chown=ray:users"
        assert all((ROOT / source).exists() for source in words[1:-1])


def test_dependencies_come_before_the_checkout_and_the_commit_last() -> None:
    order = [(word, rest.split()[-2] if word == "COPY" else "") for word, rest in instructions()]
    steps = [("COPY", "pyproject.toml"), ("RUN", ""), ("COPY", "."), ("ENV", "")]
    assert [step for step in order if step in steps] == steps
    assert all_of("ENV") == [f"{COMMIT_VARIABLE}=${{COMMIT}}"]


def test_what_is_installed_is_what_the_project_depends_on() -> None:
    (run,) = all_of("RUN")
    words = shlex.split(run)
    assert words[:2] == ["python", "-c"]
    printed = subprocess.run([sys.executable, *words[1:3]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == PROJECT["dependencies"]
    (asked,) = [each for each in PROJECT["dependencies"] if Requirement(each).name == "ray"]
    assert f"ray[{','.join(sorted(Requirement(asked).extras))}]==${{RAY}}" in words


def test_nothing_runs_as_root() -> None:
    # Kubernetes refuses to start an image that names its user by a name where root is forbidden.
    assert all_of("USER") == ["1000"]


def left_out(path: str) -> bool:
    """Whether docker build does not see this path of the checkout: a line of .dockerignore means it, or a folder above it."""
    parts = path.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return any(_meaning(pattern).fullmatch(each) for pattern in IGNORED for each in above)


def _meaning(pattern: str) -> re.Pattern[str]:
    """Docker's patterns: ``*`` stays within a name, ``**/`` is any number of folders, and a line begins at the checkout."""
    parts = re.split(r"(\*\*/|\*)", pattern)
    return re.compile("".join({"**/": "(?:.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts))


def test_nothing_goes_into_the_image_that_git_or_ray_leaves_out() -> None:
    git = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line and not line.startswith("#")]
    examples = []
    for pattern in (*git, *NOT_SHIPPED):
        name = pattern.strip("/").replace("*", "some")
        examples += [name] if pattern.startswith("/") else [name, f"jobs/{name}"]
    assert [path for path in examples if not left_out(path)] == []


def test_no_source_is_left_out() -> None:
    sources = [
        path.relative_to(ROOT) for name in ("anchornet", "jobs", "cluster") for path in (ROOT / name).rglob("*.py")
    ]
    sources += [path.relative_to(ROOT) for path in (ROOT / "jobs" / "configs").rglob("*.yaml")]
    assert sources
    assert [str(path) for path in sources if left_out(path.as_posix())] == []


@pytest.mark.parametrize("path", [".env", "jobs/.env", "key.pem", "a/b/id.key", ".ray/auth_token", ".aws/credentials"])
def test_secrets_stay_outside(path: str) -> None:
    assert left_out(path)


def test_hadolint_has_nothing_to_say() -> None:
    found = shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([found, "--no-color", str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
