"""What docs/cluster.md says can be done: its commands are understood, its files are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from anchornet.files.config import load_config
from cluster.submit import argument_parser
from jobs.settings.label import LabelConfig

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
FENCED = [line for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
SUBMITTED = [line for line in FENCED if line.startswith("python -m cluster.submit ")]


def test_jobs_are_sent_as_the_page_says() -> None:
    [line] = SUBMITTED
    arguments = argument_parser().parse_args(shlex.split(line)[3:])
    config = load_config(LabelConfig, str(ROOT / arguments.config), arguments.set)
    assert config.run.folder.startswith("s3://") and config.cluster.max_gpus == 8
    files = (ROOT / "cluster" / "aws" / "cluster.yaml").read_text()
    assert f"cluster.max_cpus={config.cluster.max_cpus:g}" in files


@pytest.mark.parametrize(
    "command", ["follow ID", "stop ID", "label --no-wait", "label --stop-on-interrupt", "label --dry-run"]
)
def test_what_the_page_says_of_a_job_that_runs_is_understood(command: str) -> None:
    assert command.split()[-1] in PAGE
    argument_parser().parse_args(command.split())


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"(?:cluster|tests|jobs|benchmarks)/[\w/.-]+\.\w+|cluster/Dockerfile", PAGE))
    assert len(named) > 8
    assert sorted(each for each in named if not (ROOT / each).exists()) == []


def test_commands_of_the_fences_name_files_that_are_there() -> None:
    given = {word for line in FENCED for word in line.split() if word.startswith(("cluster/", "jobs/"))}
    assert given and all((ROOT / word).is_file() for word in given)
