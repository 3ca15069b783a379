"""What lies beside every output: the resolved configuration, from which the run can be started again, and what made it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anchornet.data.listing import DatasetSettings
from anchornet.files.config import load_config
from jobs.settings.common import PoolSettings, RunSettings
from jobs.settings.scoring import EvaluateConfig
from jobs.shell import provenance


def test_the_configuration_that_was_used_starts_the_same_run_again(tmp_path: Path) -> None:
    config = EvaluateConfig(
        run=RunSettings(folder=str(tmp_path / "run"), seed=3),
        bundle="runs/bundle",
        data=DatasetSettings(path="s3://bucket/Bilder ü", limit=5),
        gflops_per_image=(0.1, 0.25),
        pool=PoolSettings(cpus=0.25),
    )
    provenance.save_provenance(config)
    path = tmp_path / "run" / "config.yaml"
    assert load_config(EvaluateConfig, str(path)) == config
    assert path.read_text().startswith("run:\n  folder: ")  # in the order of the settings, as people read them


def test_versions_and_hardware_are_named(tmp_path: Path) -> None:
    made = provenance.provenance()
    assert made["versions"]["numpy"] == np.__version__
    assert {"ray", "torch", "anchornet"} <= set(made["versions"])
    assert made["machine"]["cores"] >= 1
    assert json.loads(json.dumps(made)) == made


def answering(monkeypatch: pytest.MonkeyPatch, answer: str | Exception) -> None:
    def run(command: list[str], **options: Any) -> SimpleNamespace:
        assert command[:3] == ["git", "-C", str(provenance.ROOT)]
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer + "\n")

    monkeypatch.setattr(subprocess, "run", run)


def test_the_commit_says_when_the_tree_differs_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "0123abcd+changes")
    assert provenance.provenance()["commit"] == "0123abcd+changes"


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")], ids=type)
def test_outside_a_checkout_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    answering(monkeypatch, error)
    assert provenance.provenance()["commit"] is None


def test_in_a_checkout_it_is_the_whole_hash() -> None:
    if not (provenance.ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", str(provenance.provenance()["commit"]))
