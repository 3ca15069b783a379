"""A cluster that is gone is said within a minute, with its address and where that came from."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from jobs.resources import cluster_address as module
from jobs.resources.cluster_address import ClusterAddress, check_answers, cluster_address
from jobs.settings.common import ClusterSettings

SETTINGS_FRAME = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0]) + bytes(6)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RAY_ADDRESS", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


class Server:
    """Listens on a port of this machine and says one thing to whoever connects, as soon as he has said something."""

    def __init__(self, answer: bytes) -> None:
        self.heard = b""
        self.socket = socket.create_server(("0.0.0.0", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, args=(answer,), daemon=True).start()

    def _serve(self, answer: bytes) -> None:
        connection, _ = self.socket.accept()
        with connection:
            self.heard = connection.recv(1000)
            connection.sendall(answer)


@pytest.fixture
def dead() -> Iterator[str]:
    """An address at which nobody listens: the port is taken, so nobody else gets it meanwhile."""
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("given", "said", "address", "origin"),
    [
        ("head:6379", None, "head:6379", "cluster.address"),
        ("head:6379", "other:1", "head:6379", "cluster.address"),
        (None, "other:1", "other:1", "the environment variable RAY_ADDRESS"),
        ("auto", "other:1", "other:1", "the environment variable RAY_ADDRESS"),
        ("auto", None, "auto", "cluster.address"),
        ("auto", "auto", "auto", "cluster.address"),
    ],
)
def test_an_address_comes_with_where_it_was_given(
    environment: pytest.MonkeyPatch, given: str | None, said: str | None, address: str, origin: str
) -> None:
    if said:
        environment.setenv("RAY_ADDRESS", said)
    assert cluster_address(ClusterSettings(address=given)) == ClusterAddress(address, origin)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "ray://head:10001",
            "Ray Client (ray://) is not supported; run the job on a machine of the cluster with host:6379",
        ),
        (
            "http://127.0.0.1:8265",
            "which is a dashboard's address as ray job submit takes it; give the head's host:6379",
        ),
        ("head", "must be auto or host:port (often host:6379), got 'head'; leave it out for a Ray here"),
        ("head:", "must be auto or host:port (often host:6379), got 'head:'"),
        (":6379", "must be auto or host:port (often host:6379), got ':6379'"),
        ("head:port", "must be auto or host:port (often host:6379), got 'head:port'"),
        ("head:70000", "must be auto or host:port (often host:6379), got 'head:70000'"),
        ("local", "must be auto or host:port (often host:6379), got 'local'; leave it out for a Ray here"),
    ],
)
def test_an_address_that_is_none_is_refused_where_it_is_set(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^cluster.address .*{re.escape(message)}"):
        ClusterSettings(address=address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "Ray Client (ray://) is not supported; run the job on a machine of the cluster"),
        ("https://head", "which is a dashboard's address as ray job submit takes it; give the head's host:6379"),
        ("head", "must be auto or host:port (often host:6379), got 'head'; leave it out for a Ray here"),
    ],
)
def test_so_is_one_of_the_environment(environment: pytest.MonkeyPatch, address: str, message: str) -> None:
    environment.setenv("RAY_ADDRESS", address)
    cluster = ClusterSettings(address="auto")
    assert not cluster.is_local
    with pytest.raises(ValueError, match=f"^the environment variable RAY_ADDRESS .*{re.escape(message)}"):
        cluster_address(cluster)


@pytest.mark.parametrize(("said", "local"), [("", True), ("local", True), ("auto", False), ("head:6379", False)])
def test_a_job_is_local_unless_a_cluster_is_named(environment: pytest.MonkeyPatch, said: str, local: bool) -> None:
    environment.setenv("RAY_ADDRESS", said)
    assert ClusterSettings().is_local is local


def test_what_answers_like_a_ray_is_joined() -> None:
    server = Server(SETTINGS_FRAME)
    check_answers(ClusterAddress(server.address, "cluster.address"), 0)
    assert server.heard.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


def test_a_server_of_grpc_answers_like_a_ray() -> None:
    """What Ray's head is built on, which Ray brings along."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    try:
        check_answers(ClusterAddress(f"127.0.0.1:{port}", "cluster.address"), 0)
    finally:
        server.stop(None)


@pytest.mark.parametrize("origin", ["cluster.address", "the environment variable RAY_ADDRESS"])
def test_a_cluster_that_is_gone_is_said_with_its_address_and_where_that_came_from(dead: str, origin: str) -> None:
    port = dead.rpartition(":")[2]
    message = rf"^no Ray answers at \S+:{port} \(from {origin}\): .*refused.*; start the cluster, correct the address, or leave"
    with pytest.raises(ValueError, match=message):
        check_answers(ClusterAddress(dead, origin), 0)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"short"])
def test_what_is_no_ray_is_not_waited_for(answer: bytes) -> None:
    server = Server(answer)
    with pytest.raises(ValueError, match=r"no Ray answers at .*: what listens there is no Ray; start"):
        check_answers(ClusterAddress(server.address, "cluster.address"), 0)


def test_what_says_nothing_at_all_is_given_up(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(module, "_ANSWER_S", 0.05)
    silent = socket.create_server(("0.0.0.0", 0))
    with silent, pytest.raises(ValueError, match=r"no Ray answers at .*: timed out; start the cluster"):
        check_answers(ClusterAddress(f"127.0.0.1:{silent.getsockname()[1]}", "cluster.address"), 0)


def test_a_cluster_that_is_starting_is_tried_again(environment: pytest.MonkeyPatch, dead: str) -> None:
    tries = []
    environment.setattr(
        module, "_silence", lambda address: tries.append(address) or ("" if len(tries) == 3 else "refused")
    )
    environment.setattr(module, "_PAUSE_S", 0.0)
    check_answers(ClusterAddress(dead, "cluster.address"), 3600.0)
    assert len(tries) == 3


def test_with_encryption_it_is_enough_that_somebody_listens(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RAY_USE_TLS", "1")
    check_answers(ClusterAddress(Server(b"").address, "cluster.address"), 0)


def test_the_longest_wait_is_less_than_a_minute() -> None:
    assert module.PATIENCE_S + module._CONNECT_S + module._ANSWER_S + module._PAUSE_S < 60


def test_a_machine_without_a_ray_is_said(environment: pytest.MonkeyPatch) -> None:
    from ray._private import services

    def nothing(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance")

    environment.setattr(services, "canonicalize_bootstrap_address", nothing)
    message = "cluster.address is auto, and no Ray runs on this machine; start one with ray start, or leave"
    with pytest.raises(ValueError, match=message):
        check_answers(ClusterAddress("auto", "cluster.address"), 0)
