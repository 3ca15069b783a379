"""The manifests of cluster/kuberay as tests want them: placeholders filled, and what a job is made of."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.settings.label import LabelConfig
from jobs.settings.train import TrainConfig

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "cluster" / "kuberay"
CONFIGS: dict[str, tuple[type, tuple[str, ...]]] = {
    "label": (LabelConfig, ("dry_run", "retry_failed")),
    "train": (TrainConfig, ()),
}
"""Of each job: its configuration and the flags of its command line."""
NAMESPACE = "anchornet"
Document = dict[str, Any]

each_job = pytest.mark.parametrize("name", sorted(CONFIGS))


def places() -> dict[str, str]:
    """What the command on top of kustomization.yaml fills in, by placeholder."""
    return dict(re.findall(r"-e 's\|(<[a-z-]+>)\|([^|]+)\|g'", (FOLDER / "kustomization.yaml").read_text()))


def filled(text: str) -> str:
    """``text`` as that command makes it."""
    for placeholder, value in places().items():
        text = text.replace(placeholder, value)
    return text


@functools.cache
def _parsed(name: str) -> list[Document]:
    return list(yaml.safe_load_all(filled((FOLDER / f"{name}.yaml").read_text())))


def documents_of(name: str) -> list[Document]:
    """What a file holds; nobody else has this copy of it. What an anchor names is one object in several places."""
    return copy.deepcopy(_parsed(name))


def job_of(name: str) -> Document:
    (job,) = documents_of(name)
    return job


def cluster_of(job: Document) -> Document:
    return job["spec"]["rayClusterSpec"]


def groups_of(job: Document) -> dict[str, Document]:
    return {group["groupName"]: group for group in cluster_of(job)["workerGroupSpecs"]}


def pods_of(job: Document) -> dict[str, Document]:
    """Templates of all pods of a job: head, worker groups, submitter."""
    groups = {name: group["template"] for name, group in groups_of(job).items()}
    head = cluster_of(job)["headGroupSpec"]["template"]
    return {"head": head, **groups, "submitter": job["spec"]["submitterPodTemplate"]}


def containers_of(job: Document) -> Iterator[Document]:
    for pod in pods_of(job).values():
        yield from pod["spec"]["containers"]
