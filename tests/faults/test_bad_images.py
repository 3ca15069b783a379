"""Label jobs over files that are no whole pictures: each gets a row with a reason, and no worker dies, hangs or grows."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import ray

from anchornet.data.reading import decode_memory_bytes
from anchornet.images.decode import BYTES_PER_PIXEL, MOST_BYTES_PER_PIXEL
from anchornet.images.preprocess import Preprocessing
from anchornet.report.label_counts import label_tables
from tests.bad_images import MAX_PIXELS, corpus
from tests.job_processes import JobProcesses
from tests.label_job import LabelJob
from tests.mutations import mutations, originals
from tests.workshop import Workshop, build_workshop, write_images

log = logging.getLogger(__name__)

pytestmark = pytest.mark.ray
NUM_MUTATIONS = int(os.environ.get("ANCHORNET_MUTATIONS", "600"))
NUM_GOOD = 400
BATCH = 32
HANGS_S = 1500.0
"""A job that is not over by then hangs: most take less than a minute, 10,000 mutations some five."""
DECODING = "MapBatches(Telling)"
"""What Ray calls the workers that read and decode."""
DECLARED_BYTES = decode_memory_bytes(Preprocessing(), MAX_PIXELS, BATCH)
"""What a task that decodes says that it needs."""
MARGIN_BYTES = 150_000_000
"""What the memory of a worker may differ by from run to run: 40 MB were seen between those that decode in a usual job, 130 MB
between those with a network."""


class Done(NamedTuple):
    """A job that has ended."""

    rows: dict[str, dict[str, Any]]
    """Its rows by the file's name."""
    report: dict[str, Any]
    deaths: list[str]
    decoding_bytes: int
    """The most memory that a worker which decodes ever held."""
    other_bytes: int
    """The same of Ray's other workers."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    ray.shutdown()
    return build_workshop(tmp_path_factory.mktemp("shop"))


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """A folder for a Ray of its own; a short name, as Ray's sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def labelled(shop: Workshop, folder: Path, images: Path, *, kill_one: bool = False) -> Done:
    """A label job over a folder of files, watched to its end. kill_one: the first worker that decodes is killed."""
    with ray_folder() as own:
        job = LabelJob(shop, folder, str(folder / "run"), {"RAY_TMPDIR": str(own)})
        pools = f"pools=[{{batch_size: {BATCH}}}, {{batch_size: {BATCH}}}]"
        limits = (f"input.max_pixels={MAX_PIXELS}", "max_failed_fraction=1", "rows_per_file=4096")
        process = job.start(f"input.path={images}", pools, *limits)
        processes, killed = JobProcesses(process, own), []

        def kill() -> None:
            for pid in [] if killed or not kill_one else processes.running(DECODING)[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

        try:
            assert processes.watch(HANGS_S, kill), f"the job hangs: {job.text()[-3000:]}"
        finally:
            processes.kill()
        job.wait(process, 0)
        assert len(killed) == kill_one
        rows = pa.concat_tables(label_tables(job.run.labels)).to_pylist()
        by_name = {Path(row["uri"]).name: row for row in rows}
        assert len(by_name) == len(rows) == job.report()["images"]
        decoding = set(processes.running(DECODING))
        peaks = [
            [peak for pid, peak in processes.peak_bytes.items() if (pid in decoding) == wanted]
            for wanted in (True, False)
        ]
        done = Done(by_name, job.report(), processes.deaths(), *(max(each) for each in peaks))
    _tell(done)
    return done


def _tell(done: Done) -> None:
    report = done.report
    peaks = f"{done.decoding_bytes / 1e6:.0f} MB and {done.other_bytes / 1e6:.0f} MB"
    said = f"{report['images']} files in {report['wall_s']:.0f} s: {report['status']}, {len(done.deaths)} deaths"
    log.info("%s; a decoding worker held at most, and any other: %s; reasons: %s", said, peaks, report["errors"])


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files in a folder of their own."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def check_no_worker_suffered(done: Done, usual: Done, allowed_bytes: int) -> None:
    """No worker died, and none held more than those of a usual job and, where it decodes, what it may need beyond that."""
    assert done.deaths == []
    assert done.decoding_bytes - usual.decoding_bytes <= allowed_bytes + MARGIN_BYTES
    assert done.other_bytes - usual.other_bytes <= MARGIN_BYTES


@pytest.fixture(scope="module")
def usual(shop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A job over whole small pictures, one of whose workers is killed."""
    folder = tmp_path_factory.mktemp("usual")
    write_images(folder / "images", NUM_GOOD)
    return labelled(shop, folder, folder / "images", kill_one=True)


def test_a_worker_that_dies_is_seen_though_its_work_is_done_again(usual: Done) -> None:
    assert len(usual.deaths) == 1
    assert usual.report["status"] == {"ok": NUM_GOOD, "unreadable": 0, "failed": 0}


def test_every_kind_of_bad_file_gets_its_row_and_its_reason(shop: Workshop, usual: Done, tmp_path: Path) -> None:
    cases = {case.name: case for case in corpus()}
    images = write(tmp_path / "images", {name: case.content for name, case in cases.items()})
    done = labelled(shop, tmp_path, images)
    assert done.rows.keys() == cases.keys()
    wrong = {
        name: (row["status"], row["error"])
        for name, row in done.rows.items()
        if not cases[name].fits(row["status"], row["error"])
    }
    assert wrong == {}
    waiting = sum(sorted(len(case.content) for case in cases.values())[-2 * BATCH :])
    dear = (MOST_BYTES_PER_PIXEL - BYTES_PER_PIXEL) * MAX_PIXELS
    check_no_worker_suffered(done, usual, DECLARED_BYTES + dear + waiting)


def test_random_mutations_of_photographs_get_their_rows_and_their_reasons(
    shop: Workshop, usual: Done, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    files = dict(mutations(originals(shared_photographs(request)), NUM_MUTATIONS))
    done = labelled(shop, tmp_path, write(tmp_path / "images", files))
    assert done.rows.keys() == files.keys()
    told = {(row["status"], bool(row["error"])) for row in done.rows.values()}
    assert told == {("ok", False), ("unreadable", True)}
    check_no_worker_suffered(done, usual, DECLARED_BYTES)


def shared_photographs(request: pytest.FixtureRequest) -> Path | None:
    """The shared photographs; None where there are none, and pictures are made."""
    try:
        folder: Path = request.getfixturevalue("shared_data")
    except pytest.skip.Exception:
        return None
    return folder
