"""Memory and seconds of a label job over ten million images: listing, manifest, plan, resume, first batches.

    python -m benchmarks.ten_million --images 10000000 --folder runs/ten-million [--tree /path/to/another/checkout]

The images are objects ``images/FFFFF/NNNNNNNN.jpg`` of a server in a process of its own that speaks as much of S3 as the job
asks for: it makes up answers to listings, 1,000 keys each, and gives one of a few photographs for any key. So what is measured
is the job's own path (boto3 in threads, spool, permutation, manifest), without the time that a real storage takes. One JSON
line per step:

* ``manifest``: ``open_manifest`` of ``s3://bucket/images`` in a fresh process, once for each ``--tree`` and for this one;
  ``again``: the same in a folder where the manifest lies already;
* ``label``: all but ``--left`` of the manifest's images are written down as finished, as a label run leaves them in its
  checkpoint; then ``jobs.label`` with tiny networks on a local Ray, until its first file of labels lies there, and SIGTERM.
  ``plan_s``, ``labels_s``: seconds since its start until it said its plan, and until those labels.

``peak_mb`` is the largest resident memory (VmHWM of /proc, Linux; 1e6 bytes) of the process; ``workers_mb`` of each kind of
process below the job, the object store's shared pages that it touched included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow.parquet as pq

from anchornet.budget.frontier import fit_frontier
from anchornet.bundle import assemble_bundle, write_calibration
from anchornet.data.manifest import manifest_files
from anchornet.ledger.ledger import FileMark
from anchornet.ledger.mark import MarkState
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.units import GIGA
from jobs.shell.run_folder import RunFolder
from tests.small_images import encode
from tests.tiny_bundle import made_up_table, save_tiny_models

FOLDER_IMAGES = 10_000
"""Images of each folder of the bucket."""
IDS_PER_FILE = 4096
"""Of the files of finished ids, as many as label jobs write where they are small."""
PHOTOGRAPHS = 8
GFLOPS_PER_IMAGE = 0.2
POLL_S = 0.2
GIVE_UP_S = 540.0
INPUT = "s3://bucket/images"
MANIFEST = """
import json, re, sys, time
from anchornet.data.inputs import InputSettings
from anchornet.data.manifest import open_manifest
def peak_mb():  # not ru_maxrss, which a process inherits from the one that started it
    return round(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1.024e-3)
before, started, used = peak_mb(), time.perf_counter(), time.process_time()
images = open_manifest(sys.argv[2], InputSettings(path=sys.argv[1]), 0)
seconds, used = time.perf_counter() - started, time.process_time() - used
print(json.dumps({"images": images, "seconds": round(seconds, 1), "cpu_s": round(used, 1), "imports_mb": before,
                  "peak_mb": peak_mb()}))
"""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    images = 0
    photographs: Sequence[bytes] = ()

    def do_GET(self) -> None:
        """A listing, or an object."""
        url = urlsplit(self.path)
        if "list-type=2" in url.query:
            question = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
            self._answer(200, self._listing(question).encode())
        else:
            self._object(unquote(url.path))

    def do_HEAD(self) -> None:
        """A bucket or an object."""
        path = unquote(urlsplit(self.path).path)
        if path.strip("/").count("/") == 0:
            self._answer(200, b"")
        else:
            self._object(path)

    def _object(self, path: str) -> None:
        found = re.search(r"/(\d+)\.jpg$", path)
        if found is None:
            self._answer(404, b"")
            return
        content = self.photographs[int(found[1]) % len(self.photographs)]
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part:
            start, stop = int(part[1]), min(int(part[2]) + 1, len(content))
            span = ("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            self._answer(206, content[start:stop], span)
        else:
            self._answer(200, content)

    def _answer(self, status: int, content: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(len(content))), ("ETag", '"0"'), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _listing(self, question: dict[str, str]) -> str:
        size, most = FOLDER_IMAGES, int(question.get("max-keys", 1000))
        if question.get("delimiter") == "/":
            folders = [] if question["prefix"] != "images/" else range(min(most, -(-self.images // size)))
            inner = "".join(f"<CommonPrefixes><Prefix>images/{k:05d}/</Prefix></CommonPrefixes>" for k in folders)
            return _listing_xml(inner, more=False)
        after = re.match(r"images/(\d+)/(?:(\d+))?", question.get("start-after", ""))
        first = 0 if after is None else int(after[2]) + 1 if after[2] else int(after[1]) * size
        stop = min(first + most, self.images)
        inner = "".join(
            f"<Contents><Key>images/{k // size:05d}/{k:08d}.jpg</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;0&quot;</ETag><Size>9</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for k in range(first, stop)
        )
        return _listing_xml(inner, more=stop < self.images)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _listing_xml(inner: str, more: bool) -> str:
    return (
        f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>'
        f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>{inner}</ListBucketResult>"
    )


def serve(images: int, answer: Connection) -> None:
    """Answer requests for ``images`` objects for as long as the process lives; says its port."""
    _Handler.images = images
    _Handler.photographs = [encode(k) for k in range(PHOTOGRAPHS)]
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    answer.send(server.server_port)
    server.serve_forever()


def manifest_step(tree: str, run: str) -> dict[str, Any]:
    """What making (or opening) the manifest of ``run`` takes, by the code of ``tree``."""
    command = [sys.executable, "-c", MANIFEST, INPUT, RunFolder(run).manifest]
    environment = os.environ | {"PYTHONPATH": tree}
    done = subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def write_finished(run: RunFolder, left: int, images: int) -> int:
    """Write down all but ``left`` images of the manifest as finished, and their spend; how many those are."""
    Path(run.finished_ids).mkdir(parents=True)
    done = 0
    for uri in manifest_files(run.manifest):
        ids = pq.read_table(uri, columns=["image_id"])
        ids = ids.slice(0, max(0, images - left - done))
        for start in range(0, len(ids), IDS_PER_FILE):
            part = ids.slice(start, IDS_PER_FILE)
            pq.write_table(part, f"{run.finished_ids}/{done + start:010d}.parquet")
        done += len(ids)
    spent = round(done * GFLOPS_PER_IMAGE * GIGA)
    FileMark(run.mark).write(MarkState(authorised_macs=spent).to_bytes())
    return done


def label_step(folder: Path, run: RunFolder) -> dict[str, Any]:
    """Run the label job until its first labels lie there."""
    told = [f"run.folder={run.uri}", f"bundle={folder}/bundle", f"input.path={INPUT}"]
    told += [f"budget.gflops_per_image={GFLOPS_PER_IMAGE}", "rows_per_file=256"]
    log = folder / "label.log"
    started, plan_s, workers = time.perf_counter(), 0.0, dict[str, float]()
    with log.open("wb") as out:
        command = [sys.executable, "-m", "jobs.label", *(part for value in told for part in ("--set", value))]
        job = subprocess.Popen(command, stdout=out, stderr=out)
        while job.poll() is None and (waited := time.perf_counter() - started) < GIVE_UP_S:
            time.sleep(POLL_S)
            plan_s = plan_s or (waited if b"\nplan " in log.read_bytes() else 0.0)
            driver = peak_mb(job.pid)
            for pid in below(job.pid):
                if name := worker_name(pid):
                    workers[name] = max(workers.get(name, 0.0), peak_mb(pid))
            if list(Path(run.labels).glob("*.parquet")):
                break
        labels_s = time.perf_counter() - started
        job.send_signal(signal.SIGTERM)
        code = job.wait()
    seconds = {"plan_s": round(plan_s, 1), "labels_s": round(labels_s, 1)}
    return {**seconds, "exit_code": code, "peak_mb": driver, "workers_mb": dict(sorted(workers.items()))}


def peak_mb(pid: int) -> float:
    """Largest resident memory so far, 1e6 bytes; 0 when the process is gone."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return round(int(found[1]) * 1.024e-3) if found else 0.0


def below(pid: int) -> list[int]:
    """The processes below ``pid``, theirs included."""
    try:
        tasks = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    children = [int(child) for task in tasks for child in task]
    return [*children, *(each for child in children for each in below(child))]


def worker_name(pid: int) -> str:
    """What a Ray worker is doing, empty for other processes."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""
    return title.partition(").")[0].removeprefix("ray::") if title.startswith("ray::") else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--left", type=int, default=100_000, help="images that are not finished")
    parser.add_argument("--folder", default="runs/ten-million")
    parser.add_argument("--tree", action="append", default=[], help="another checkout, for the step manifest")
    options = parser.parse_args(argv)
    folder = Path(options.folder).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    processes = multiprocessing.get_context("spawn")
    mine, its = processes.Pipe()
    server = processes.Process(target=serve, args=(options.images, its), daemon=True)
    server.start()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{mine.recv()}", "AWS_EC2_METADATA_DISABLED": "true"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtest", "AWS_REGION": "us-east-1"}
    try:
        for number, tree in enumerate(options.tree):
            say("manifest", tree=tree, **manifest_step(tree, f"{folder}/run{number}"))
            shutil.rmtree(f"{folder}/run{number}")
        run = RunFolder(f"{folder}/run")
        say("manifest", **manifest_step(os.getcwd(), run.uri))
        say("again", **manifest_step(os.getcwd(), run.uri))
        models = save_tiny_models(str(folder / "models"))
        table = made_up_table()
        assemble_bundle(str(folder / "bundle"), models, AnchorNetSettings())
        write_calibration(str(folder / "bundle"), table, fit_frontier(table))
        finished = write_finished(run, options.left, options.images)
        say("label", finished=finished, **label_step(folder, run))
    finally:
        server.terminate()
        server.join()
    return 0


def say(step: str, **found: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps({"step": step, **found}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
