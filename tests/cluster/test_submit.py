"""Jobs through ``cluster.submit`` on a real head with a token: logs, exit codes, streams that break, Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from anchornet.report.label_counts import count_labels
from cluster.submit import entrypoint_of
from tests.heads import ROOT, Head, free_port, head, until
from tests.small_images import write_folders
from tests.workshop import Workshop, build_workshop

pytestmark = pytest.mark.ray
TOKEN = "0123456789abcdef" * 4
WAIT_S = 300.0
TRAIN = ("recipe.kind=classifier", "recipe.architecture=tests.tiny_bundle:tiny_classifier", "crop.size=96")
TRAIN += ("recipe.training.batch_size=8", "workers.count=0", "image_size=96")
NUM_PHOTOGRAPHS = 40


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return build_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def cluster(shop: Workshop) -> Iterator[Head]:
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-laptop",
    }
    ray.shutdown()
    with head(environment, "--num-cpus=4", job_server=True) as started:
        yield started


def submit(cluster: Head, folder: Path, *words: str, address: str | None = None) -> tuple[int, str]:
    """Exit code and everything that was said."""
    said = folder / "said"
    with said.open("w") as log:
        command = ("-m", "cluster.submit", *words, "--address", address or cluster.dashboard)
        code = cluster.run(*command, stdout=log, stderr=log).wait(timeout=WAIT_S)
    return code, said.read_text()


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def training(folder: Path, epochs: int) -> list[str]:
    data = write_folders(str(folder / "images"), 24)
    return settings(f"run.folder={folder}/run", f"data.path={data}", f"recipe.training.epochs={epochs}", *TRAIN)


def test_half_a_label_job_of_photographs_whose_log_is_cut_again_and_again(
    cluster: Head, shop: Workshop, shared_data: Path, tmp_path: Path
) -> None:
    proxy = Proxy(int(cluster.dashboard.rpartition(":")[2]), answers_to_lose=1)
    stop, said_so_far = threading.Event(), tmp_path / "said"

    def cut_now_and_then() -> None:
        while not stop.wait(4.0):
            if said_so_far.exists() and "submitted label-" in said_so_far.read_text():
                proxy.cut()

    thread = threading.Thread(target=cut_now_and_then)
    thread.start()
    asked = [f"run.folder={tmp_path}/run", f"bundle={shop.bundle}", f"input.path={shared_data}/grocery-store/test"]
    asked += [f"input.limit={2 * NUM_PHOTOGRAPHS}", f"budget.gflops_per_image={shop.middle_gflops}"]
    try:
        code, said = submit(cluster, tmp_path, "label", "--shard", "2/2", *settings(*asked), address=proxy.address)
    finally:
        stop.set()
        thread.join()
        proxy.close()
    assert code == 0, said[-3000:]
    assert proxy.cuts >= 2 and proxy.connections > 4
    assert (proxy.answers_to_lose, said.count("submitted label-")) == (0, 1)  # what had arrived is not sent again
    assert said.count(f"images   {NUM_PHOTOGRAPHS}, of which 0 are labelled already") == 1  # no line is lost or doubled
    assert said.count(f"{NUM_PHOTOGRAPHS} images: {NUM_PHOTOGRAPHS} ok") == 1
    counts = count_labels(f"{tmp_path}/run/labels", NUM_PHOTOGRAPHS)
    assert (counts.rows, counts.missing, counts.repeated) == (NUM_PHOTOGRAPHS, 0, 0)
    budget = json.loads((tmp_path / "run" / "report.json").read_text())["budget"]
    assert budget["spent_gflops"] <= budget["asked_gflops"] == pytest.approx(shop.middle_gflops * NUM_PHOTOGRAPHS)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    if (ROOT / ".git").exists():
        assert len(provenance["commit"].removesuffix("+changes")) == 40
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.suffix != ".parquet"]
    everything = said + "".join(path.read_text(errors="replace") for path in written)
    assert TOKEN not in everything and "a-secret-of-the-laptop" not in everything


def test_a_refused_configuration_is_code_2_as_here(cluster: Head, tmp_path: Path) -> None:
    wrong = ("run.folder=x", "bundle=b", "input.path=i", "budget.gflops_per_image=-1")
    code, said = submit(cluster, tmp_path, "label", *settings(*wrong))
    assert code == 2, said[-3000:]
    assert said.count("error: ") == said.count("budget.gflops_per_image must be") == 1


def test_ctrl_c_leaves_the_job_and_stop_ends_it_as_sigterm_does(cluster: Head, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("w") as log:
        words = ["-m", "cluster.submit", "train", *training(tmp_path, epochs=2000), "--address", cluster.dashboard]
        # Whoever runs the tests in the background has SIGINT ignored, and so would this process.
        process = cluster.run(
            *words, stdout=log, stderr=log, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
        )
        assert until(lambda: "epoch=1 " in said.read_text() or process.poll() is not None, WAIT_S)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, said.read_text()[-3000:]
    [line] = [line for line in said.read_text().splitlines() if line.startswith("the job goes on; ")]
    identifier = line.split("follow ")[1].split()[0]
    following = tmp_path / "following"
    with following.open("w") as log:
        words = ["-m", "cluster.submit", "follow", identifier, "--address", cluster.dashboard]
        follower = cluster.run(*words, stdout=log, stderr=log)
        assert until(lambda: "epoch=1 " in following.read_text() or follower.poll() is not None, WAIT_S)
        code, _ = submit(cluster, tmp_path, "stop", identifier)
        assert code == 0
        assert follower.wait(timeout=60) == 143, following.read_text()[-3000:]
    assert following.read_text().count("ended by SIGTERM; run the same command again to go on") == 1


def test_without_the_token_it_is_one_line(cluster: Head, tmp_path: Path) -> None:
    wrong = {**cluster.environment, "RAY_AUTH_TOKEN": "f" * 64}
    code, said = submit(
        Head(cluster.address, cluster.dashboard, cluster.folder, wrong), tmp_path, "label", *settings("run.folder=x")
    )
    assert code == 3
    assert "wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in said
    assert len(said.splitlines()) == 1


def test_nobody_at_the_address_is_one_line(cluster: Head, tmp_path: Path) -> None:
    code, said = submit(cluster, tmp_path, "label", address=f"http://127.0.0.1:{free_port()}")
    assert code == 3
    assert said.startswith("error: ") and len(said.splitlines()) == 1


def test_a_configuration_that_would_not_be_there_is_refused_here(tmp_path: Path) -> None:
    outside = tmp_path / "label.yaml"
    with pytest.raises(ValueError, match="does not exist; correct the path"):
        entrypoint_of("label", str(outside), [])
    outside.write_text("")
    with pytest.raises(ValueError, match="lies outside the checkout, which is what is sent; move it, or give s3://"):
        entrypoint_of("label", str(outside), [])
    inside = str(ROOT / "jobs" / "configs" / "label.yaml")
    assert entrypoint_of("label", inside, ["input.path=s3://b/with space"], ["--dry-run"]) == (
        "python -m jobs.label --config jobs/configs/label.yaml --set 'input.path=s3://b/with space' --dry-run"
    )
    assert entrypoint_of("train", "s3://b/c.yaml", []) == "python -m jobs.train --config s3://b/c.yaml"


class Proxy:
    """Passes connections on to a port, and cuts them all when told to; the first answers to a new job are lost."""

    def __init__(self, port: int, answers_to_lose: int = 0) -> None:
        self._target, self.answers_to_lose = port, answers_to_lose
        self._lost: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.connections = self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.cuts += 1
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._server.accept()
                there = socket.create_connection(("127.0.0.1", self._target))
                self._open += [here, there]
                self.connections += 1
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                if self.answers_to_lose and content.startswith(b"POST /api/jobs/ "):
                    self.answers_to_lose -= 1
                    self._lost.add(target)
                if source in self._lost:
                    target.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)
