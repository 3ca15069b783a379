"""A label job whose nodes are lost: of three workers two are killed and one is drained, then the one of ledger and driver is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from anchornet.bundle import load_bundle
from anchornet.report.label_counts import label_tables
from jobs.labelling.ledger_actor import ledger_name
from tests import tiny_bundle
from tests.heads import ROOT, Head, Node, head, until
from tests.label_job import LabelJob
from tests.workshop import NUM_BAD, Workshop, build_logging_shop

pytestmark = pytest.mark.ray
NUM_IMAGES = 240
WAIT_S = 420.0


@pytest.fixture(scope="module")
def macs_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "forward.log"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    ray.shutdown()
    return build_logging_shop(tmp_path_factory.mktemp("shop"), NUM_IMAGES)


def environment_of(macs_log: Path) -> dict[str, str]:
    """Of a head and its workers."""
    return {
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        tiny_bundle.LOG_VARIABLE: str(macs_log),
    }


@pytest.fixture
def cluster(shop: Workshop, macs_log: Path) -> Iterator[Head]:
    """A head without work, and the test's own connection to it."""
    environment = environment_of(macs_log)
    with pytest.MonkeyPatch.context() as patch, head(environment, "--num-cpus=0") as started:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(address=started.address, log_to_driver=False)
        yield started
        ray.shutdown()


def node_id(node: Node) -> str | None:
    """Ray's name of the node while it is alive."""
    found = [each["NodeID"] for each in ray.nodes() if each["Alive"] and each["Labels"].get("tests/name") == node.name]
    return found[0] if found else None


def drain(cluster: Head, node: Node) -> None:
    """What a cloud announces before it takes a spot machine away."""
    found = node_id(node)
    assert found is not None
    told = ["-m", "ray.scripts.scripts", "drain-node", f"--address={cluster.address}", f"--node-id={found}"]
    told += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=10"]
    assert cluster.run(*told).wait(60) == 0


def test_every_image_has_one_row_and_the_budget_holds_whatever_nodes_do(
    cluster: Head, shop: Workshop, macs_log: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    asked = [f"run.folder={run}", f"bundle={shop.bundle}", f"input.path={shop.images}", "rows_per_file=8"]
    asked += [f"budget.gflops_per_image={3 * shop.minimum_gflops}", f"cluster.address={cluster.address}"]
    asked += ["pools=[{batch_size: 8, actors: 1, max_actors: 2}, {batch_size: 8, actors: 1, max_actors: 3}]"]
    forward = lambda: macs_log.read_text().count("\n") if macs_log.exists() else 0  # noqa: E731
    with contextlib.ExitStack() as stack, (tmp_path / "said").open("w") as log:
        nodes: list[Node] = []
        while len(nodes) < 3:  # one after the other: raylets of one machine that start together take each other's ports
            nodes.append(stack.enter_context(cluster.node(2)))
            assert until(lambda: node_id(nodes[-1]) is not None, 60)
        told = [word for each in asked for word in ("--set", each)]
        job = cluster.run("-m", "jobs.label", *told, stdout=log, stderr=log)
        after = 6
        for index, how in enumerate(("killed", "killed", "drained")):
            assert until(lambda least=after: forward() >= least or job.poll() is not None, WAIT_S)  # type: ignore[misc]
            assert job.poll() is None, (tmp_path / "said").read_text()[-3000:]
            if how == "drained":
                drain(cluster, nodes[index])
                assert until(lambda least=after: forward() >= least + 2 or job.poll() is not None, WAIT_S)  # type: ignore[misc]
            else:
                [ledger] = [each for each in actors() if each["Name"] == ledger_name(str(run / "ledger.json"))]
                here = ray.get_runtime_context().get_node_id()
                assert ledger["Address"]["NodeID"] == here  # on the head, so no lost node takes it along
            nodes[index].kill()
            nodes.append(stack.enter_context(cluster.node(2)))
            after = forward() + 6
        assert job.wait(WAIT_S) == 0, (tmp_path / "said").read_text()[-3000:]
    report = json.loads((run / "report.json").read_bytes())
    rows = pa.concat_tables(label_tables(str(run / "labels")))
    assert sorted(rows["image_id"].to_pylist()) == list(range(report["images"]))
    assert report["status"] == {"ok": report["images"] - NUM_BAD, "unreadable": NUM_BAD, "failed": 0}
    exits = load_bundle(shop.bundle).cascade().exits
    computed = sum(int(line.split()[0]) for line in macs_log.read_text().splitlines()) * exits[-1].macs
    assert computed + report["status"]["ok"] * exits[0].macs <= report["budget"]["asked_gflops"] * 1e9
    assert report["budget"]["spent_gflops"] <= report["budget"]["asked_gflops"]
    assert report["budget"]["wasted_gflops"] > 0  # what died with the nodes is paid for


def test_the_node_with_the_ledger_and_the_driver_is_lost_and_another_cluster_goes_on(
    shop: Workshop, tmp_path: Path
) -> None:
    job = LabelJob(shop, tmp_path, str(tmp_path / "run"))
    job.num_bad = NUM_BAD
    with head(environment_of(job.macs_log), "--num-cpus=4") as lost:
        process = job.start(f"cluster.address={lost.address}")
        job.until_rows(process)
        process.kill()
        lost.kill()
        assert process.wait(WAIT_S) < 0
    with head(environment_of(job.macs_log), "--num-cpus=4") as another:
        job.finish(f"cluster.address={another.address}")
    assert job.report()["budget"]["wasted_gflops"] > 0  # what died with the workers is paid for


def actors() -> list[dict]:
    """Every actor of the cluster."""
    return [each for each in ray._private.state.actors().values() if each["State"] == "ALIVE"]
