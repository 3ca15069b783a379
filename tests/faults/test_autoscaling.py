"""Jobs on a cluster that starts with a head alone: Ray's own autoscaler with the node types that are shipped for AWS.

Nodes are processes of this machine. Slow: every node is a raylet, and every actor a Python process.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from anchornet.bundle import load_bundle
from anchornet.report.label_counts import label_tables
from jobs.resources.capacity import cluster_capacity
from jobs.settings.common import ClusterSettings
from tests import tiny_bundle
from tests.heads import ROOT, Head, head, pretended, until
from tests.small_images import write_folders
from tests.unit.cluster.cluster_files import AWS, cluster_of, too_old
from tests.workshop import NUM_BAD, Workshop, build_logging_shop

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(too_old(), reason="the cluster files are for the Ray of cluster/Dockerfile"),
]
MOST = {"decode": 2, "gpu_spot": 2, "gpu_on_demand": 1}
"""The most nodes of each type."""
GPU_NODES = {"gpu_spot": 2, "gpu_on_demand": 1}
"""Nodes for the three actors of a label job that has a GPU for each: spot first."""
NUM_IMAGES = 400
WAIT_S = 420.0
SHRINK_S = 120.0


@pytest.fixture(scope="module")
def macs_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "forward.log"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    ray.shutdown()
    return build_logging_shop(tmp_path_factory.mktemp("shop"), NUM_IMAGES)


@pytest.fixture(scope="module")
def cluster(shop: Workshop, macs_log: Path) -> Iterator[Head]:
    """A head alone, and the test's own connection to it."""
    environment = {
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        tiny_bundle.LOG_VARIABLE: str(macs_log),
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        head(environment, "--num-cpus=0", autoscaling=pretended(cluster_of(AWS), MOST)) as started,
    ):
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(address=started.address, log_to_driver=False)
        yield started
        ray.shutdown()


class Watch:
    """The worker nodes that were there while a process runs."""

    def __init__(self, cluster: Head) -> None:
        self.most: Counter[str] = Counter()
        """Of each type at one time."""
        self.seen: dict[str, str] = {}
        """Type of each node that ever was there, by its id."""
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
            now = self._cluster.workers()
            self.most |= Counter(now.values())
            self.seen |= now


def shrinks_to_the_head(cluster: Head) -> bool:
    return until(lambda: not cluster.workers(), SHRINK_S)


def test_an_empty_cluster_that_may_grow_is_known_as_one(cluster: Head) -> None:
    remote = ClusterSettings(address=cluster.address)
    assert until(lambda: cluster_capacity(remote).grows, 60)  # the autoscaler's first status
    size = cluster_capacity(remote)
    assert size.now == (0, 0)
    assert size.most == (float("inf"), float("inf"))
    assert cluster_capacity(ClusterSettings(address=cluster.address, max_cpus=7, max_gpus=2)).most == (7, 2)


def node_of_first_stage(macs_log: Path) -> str | None:
    """Where the one actor runs that every image passes first, once both of the other stage compute and write that down."""
    logged = {int(line.split()[1]) for line in macs_log.read_text().splitlines()} if macs_log.exists() else set()
    actors = ray._private.state.actors(actor_state_name="ALIVE").values()
    nodes = {each["Pid"]: str(each["Address"]["NodeID"]) for each in actors if "StageActor" in each["ActorClassName"]}
    first = nodes.keys() - logged
    return nodes[first.pop()] if (len(nodes), len(first)) == (3, 1) else None


def test_a_label_job_grows_the_cluster_loses_a_node_and_gives_all_back(
    cluster: Head, shop: Workshop, macs_log: Path, tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    pools = "pools=[{gpus: 1, cpus: 0.25, batch_size: 8}, {gpus: 1, cpus: 0.25, batch_size: 8, actors: 2}]"
    command = label_command(cluster, shop, run, pools, "cluster.max_gpus=3", "cluster.max_cpus=11")
    assert not cluster.workers()
    with Watch(cluster) as watch, said.open("w") as log:
        job = cluster.run("-m", "jobs.label", *command, stdout=log, stderr=log)
        assert until(lambda: bool(node_of_first_stage(macs_log)) or job.poll() is not None, WAIT_S)
        victim = node_of_first_stage(macs_log)
        assert job.poll() is None and victim, said.read_text()[-3000:]
        lost = cluster.workers()[victim]
        assert cluster.kill_node(victim) == 1
        assert job.wait(WAIT_S) == 0, said.read_text()[-3000:]
    assert {name: watch.most[name] for name in GPU_NODES} == GPU_NODES
    assert [*watch.seen.values()].count(lost) > GPU_NODES[lost]  # another one came instead
    assert "waiting for the cluster to grow: the pools" in said.read_text()
    report = json.loads((run / "report.json").read_text())
    rows = pa.concat_tables(label_tables(str(run / "labels")))
    assert sorted(rows["image_id"].to_pylist()) == list(range(report["images"]))
    assert report["status"] == {"ok": report["images"] - NUM_BAD, "unreadable": NUM_BAD, "failed": 0}
    exits = load_bundle(shop.bundle).cascade().exits
    computed = sum(int(line.split()[0]) for line in macs_log.read_text().splitlines()) * exits[-1].macs
    assert computed + report["status"]["ok"] * exits[0].macs <= report["budget"]["asked_gflops"] * 1e9
    assert report["budget"]["spent_gflops"] <= report["budget"]["asked_gflops"]
    assert report["budget"]["wasted_gflops"] > 0  # what died with the node is paid for
    assert shrinks_to_the_head(cluster)


def label_command(cluster: Head, shop: Workshop, run: Path, *more: str) -> list[str]:
    """Arguments of a label job whose GPUs are never used; a task that decodes finds room on a decode node alone."""
    told = [f"run.folder={run}", f"bundle={shop.bundle}", f"input.path={shop.images}", "rows_per_file=8"]
    told += [f"budget.gflops_per_image={2 * shop.minimum_gflops}", "input.decode_cpus=1", "inference.device=cpu"]
    told += [f"cluster.address={cluster.address}", *more]
    return [word for each in told for word in ("--set", each)]


def test_a_job_that_no_node_can_hold_says_so_and_goes_on_waiting(cluster: Head, shop: Workshop, tmp_path: Path) -> None:
    said = tmp_path / "said"
    pools = "pools=[{gpus: 8, cpus: 0.25, batch_size: 8}, {gpus: 8, cpus: 0.25, batch_size: 8}]"
    command = label_command(cluster, shop, tmp_path / "run", pools, "cluster.stall_s=3")
    with said.open("w") as log:
        job = cluster.run("-m", "jobs.label", *command, stdout=log, stderr=log)
        waits = "room for 2 x (0.25 CPU, 8 GPU), the pool of anchor or the pool of patches"
        found = until(lambda: waits in said.read_text() or job.poll() is not None, WAIT_S)
        assert found and job.poll() is None, said.read_text()[-3000:]
        job.kill()  # not Ctrl-C, which a job started in the background does not hear
        job.wait()
    assert "nothing has moved for " in said.read_text()
    assert shrinks_to_the_head(cluster)


def test_a_training_job_grows_the_cluster_loses_a_node_and_gives_all_back(cluster: Head, tmp_path: Path) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    told = [f"run.folder={run}", f"data.path={write_folders(str(tmp_path / 'images'), 24)}", "crop.size=96"]
    told += ["recipe.kind=classifier", "recipe.architecture=tests.tiny_bundle:tiny_classifier", "image_size=96"]
    told += ["recipe.training.epochs=4", "recipe.training.batch_size=8", f"cluster.address={cluster.address}"]
    told += ["workers.count=2", "workers.cpus=2.5", "workers.use_gpu=false"]  # of 4: a decode node for each
    assert not cluster.workers()
    with Watch(cluster) as watch, said.open("w") as log:
        words = [word for each in told for word in ("--set", each)]
        job = cluster.run("-m", "jobs.train", *words, stdout=log, stderr=log)
        assert until(lambda: (run / "metrics.jsonl").exists() or job.poll() is not None, WAIT_S)
        assert job.poll() is None, said.read_text()[-3000:]
        assert cluster.kill_node(next(iter(cluster.workers()))) == 1
        assert job.wait(WAIT_S) == 0, said.read_text()[-3000:]
    assert [*watch.seen.values()] == 3 * ["decode"]  # another one came instead
    assert watch.most == {"decode": 2}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["workers"]) for line in lines] == [(0, 2), (1, 2), (2, 2), (3, 2)]
    assert json.loads((run / "report.json").read_text())["epochs"] == 4
    assert shrinks_to_the_head(cluster)
