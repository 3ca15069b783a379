"""The commands of the README, run as they stand there, on a handful of images."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from anchornet.images import synthetic
from tests.tiny_bundle import ARCHITECTURE

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]

SMALL = ["recipe.training.epochs=1", "recipe.training.batch_size=8"]
"""What a test changes so that it ends in seconds; everything else is the README's own."""


def commands() -> list[list[str]]:
    """The ``python -m jobs...`` lines of the section on one's own images."""
    section = (ROOT / "README.md").read_text().split("## On your own images")[1].split("\n## ")[0]
    return [shlex.split(line)[2:] for line in re.findall(r"^python -m jobs\..*$", section, re.MULTILINE)]


def tools_read_the_labels(run: Path, num_images: int) -> None:
    """The README's one-liners, each on the labels of this run."""
    section = (ROOT / "README.md").read_text().split("## What a label job writes")[1].split("\n## ")[0]
    [block] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    counted = []
    for line in block.splitlines():
        tool = importlib.import_module(line.partition(".")[0])
        found = eval(line.replace("RUN", str(run)), {tool.__name__: tool})  # the line as a reader would type it
        counted.append(sum(row[1] for row in found.fetchall()) if tool.__name__ == "duckdb" else len(found))
    assert counted == [num_images] * 3


def test_the_whole_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, count in (("train", 24), ("validation", 16), ("test", 12)):
        synthetic.write_dataset(tmp_path / "data" / split, count, seed=count)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging_face"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = []
    for module, *arguments in commands():
        if module == "jobs.train":
            own = [] if "anchornet.yaml" in " ".join(arguments) else [f"recipe.architecture={ARCHITECTURE}"]
            arguments += [part for override in [*SMALL, *own] for part in ("--set", override)]
        replaced = [
            part.replace("DATA", str(tmp_path / "data"))
            .replace("s3://BUCKET/PREFIX", str(tmp_path / "data" / "test"))
            .replace("jobs/configs", str(ROOT / "jobs" / "configs"))
            for part in arguments
        ]
        assert importlib.import_module(module).main(replaced) == 0, " ".join([module, *replaced])
        seen.append(module)
    assert seen == [
        "jobs.train",
        "jobs.train",
        "jobs.train",
        "jobs.calibrate",
        "jobs.label",
        "jobs.label",
        "jobs.evaluate",
    ]
    assert (tmp_path / "runs" / "label" / "report.json").exists()
    tools_read_the_labels(tmp_path / "runs" / "label", 12)
    assert (tmp_path / "runs" / "evaluate" / "report.md").exists()
