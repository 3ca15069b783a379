"""What a result was made with: the resolved configuration, the commit, versions and hardware, beside every output."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import yaml

from anchornet.files import config as configuration
from anchornet.files import storage
from anchornet.files.documents import write_json
from jobs.shell.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
COMMIT_VARIABLE = "ANCHORNET_COMMIT"
"""Says the commit where there is no git checkout: on a cluster, in an image."""
_VERSIONED = ("anchornet", "ray", "torch", "torchvision", "pyarrow", "numpy", "pillow")


def save_provenance(config: Any) -> None:
    """Write ``config.yaml`` and ``provenance.json`` (commit, versions, hardware) into the run folder."""
    folder = RunFolder(config.run.folder)
    text = yaml.safe_dump(configuration.to_dict(config), sort_keys=False)
    storage.write_bytes(folder.config, text.replace("$", "$$").encode())  # it is read as a configuration again
    write_json(folder.provenance, provenance())


def provenance() -> dict[str, Any]:
    """Commit, package versions and hardware, as they go beside every output."""
    versions = {}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "commit": commit(),
        "versions": versions,
        "python": platform.python_version(),
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
    }


def commit() -> str | None:
    """The checkout's commit, with ``+changes`` when the tree differs from it; outside a git checkout what ``ANCHORNET_COMMIT``
    says, else None."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT_VARIABLE) or None
