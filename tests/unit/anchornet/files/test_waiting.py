"""Storage that lets somebody wait is named meanwhile, and a bucket that does not exist is said to be none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from anchornet.files import storage, waiting

CALLS: list[Callable[[str], object]] = [
    storage.exists,
    storage.list_files,
    storage.list_visible,
    storage.require_bucket,
    lambda uri: storage.write_bytes(uri, b"x"),
]


@pytest.mark.s3
@pytest.mark.parametrize("call", CALLS)
def test_a_bucket_that_does_not_exist_is_said(s3_bucket: str, call: Callable[[str], object]) -> None:
    missing = s3_bucket + "-not"
    message = rf"bucket '{missing[5:]}' of {missing}/deep/er does not exist; correct the name, or make it: jobs create objects"
    with pytest.raises(ValueError, match=message):
        call(missing + "/deep/er")


@pytest.mark.s3
def test_what_is_not_there_in_a_bucket_that_is_stays_what_it_was(s3_bucket: str) -> None:
    storage.require_bucket(s3_bucket + "/deep")
    assert not storage.exists(s3_bucket + "/deep/er")
    for call in (storage.list_files, storage.list_visible, storage.read_bytes):
        with pytest.raises(FileNotFoundError):
            call(s3_bucket + "/deep/er")
    assert storage.list_visible(s3_bucket) == []


class Server(ThreadingHTTPServer):
    """Answers every request with a status, once it may."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        self.status, self.may_answer, self.asked = status, threading.Event(), list[str]()
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.server.asked.append(self.path)
        self.server.may_answer.wait()
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Server]]:
    """A server that the environment names, by the status of its answers."""
    servers = []

    def start(status: int) -> Server:
        servers.append(Server(status))
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{servers[-1].server_port}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        return servers[-1]

    yield start
    for server in servers:
        server.may_answer.set()
        server.shutdown()


def test_who_may_not_ask_for_a_bucket_is_left_to_what_the_object_says(server_of: Callable[[int], Server]) -> None:
    server = server_of(403)
    server.may_answer.set()
    storage.require_bucket("s3://closed/x")
    storage.require_bucket("s3://closed/y")
    assert len({path.split("?")[0] for path in server.asked}) == 1


class Answer(logging.Handler):
    """Lets a server answer once a warning was written."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__(logging.WARNING)
        self.event = event

    def emit(self, record: logging.LogRecord) -> None:
        self.event.set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is told at once, and nobody was before."""
    monkeypatch.setattr(waiting, "FIRST_S", 0.01)
    monkeypatch.setitem(waiting._told, "at", -waiting.AGAIN_S)


@pytest.mark.parametrize(
    "call",
    [storage.exists, storage.list_visible, storage.list_files, storage.require_bucket],
    ids=lambda call: call.__name__,
)
def test_a_storage_that_does_not_answer_is_named_while_it_is_waited_for(
    server_of: Callable[[int], Server], quick: None, caplog: pytest.LogCaptureFixture, call: Callable[[str], object]
) -> None:
    server = server_of(404)
    told, root = Answer(server.may_answer), logging.getLogger()
    root.addHandler(told)  # behind caplog's; without a warning the server never answers, and this test never ends
    try:
        with pytest.raises(ValueError, match="bucket 'slow' of s3://slow/data does not exist"):
            call("s3://slow/data")
    finally:
        root.removeHandler(told)
    assert (
        "still waiting for s3://slow/data after 0 s, and trying again; if the storage does not answer, look at AWS_E"
        in (caplog.text)
    )
    assert f"AWS_ENDPOINT_URL, http://127.0.0.1:{server.server_port} (docs/s3.md)" in caplog.text


def test_of_many_that_wait_one_says_it(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    told, root = Answer(threading.Event()), logging.getLogger()
    root.addHandler(told)  # behind caplog's, which has the message by the time this one is told
    try:
        with waiting.said_while_waiting("s3://a/1"), waiting.said_while_waiting("s3://a/2"):
            told.event.wait()
    finally:
        root.removeHandler(told)
    assert len(caplog.messages) == 1


def test_the_first_word_comes_within_ten_seconds() -> None:
    assert 0 < waiting.FIRST_S < 10 < waiting.AGAIN_S


@pytest.mark.parametrize(
    ("uri", "remote"),
    [("s3://a/b", True), ("S3://a", True), ("gs://a", True), ("/a/b", False), ("a:b", False), ("file:///a", False)],
)
def test_only_what_lies_behind_a_network_is_watched(uri: str, remote: bool) -> None:
    assert waiting._is_remote(uri) is remote


def test_without_an_endpoint_the_warning_says_who_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert waiting._where("s3://a") == "AWS_ENDPOINT_URL, which is not set, so Amazon's S3 is asked"
    assert waiting._where("gs://a") == "the network and its credentials"
