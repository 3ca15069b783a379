"""A label job whose parts are killed: the budget holds, every image gets exactly one row.

What is really computed is added up by the networks themselves (``LoggingClassifier`` writes a line before each forward
pass), so lost and repeated work is seen here whatever the ledger believes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from anchornet.bundle import load_bundle
from anchornet.report.label_counts import label_tables
from jobs import label
from jobs.labelling.ledger_actor import NAMESPACE, ledger_name
from jobs.shell.ray_session import start_local_ray
from jobs.shell.run_folder import RunFolder
from tests import tiny_bundle
from tests.workshop import NUM_BAD, Workshop, build_logging_shop

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES = 96
WAIT_S = 600.0


@pytest.fixture(scope="module")
def macs_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "forward.log"


@pytest.fixture(scope="module")
def cluster(macs_log: Path) -> Iterator[None]:
    environment = {
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
        tiny_bundle.LOG_VARIABLE: str(macs_log),
        "OMP_NUM_THREADS": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        ray.shutdown()  # the ray tier's cluster lives until the session ends; its workers lack this environment
        start_local_ray(4)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def shop(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return build_logging_shop(tmp_path_factory.mktemp("shop"), NUM_IMAGES)


def arguments(shop: Workshop, folder: Path, gflops: float | None = None) -> list[str]:
    settings = [
        f"run.folder={folder}",
        f"bundle={shop.bundle}",
        f"input.path={shop.images}",
        "rows_per_file=8",
        "max_failed_fraction=0.1",
    ]
    settings += [
        f"budget.gflops_per_image={gflops or shop.middle_gflops}",
        "pools.0.batch_size=8",
        "pools.1.batch_size=8",
    ]
    return [part for setting in settings for part in ("--set", setting)]


def computed_macs(shop: Workshop, log: Path) -> int:
    """Multiply-adds of the classifiers alone, of every forward pass that was begun."""
    exits = load_bundle(shop.bundle).cascade().exits
    rows = [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []
    return sum(rows) * exits[-1].macs  # glance and patches cost the same in this bundle


def check(shop: Workshop, folder: Path, log: Path) -> dict:
    report = json.loads((folder / "report.json").read_bytes())
    rows = pa.concat_tables(label_tables(RunFolder(str(folder)).labels))
    ids = rows["image_id"].to_pylist()
    assert sorted(ids) == list(range(report["images"]))
    assert report["status"] == {"ok": report["images"] - NUM_BAD, "unreadable": NUM_BAD, "failed": 0}
    budget = report["budget"]
    assert budget["spent_gflops"] <= budget["asked_gflops"]
    assert budget["in_labels_gflops"] <= budget["spent_gflops"] * (1 + 1e-12)
    anchors = sum(1 for status in rows["status"].to_pylist() if status == "ok")
    least_real = computed_macs(shop, log) + anchors * load_bundle(shop.bundle).cascade().exits[0].macs
    assert least_real <= budget["asked_gflops"] * 1e9
    return report


def run_and_kill(shop: Workshop, folder: Path, kill: Callable[[], bool]) -> int:
    """Run the job; call ``kill`` in a thread, again and again until it says that it hit something."""
    done = threading.Event()

    def hunt() -> None:
        deadline = time.monotonic() + WAIT_S
        while not done.wait(0.05) and time.monotonic() < deadline and not kill():
            pass

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        return label.main(arguments(shop, folder))
    finally:
        done.set()
        hunter.join()


def test_a_classifier_actor_killed_in_mid_batch(shop: Workshop, tmp_path: Path, macs_log: Path) -> None:
    macs_log.unlink(missing_ok=True)
    killed: list[int] = []

    def kill() -> bool:
        if not macs_log.exists() or macs_log.read_text().count("\n") < 6:
            return False
        killed.append(int(macs_log.read_text().splitlines()[-1].split()[1]))  # in its forward pass at this moment
        assert killed[-1] != os.getpid()
        os.kill(killed[-1], signal.SIGKILL)
        return True

    assert run_and_kill(shop, tmp_path, kill) == 0
    assert killed
    check(shop, tmp_path, macs_log)


def test_the_ledger_killed_in_mid_job(shop: Workshop, tmp_path: Path, macs_log: Path) -> None:
    macs_log.unlink(missing_ok=True)
    killed = threading.Event()

    def kill() -> bool:
        if not macs_log.exists() or macs_log.read_text().count("\n") < 6:
            return False
        mark = RunFolder(str(tmp_path)).absolute.mark
        ray.kill(ray.get_actor(ledger_name(mark), NAMESPACE), no_restart=False)
        killed.set()
        return True

    assert run_and_kill(shop, tmp_path, kill) == 0
    assert killed.is_set()
    report = check(shop, tmp_path, macs_log)
    assert report["ledger"]["restart_macs"] > 0


def test_the_driver_killed_and_the_job_resumed(shop: Workshop, tmp_path: Path, macs_log: Path) -> None:
    macs_log.unlink(missing_ok=True)
    environment = {
        **os.environ,
        tiny_bundle.LOG_VARIABLE: str(macs_log),
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
    }
    # Nearly all of this bundle's cost is the first exit, and most images are in flight when the driver dies: a budget
    # that labels each of them twice is what such a death can cost at most.
    twice = arguments(shop, tmp_path, gflops=2.2 * shop.minimum_gflops)
    command = [sys.executable, "-m", "jobs.label", *twice, "--set", "rows_per_file=1"]
    with (tmp_path / "driver.log").open("wb") as log:
        # Its own Ray, so that everything dies with it as on a laptop.
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    labels = tmp_path / "labels"
    deadline = time.monotonic() + WAIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if labels.exists() and len(list(labels.glob("*.parquet"))) >= 2:
            process.send_signal(signal.SIGKILL)
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "driver.log").read_text()[-2000:]
    assert label.main(twice) == 0
    report = check(shop, tmp_path, macs_log)
    assert 0 < report["labelled_in_this_start"] < report["images"]
