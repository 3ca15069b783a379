"""A label job that is told to stop, or whose run folder fails: one line, the right exit code, and the same command goes on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.label_job import LabelJob
from tests.workshop import NUM_BAD, Workshop, build_logging_shop

pytestmark = pytest.mark.ray
NUM_IMAGES = 64


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    ray.shutdown()
    return build_logging_shop(tmp_path_factory.mktemp("shop"), NUM_IMAGES)


def a_job(shop: Workshop, folder: Path, run: Path) -> LabelJob:
    job = LabelJob(shop, folder, str(run))
    job.num_bad = NUM_BAD
    return job


def test_a_job_that_is_told_to_stop_writes_down_what_it_did_and_goes_on_later(shop: Workshop, tmp_path: Path) -> None:
    job = a_job(shop, tmp_path, tmp_path / "run")
    job.times_least = 3.3  # it is stopped twice
    missing = []
    for sent, code, line in (
        (signal.SIGTERM, 143, "ended by SIGTERM; run the same command again to go on"),
        (signal.SIGINT, 130, "interrupted; run the same command again to go on"),
    ):
        process = job.start()
        job.until_rows(process)
        process.send_signal(sent)
        job.wait(process, code)
        assert job.ends() == [line]
        report = job.report()
        assert not report["complete"]
        missing.append(report["missing"])
    assert 0 < missing[1] <= missing[0] < NUM_IMAGES
    job.finish()


def test_the_second_job_in_a_run_folder_leaves_with_one_line_and_the_first_goes_on(
    shop: Workshop, tmp_path: Path
) -> None:
    job = a_job(shop, tmp_path, tmp_path / "run")
    first = job.start()
    job.until_rows(first)
    job.wait(job.start(), 3)
    [line] = job.ends()
    assert line.startswith(f"error: another job works in the run folder {job.run.uri} (process {first.pid} on ")
    job.wait(first, 0)
    job.check()


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own; skips where none may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing_half_written(shop: Workshop, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=16m") as small:
        job = a_job(shop, tmp_path, small / "run")
        process = job.start()
        job.until_rows(process)
        filler = small / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        job.wait(process, 3)
        [line] = job.ends()
        assert "No space left on device" in line and line.endswith("run the same command again")
        assert list((small / "run").glob(".*.json.*")) == []
        filler.unlink()
        job.finish()


def test_a_run_folder_that_cannot_be_written_is_one_line(shop: Workshop, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=1m,ro") as locked:
        job = a_job(shop, tmp_path, locked / "run")
        job.wait(job.start(), 3)
        [line] = job.ends()
        assert "Read-only file system" in line and job.run.uri in line
