"""Actors that die: while they load their networks, always or twice, and one that the machine ends for its memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from tests.faulty_networks import FAULTY_ARCHITECTURE
from tests.heads import ROOT
from tests.label_job import LabelJob
from tests.workshop import NUM_BAD, Workshop, build_logging_shop

pytestmark = pytest.mark.ray
NUM_IMAGES = 64
GB = 1 << 30
ROOM_GB, HELD_GB = 5, 8
"""What Ray lets all processes take together beyond what is taken before the job starts, and what one batch takes."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    ray.shutdown()
    return build_logging_shop(tmp_path_factory.mktemp("shop"), NUM_IMAGES, FAULTY_ARCHITECTURE)


def a_job(shop: Workshop, folder: Path, **faults: object) -> LabelJob:
    (folder / "faults").mkdir()
    environment = {"FAULT_FOLDER": str(folder / "faults"), **{name: str(value) for name, value in faults.items()}}
    job = LabelJob(shop, folder, str(folder / "run"), environment)
    job.num_bad = NUM_BAD
    return job


def times(folder: Path, fault: str) -> int:
    return len(list((folder / "faults").glob(f"{fault}-*")))


def test_actors_that_always_die_while_they_load_end_the_job_with_one_line(shop: Workshop, tmp_path: Path) -> None:
    job = a_job(shop, tmp_path, FAULT_LOADS=1000)
    job.wait(job.start(), 3)
    [line] = job.ends()
    assert line.startswith("error: pools.") and "a process died 3 times in a row while it loaded its networks" in line
    assert line.endswith("once this is mended, run the same command again")
    assert not job.report()["complete"]
    job.environment["FAULT_LOADS"] = "0"
    job.finish()


def test_calibration_whose_actors_always_die_while_they_load_ends_with_one_line(shop: Workshop, tmp_path: Path) -> None:
    job = a_job(shop, tmp_path, FAULT_LOADS=1000)
    bundle = shutil.copytree(shop.bundle, tmp_path / "bundle")
    data = Path(shop.bundle).parent / "held_out"
    asked = (f"run.folder={tmp_path}/calibrate", f"bundle={bundle}", f"data.path={data}", "cluster.local_cpus=4")
    command = [sys.executable, "-m", "jobs.calibrate", *(word for each in asked for word in ("--set", each))]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", **job.environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 3, done.stderr[-3000:]
    assert (done.stdout, done.stderr.count("Traceback")) == ("", 0)
    assert done.stderr.splitlines()[-1].startswith("error: pool: a process died 3 times in a row while it loaded")


@pytest.fixture
def own_ray() -> Iterator[Path]:
    """A folder for the job's own Ray; the path of a socket in it may have 107 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_an_actor_that_dies_twice_while_it_loads_and_is_killed_for_memory_later_costs_no_row(
    shop: Workshop, tmp_path: Path, own_ray: Path
) -> None:
    memory = psutil.virtual_memory()
    if memory.available < (ROOM_GB + HELD_GB) * GB:
        pytest.skip(f"this needs {ROOM_GB + HELD_GB} GB of free memory")
    job = a_job(shop, tmp_path, FAULT_LOADS=2, FAULT_BATCHES=1, FAULT_MB=HELD_GB << 10)
    most = (memory.total - memory.available + ROOM_GB * GB) / memory.total
    job.environment |= {"RAY_TMPDIR": str(own_ray), "RAY_memory_usage_threshold": str(most)}
    job.times_least = 3.3
    job.finish()
    assert (times(tmp_path, "FAULT_LOADS"), times(tmp_path, "FAULT_BATCHES")) == (2, 1)
    assert "a process died while it loaded its networks" in job.text()
    [log] = own_ray.glob("ray/session_2*/logs/raylet.out")
    assert "OOM kill reason" in log.read_text()
