"""A label job that is told to stop, or whose run folder fails: one line, the right exit code, and the same command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from anchornet.bundle import load_bundle
from anchornet.report.label_counts import label_tables
from jobs.shell.run_folder import RunFolder
from tests import tiny_bundle
from tests.heads import ROOT, until
from tests.workshop import NUM_BAD, Workshop, build_workshop, write_images

pytestmark = pytest.mark.ray
NUM_IMAGES = 64
WAIT_S = 300.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    ray.shutdown()
    folder = tmp_path_factory.mktemp("shop")
    built = build_workshop(folder, architecture=tiny_bundle.LOGGING_ARCHITECTURE)
    write_images(folder / "images", NUM_IMAGES, seed=5)
    return built


class Job:
    """Label jobs of one run folder, each in a process with a Ray of its own."""

    def __init__(self, shop: Workshop, folder: Path, run: Path) -> None:
        self.shop, self.folder, self.run = shop, folder, run
        self.macs_log = folder / "forward.log"
        self.started = 0
        self.said = folder / "said"

    def start(self, *overrides: str) -> subprocess.Popen[bytes]:
        """Twice the middle budget: whatever was in flight can be labelled again."""
        asked = [f"run.folder={self.run}", f"bundle={self.shop.bundle}", f"input.path={self.shop.images}"]
        asked += [f"budget.gflops_per_image={2.2 * self.shop.minimum_gflops}", "rows_per_file=1"]
        asked += [
            "pools=[{batch_size: 8}, {batch_size: 8}]",
            "max_failed_fraction=0.1",
            "cluster.local_cpus=4",
            *overrides,
        ]
        environment = {
            **os.environ,
            tiny_bundle.LOG_VARIABLE: str(self.macs_log),
            "RAY_AUTH_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
        }
        self.started += 1
        self.said = self.folder / f"said-{self.started}"
        command = [sys.executable, "-m", "jobs.label", *(part for each in asked for part in ("--set", each))]
        with self.said.open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                # Whoever runs the tests in the background has SIGINT ignored, and so would this process.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def text(self) -> str:
        """What the last one said."""
        return self.said.read_text(errors="replace")

    def errors(self) -> list[str]:
        """Its lines that are not progress."""
        return [
            line for line in self.text().splitlines() if line.startswith(("error", "interrupted", "ended", "Traceback"))
        ]

    def until_rows(self, process: subprocess.Popen[bytes]) -> None:
        """Return when some rows are written and others are not."""
        labels = self.run / "labels"
        found = until(lambda: len(list(labels.glob("*.parquet"))) >= 2 or process.poll() is not None, WAIT_S)
        assert found and process.poll() is None, self.text()[-3000:]

    def finish(self) -> None:
        """The same command goes on: one row per image, and no more computed by the networks than the budget allows."""
        assert self.start().wait(WAIT_S) == 0, self.text()[-3000:]
        report = json.loads((self.run / "report.json").read_bytes())
        ids = pa.concat_tables(label_tables(RunFolder(str(self.run)).labels))["image_id"].to_pylist()
        assert sorted(ids) == list(range(report["images"]))
        assert report["status"] == {"ok": report["images"] - NUM_BAD, "unreadable": NUM_BAD, "failed": 0}
        exits = load_bundle(self.shop.bundle).cascade().exits
        rows = [int(line.split()[0]) for line in self.macs_log.read_text().splitlines()]
        anchors = report["status"]["ok"] * exits[0].macs
        assert sum(rows) * exits[-1].macs + anchors <= report["budget"]["asked_gflops"] * 1e9
        assert report["budget"]["spent_gflops"] <= report["budget"]["asked_gflops"]


@pytest.mark.parametrize(
    ("sent", "code", "line"),
    [
        (signal.SIGTERM, 143, "ended by SIGTERM; run the same command again to go on"),
        (signal.SIGINT, 130, "interrupted; run the same command again to go on"),
    ],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_a_job_that_is_told_to_stop_writes_down_what_it_did_and_goes_on_later(
    shop: Workshop, tmp_path: Path, sent: signal.Signals, code: int, line: str
) -> None:
    job = Job(shop, tmp_path, tmp_path / "run")
    process = job.start()
    job.until_rows(process)
    process.send_signal(sent)
    assert process.wait(WAIT_S) == code, job.text()[-3000:]
    assert job.errors() == [line]
    report = json.loads((job.run / "report.json").read_bytes())
    assert not report["complete"] and 0 < report["missing"] < report["images"]
    assert report["ledger"]["num_open"] == 0
    job.finish()


def test_the_second_job_in_a_run_folder_leaves_with_one_line_and_the_first_goes_on(
    shop: Workshop, tmp_path: Path
) -> None:
    job = Job(shop, tmp_path, tmp_path / "run")
    first, said = job.start(), job.said
    job.until_rows(first)
    assert job.start().wait(WAIT_S) == 3, job.text()[-3000:]
    [line] = job.errors()
    assert line.startswith(f"error: another job works in the run folder {job.run} (process {first.pid} on ")
    assert first.wait(WAIT_S) == 0, said.read_text()[-3000:]
    assert json.loads((job.run / "report.json").read_bytes())["complete"]


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own; skips where none may be mounted."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing_half_written(shop: Workshop, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=16m") as small:
        job = Job(shop, tmp_path, small / "run")
        process = job.start()
        job.until_rows(process)
        filler = small / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        assert process.wait(WAIT_S) == 3, job.text()[-3000:]
        [line] = job.errors()
        assert "No space left on device" in line and line.endswith("run the same command again")
        assert list(job.run.glob(".*.json.*")) == []
        filler.unlink()
        job.finish()


def test_a_run_folder_that_cannot_be_written_is_one_line(shop: Workshop, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=1m,ro") as locked:
        job = Job(shop, tmp_path, locked / "run")
        assert job.start().wait(WAIT_S) == 3
        [line] = job.errors()
        assert "Read-only file system" in line and str(job.run) in line
