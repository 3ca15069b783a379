"""Jobs on a cluster that starts with a head alone: the real autoscaler, on nodes that are processes of this machine.

Slow: every node is a raylet, and every actor a Python process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from ray.autoscaler.v2.sdk import get_cluster_status

from anchornet.report.label_counts import label_tables
from jobs.resources.capacity import cluster_capacity
from jobs.settings.common import ClusterSettings
from jobs.shell.run_folder import RunFolder
from tests import tiny_bundle
from tests.heads import ROOT, Head, head, pretended, until
from tests.small_images import write_folders
from tests.workshop import NUM_BAD, write_images

pytestmark = pytest.mark.ray
TYPES = {"decode": {"CPU": 3}, "gpu_spot": {"CPU": 2, "GPU": 1}}
SIZES = {"decode": 1, "gpu_spot": 2}
"""The most nodes of each type."""
WAIT_S = 420.0
SHRINK_S = 120.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    """A head alone, and the test's own connection to it."""
    environment = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        tiny_bundle.LOG_VARIABLE: os.devnull,
    }
    ray.shutdown()
    with (
        pytest.MonkeyPatch.context() as patch,
        head(environment, "--num-cpus=0", autoscaling=pretended(TYPES, SIZES)) as started,
    ):
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(address=started.address, log_to_driver=False)
        yield started
        ray.shutdown()


def node_types(cluster: Head) -> Counter[str]:
    """How many nodes of each type are alive, the head left out."""
    status = get_cluster_status(cluster.address)
    names = [node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)]
    return Counter(name for name in names if name in SIZES)


class Watch:
    """The most nodes of each type that were there at one time, while a process runs."""

    def __init__(self, cluster: Head) -> None:
        self.most: Counter[str] = Counter()
        self._cluster = cluster
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.5):
            self.most |= node_types(self._cluster)


def shrinks_to_the_head(cluster: Head) -> bool:
    return until(lambda: not node_types(cluster), SHRINK_S)


def test_an_empty_cluster_that_may_grow_is_known_as_one(cluster: Head) -> None:
    remote = ClusterSettings(address=cluster.address)
    assert until(lambda: cluster_capacity(remote).grows, 60)  # the autoscaler's first status
    size = cluster_capacity(remote)
    assert size.now == (0, 0)
    assert size.most == (float("inf"), float("inf"))
    assert cluster_capacity(ClusterSettings(address=cluster.address, max_cpus=7, max_gpus=2)).most == (7, 2)


def test_a_label_job_grows_the_cluster_loses_a_node_and_gives_all_back(cluster: Head, tmp_path: Path) -> None:
    shop = build_workshop_elsewhere(cluster, tmp_path)
    write_images(Path(shop["images"]), 240, seed=5)
    command = label_command(cluster, shop, tmp_path, "cluster.max_gpus=2", gpus=0.5)
    with Watch(cluster) as watch, (tmp_path / "log").open("w") as log:
        process = cluster.run("-m", "jobs.label", *command, stdout=log, stderr=log)
        killed = take_a_gpu_node_away(cluster, process, tmp_path / "run" / "labels")
        code = process.wait(timeout=WAIT_S)
    said = (tmp_path / "log").read_text()
    assert code == 0, said[-3000:]
    assert killed, said[-3000:]
    assert "waiting for the cluster to grow: the pools" in said
    assert watch.most["gpu_spot"] >= 1
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    rows = pa.concat_tables(label_tables(RunFolder(str(tmp_path / "run")).labels))
    assert sorted(rows["image_id"].to_pylist()) == list(range(report["images"]))
    assert report["status"] == {"ok": report["images"] - NUM_BAD, "unreadable": NUM_BAD, "failed": 0}
    assert report["budget"]["spent_gflops"] <= report["budget"]["asked_gflops"]
    assert shrinks_to_the_head(cluster)


def test_a_job_that_no_node_can_hold_says_so_and_goes_on_waiting(cluster: Head, tmp_path: Path) -> None:
    command = label_command(cluster, build_workshop_elsewhere(cluster, tmp_path), tmp_path, "cluster.stall_s=3", gpus=8)
    with (tmp_path / "log").open("w") as log:
        process = cluster.run("-m", "jobs.label", *command, stdout=log, stderr=log)
        waits = "room for 2 x (0.25 CPU, 8 GPU), the pool of anchor or the pool of patches"
        found = until(lambda: waits in (tmp_path / "log").read_text() or process.poll() is not None, WAIT_S)
        assert found and process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        process.kill()  # not Ctrl-C, which a job started in the background does not hear
        process.wait()
    assert "nothing has moved for " in (tmp_path / "log").read_text()
    assert shrinks_to_the_head(cluster)


def label_command(cluster: Head, shop: dict[str, object], folder: Path, *more: str, gpus: float) -> list[str]:
    """Arguments of a label job whose two stages have one or two actors each of so many GPUs, which are never used."""
    settings = [f"run.folder={folder}/run", f"bundle={shop['bundle']}", f"input.path={shop['images']}"]
    settings += [f"budget.gflops_per_image={shop['gflops']}", "rows_per_file=8", "inference.device=cpu"]
    settings += [f"cluster.address={cluster.address}", *more]
    for stage in (0, 1):
        values = (f"gpus={gpus:g}", "max_actors=2", "cpus=0.25", "batch_size=8")
        settings += [f"pools.{stage}.{value}" for value in values]
    return [part for setting in settings for part in ("--set", setting)]


def build_workshop_elsewhere(cluster: Head, folder: Path) -> dict[str, object]:
    """Images and a calibrated bundle, made by a process with a Ray of its own."""
    code = (
        "import json, pathlib, sys; from tests.workshop import build_workshop;"
        "from tests import tiny_bundle;"
        "shop = build_workshop(pathlib.Path(sys.argv[1]), tiny_bundle.LOGGING_ARCHITECTURE);"
        "gflops = 2 * shop.middle_gflops;"
        "pathlib.Path(sys.argv[1], 'shop.json').write_text("
        "json.dumps({'images': shop.images, 'bundle': shop.bundle, 'gflops': gflops}))"
    )
    environment = {**os.environ, **cluster.environment}
    environment.pop("RAY_ADDRESS", None)
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=ROOT, env=environment)
    found: dict[str, object] = json.loads((folder / "shop.json").read_text())
    return found


def take_a_gpu_node_away(cluster: Head, process: subprocess.Popen[str], labels: Path) -> int:
    """SIGKILL the raylet of one GPU node once labels have been written; how many processes that hit."""
    hit: list[int] = []

    def kill() -> bool:
        if process.poll() is not None:
            return True
        if labels.exists() and len(list(labels.glob("*.parquet"))) >= 2:
            status = get_cluster_status(cluster.address)
            nodes = [
                each for each in (*status.active_nodes, *status.idle_nodes) if each.ray_node_type_name == "gpu_spot"
            ]
            hit.extend(cluster.kill_node(node.node_id) for node in nodes[:1])
        return bool(hit)

    assert until(kill, WAIT_S)
    return sum(hit)


def test_a_training_job_grows_the_cluster_and_gives_all_back(cluster: Head, tmp_path: Path) -> None:
    images = write_folders(str(tmp_path / "images"), 24)
    settings = [f"run.folder={tmp_path}/run", f"data.path={images}", f"cluster.address={cluster.address}"]
    settings += ["recipe.kind=classifier", "recipe.architecture=tests.tiny_bundle:tiny_classifier", "crop.size=96"]
    settings += ["recipe.training.epochs=1", "recipe.training.batch_size=8", "workers.count=2", "workers.cpus=0.5"]
    settings += ["workers.use_gpu=false", "image_size=96"]
    command = [part for setting in settings for part in ("--set", setting)]
    with Watch(cluster) as watch, (tmp_path / "log").open("w") as log:
        process = cluster.run("-m", "jobs.train", *command, stdout=log, stderr=log)
        code = process.wait(timeout=WAIT_S)
    said = (tmp_path / "log").read_text()
    assert code == 0, said[-3000:]
    assert sum(watch.most.values()) >= 1
    assert json.loads((tmp_path / "run" / "report.json").read_text())["epochs"] == 1
    assert shrinks_to_the_head(cluster)
