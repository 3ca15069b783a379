"""A label job on a cluster that starts with a head alone: nodes, images per second and spend over time, as docs/cluster.md shows.

    python -m benchmarks.autoscaling --folder runs/autoscaling

The cluster is that of tests/faults/test_autoscaling.py: Ray's own autoscaler with the node types of cluster/aws/cluster.yaml, on
nodes that are processes of this machine. Their GPUs are pretended too: a network waits ``WAIT_S`` for each image that it looks at
and uses no processor meanwhile, so that more GPUs are faster on a machine of two cores; images per second say nothing of a real
one. When all nodes are there and part of the work is done, a spot node is killed. Writes ``samples.csv`` and ``summary.json``
into the folder and draws the picture from them; a folder that has them is only drawn again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ray import __version__ as ray_version
from torch import Tensor, nn

from tests.tiny_bundle import TinyClassifier

if TYPE_CHECKING:
    from tests.heads import Head
    from tests.workshop import Workshop

ARCHITECTURE = "benchmarks.autoscaling:waiting_classifier"
WAIT_S = 0.03
MOST = {"decode": 1, "gpu_spot": 3, "gpu_on_demand": 1}
"""The most nodes of each type."""
POOLS = "[{gpus: 1, cpus: 0.25, batch_size: 8}, {gpus: 1, cpus: 0.25, batch_size: 8, max_actors: 3}]"
"""Together an actor for each GPU."""
NUM_GPUS = 4
KILLED_AT = 0.25
"""Of all images, when the node is taken away."""
SAMPLE_S = 1.0
AROUND_S = 8.0
"""Seconds with the head alone that are shown before the job and after the last node."""
SHRINK_S = 240.0
PROGRESS = re.compile(r"labelled ([\d,]+) of [\d,]+ .*charged ([\d,.]+) GFLOPs \([\d.]+ % of ([\d,.]+)\)")
"""In the job's own lines, of which there is one every five seconds."""

Sample: TypeAlias = dict[str, float]
"""Nodes of each type, and what the job last said of itself."""


class WaitingClassifier(TinyClassifier):
    """Takes its time, as on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C)."""
        if len(x) > 1:  # costs are measured on a single row
            time.sleep(WAIT_S * len(x))
        return super().forward(x)


def waiting_classifier(num_classes: int) -> nn.Module:
    """One of them."""
    return WaitingClassifier(num_classes)


def main(argv: Sequence[str] | None = None) -> int:
    """0 when the job ended well and the cluster is a head alone again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where images, bundle, samples and the job's run folder go")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--picture", default="docs/pictures/autoscaling.png")
    arguments = parser.parse_args(argv)
    folder = Path(arguments.folder).absolute()
    if not (folder / "summary.json").exists():
        # Here, as others below: every worker of the job imports this file.
        from tests.workshop import build_workshop, write_images

        os.environ["RAY_AUTH_MODE"] = "disabled"  # for the connection of this process to the head
        shop = build_workshop(folder / "shop", ARCHITECTURE)
        write_images(folder / "shop" / "images", arguments.images, seed=5)
        samples, summary = run(shop, folder, arguments.images)
        with (folder / "samples.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, samples[0].keys())
            writer.writeheader()
            writer.writerows(samples)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    summary = json.loads((folder / "summary.json").read_text())
    with (folder / "samples.csv").open(newline="") as file:
        samples = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    draw(Path(arguments.picture), samples, summary)
    print(json.dumps(summary))
    return int(summary["exit_code"] or not summary["head_alone"])


def run(shop: Workshop, folder: Path, num_images: int) -> tuple[list[Sample], dict[str, Any]]:
    """The job from a head alone to a head alone: samples, and what happened when."""
    from tests.heads import head, pretended
    from tests.unit.cluster.cluster_files import AWS, cluster_of

    environment = {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    with head(environment, "--num-cpus=0", autoscaling=pretended(cluster_of(AWS), MOST)) as cluster:
        watch = Watch(cluster, folder / "said")
        watch.sample_until(lambda now: now["elapsed_s"] > AROUND_S)
        with watch.said.open("w") as log:
            job = cluster.run("-m", "jobs.label", *command(cluster, shop, folder), stdout=log, stderr=log)
            started_s = watch.elapsed_s
        ended = lambda: job.poll() is not None  # noqa: E731
        watch.sample_until(lambda now: ended() or (all_there(now) and now["labelled"] > KILLED_AT * num_images))
        killed_s = None if ended() else watch.elapsed_s
        if killed_s is not None:
            cluster.kill_node(max(node_id for node_id, name in cluster.workers().items() if name == "gpu_spot"))
        watch.sample_until(lambda _: ended())
        ended_s = watch.elapsed_s
        watch.sample_until(lambda now: not num_nodes(now) or now["elapsed_s"] > ended_s + SHRINK_S)
        shrunk_s, head_alone = watch.elapsed_s, not cluster.workers()
        watch.sample_until(lambda now: now["elapsed_s"] > shrunk_s + AROUND_S)
    summary: dict[str, Any] = {"started_s": started_s, "killed_s": killed_s, "ended_s": ended_s, "shrunk_s": shrunk_s}
    summary = {name: at if at is None else round(at, 1) for name, at in summary.items()}
    summary |= {"exit_code": job.returncode, "head_alone": head_alone, "ray": ray_version, "cores": os.cpu_count()}
    if job.returncode == 0:
        report = json.loads((folder / "run" / "report.json").read_text())
        summary |= {name: report[name] for name in ("images", "status", "budget")}
    return watch.samples, summary


def command(cluster: Head, shop: Workshop, folder: Path) -> list[str]:
    """Arguments of the job; a task that decodes finds room on a decode node alone."""
    told = [f"run.folder={folder}/run", f"bundle={shop.bundle}", f"input.path={shop.images}", "rows_per_file=16"]
    told += [f"budget.gflops_per_image={shop.middle_gflops}", "input.decode_cpus=1", "inference.device=cpu"]
    told += [
        f"cluster.address={cluster.address}",
        f"cluster.max_gpus={NUM_GPUS}",
        "cluster.max_cpus=8",
        f"pools={POOLS}",
    ]
    return [word for each in told for word in ("--set", each)]


def num_nodes(sample: Sample) -> float:
    """Worker nodes of all types."""
    return sum(sample[name] for name in MOST)


def all_there(sample: Sample) -> bool:
    """Whether there are as many nodes of each type as there may be."""
    return all(sample[name] == most for name, most in MOST.items())


class Watch:
    """Looks at a cluster and at what the job in it says, every second."""

    def __init__(self, cluster: Head, said: Path) -> None:
        self.said = said
        self.samples: list[Sample] = []
        self._cluster = cluster
        self._begin = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first look."""
        return time.perf_counter() - self._begin

    def sample_until(self, enough: Callable[[Sample], bool]) -> None:
        """Sample until one is enough."""
        while True:
            types = Counter(self._cluster.workers().values())
            lines = PROGRESS.findall(self.said.read_text()) if self.said.exists() else []
            said = [float(number.replace(",", "")) for number in (lines or [("0", "0", "nan")])[-1]]
            self.samples.append(
                {
                    "elapsed_s": round(self.elapsed_s, 2),
                    **{name: float(types[name]) for name in MOST},
                    **dict(zip(("labelled", "charged_gflops", "asked_gflops"), said, strict=True)),
                }
            )
            if enough(self.samples[-1]):
                return
            time.sleep(SAMPLE_S)


def draw(path: Path, samples: Sequence[Sample], summary: Mapping[str, Any]) -> None:
    """Three panels over the same seconds: nodes by type, images per second, and what was charged of the budget."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(3, 1, figsize=(7, 6.5), sharex=True, height_ratios=[1.2, 1, 1])
    nodes, rate, spend = panels
    seconds = [each["elapsed_s"] - summary["started_s"] for each in samples]
    nodes.stackplot(seconds, [[each[name] for each in samples] for name in MOST], labels=list(MOST), step="post")
    nodes.set(ylabel="worker nodes", ylim=(0, sum(MOST.values()) + 1.5))
    nodes.legend(loc="upper left", fontsize="small", ncols=3)
    said = [now for before, now in itertools.pairwise(samples) if now["charged_gflops"] != before["charged_gflops"]]
    said_at = [each["elapsed_s"] - summary["started_s"] for each in said]
    middles = [(before + now) / 2 for before, now in itertools.pairwise(said_at)]
    rates = [
        (now["labelled"] - before["labelled"]) / (now["elapsed_s"] - before["elapsed_s"])
        for before, now in itertools.pairwise(said)
    ]
    rate.plot(middles, rates, marker=".")
    rate.set(ylabel="images/s", ylim=(0, None))
    spend.plot(said_at, [each["charged_gflops"] for each in said], marker=".", label="charged")
    spend.axhline(said[-1]["asked_gflops"], color="black", label="budget")
    spend.set(ylabel="GFLOPs", xlabel="seconds since the job was started", ylim=(0, None))
    spend.legend(loc="center left", fontsize="small")
    for name, colour in (("started_s", "grey"), ("killed_s", "red"), ("ended_s", "grey")):
        for panel in panels if summary[name] is not None else ():
            panel.axvline(summary[name] - summary["started_s"], color=colour, linestyle="--")
    for panel in panels:
        panel.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
