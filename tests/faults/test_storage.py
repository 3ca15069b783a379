"""A label job whose object storage goes away, hangs, is busy or refuses: a real server (Ceph), images and run folder in it.

The server is ``../shared/tools/ceph-rgw.sh`` with Debian's packages ceph-mon, ceph-osd and radosgw; skipped where it does not
start.
"""

from __future__ import annotations

import http.client
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from anchornet.files import storage
from tests import tiny_bundle
from tests.conftest import S3Server
from tests.heads import ROOT, free_port
from tests.label_job import LabelJob
from tests.workshop import Workshop, build_workshop

pytestmark = [pytest.mark.ray, pytest.mark.s3]
OUTAGE_S = 20.0
SCRIPT = Path(os.environ.get("ANCHORNET_CEPH") or ROOT.parent / "shared" / "tools" / "ceph-rgw.sh")


class Ceph:
    """The server's gateway, which can be stopped in several ways."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        said = self.do("start", str(free_port()))
        variables = dict(line.removeprefix("export ").split("=", 1) for line in said.splitlines() if "export " in line)
        self.server = S3Server(variables["AWS_ENDPOINT_URL"], variables)

    def do(self, verb: str, *more: str) -> str:
        """What the script says."""
        command = [str(SCRIPT), verb, str(self.folder), *more]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    if not SCRIPT.exists() or not shutil.which("radosgw"):
        pytest.skip("no Ceph here: ceph-mon, ceph-osd and radosgw from apt, and the script that starts them")
    folder = tmp_path_factory.mktemp("ceph") / "data"
    try:
        started = Ceph(folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"Ceph does not start here: {error.stderr[-500:]}")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in started.server.environment.items():
            patch.setenv(name, value)
        try:
            yield started
        finally:
            started.do("destroy")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    ray.shutdown()
    return build_workshop(tmp_path_factory.mktemp("shop"), architecture=tiny_bundle.LOGGING_ARCHITECTURE)


@pytest.fixture
def job(ceph: Ceph, shop: Workshop, tmp_path: Path) -> LabelJob:
    """42 images in a bucket of their own, labels beside them."""
    bucket = ceph.server.make_bucket()
    for uri in shop.good_uris:
        storage.write_bytes(uri.replace(shop.images, f"{bucket}/images"), Path(uri).read_bytes())
    job = LabelJob(shop, tmp_path, f"{bucket}/run")
    job.images = f"{bucket}/images"
    return job


@pytest.mark.parametrize(("away", "back"), [("kill", "start"), ("pause", "resume")], ids=["killed", "hanging"])
def test_a_gateway_that_is_away_for_twenty_seconds_is_waited_for(
    ceph: Ceph, job: LabelJob, away: str, back: str
) -> None:
    process = job.start()
    job.until_rows(process)
    ceph.do(away)
    try:
        threading.Event().wait(OUTAGE_S)
        assert process.poll() is None, job.text()[-3000:]
    finally:
        ceph.do(back)
    job.wait(process, 0)
    job.check()


def test_a_gateway_that_stays_away_stops_the_job_and_blames_no_image(ceph: Ceph, job: LabelJob) -> None:
    job.environment["AWS_MAX_ATTEMPTS"] = "4"
    process = job.start()
    job.until_rows(process)
    ceph.do("kill")
    try:
        job.wait(process, 3)
    finally:
        ceph.do("start")
    [line] = job.ends()
    assert line.startswith("error: OSError: ") and "AWS Error NETWORK_CONNECTION" in line
    job.finish()  # nothing is failed


def test_credentials_that_are_refused_are_said_at_once(job: LabelJob) -> None:
    job.environment["AWS_SECRET_ACCESS_KEY"] = "wrong"
    job.wait(job.start(), 3)
    [line] = job.ends()
    assert "SignatureDoesNotMatch" in line or "ACCESS_DENIED" in line or "403" in line
    assert "still waiting" not in job.text()


def test_an_object_deleted_between_listing_and_reading_is_a_failed_row(ceph: Ceph, job: LabelJob) -> None:
    first = job.start("budget.gflops_per_image=0.001")  # too little: refused once the images are listed
    job.wait(first, 2)
    gone = storage.list_files(job.images)[5][0]
    storage.delete(gone)
    job.num_failed = 1
    job.finish()
    [reason] = [reason for reason in job.report()["errors"] if "FileNotFoundError" in reason]
    assert gone.removeprefix("s3://") in reason


def test_a_gateway_that_answers_every_third_request_with_503_costs_only_time(ceph: Ceph, job: LabelJob) -> None:
    with Busy(ceph.server.endpoint) as busy:
        job.environment["AWS_ENDPOINT_URL"] = busy.address
        job.finish("input.limit=16")
    assert busy.refused > 20
    assert busy.refused >= busy.asked // 3


class Busy:
    """Passes requests on to a server, and answers every third one by itself: too busy."""

    def __init__(self, endpoint: str) -> None:
        host = endpoint.removeprefix("http://")
        self.asked = self.refused = 0
        lock, busy = threading.Lock(), self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    busy.asked += 1
                    refuse = busy.asked % 3 == 0
                    busy.refused += refuse
                if refuse:
                    content = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>busy</Message></Error>"
                    self._answer(503, [("Content-Type", "application/xml")], content)
                    return
                server = http.client.HTTPConnection(host)
                server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    server.putheader(name, value)
                server.endheaders(body)
                answer = server.getresponse()
                self._answer(answer.status, answer.getheaders(), answer.read())
                server.close()

            def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                kept = [
                    pair
                    for pair in headers
                    if pair[0].lower() not in ("transfer-encoding", "connection", "content-length")
                ]
                length = {name.lower(): value for name, value in headers}.get("content-length", str(len(content)))
                for name, value in (*kept, ("Content-Length", length if self.command == "HEAD" else str(len(content)))):
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request

            def log_message(self, format: str, *arguments: object) -> None:
                """Nobody wants to read it."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Busy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
