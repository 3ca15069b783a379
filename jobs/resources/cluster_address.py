"""Where the cluster is that a job joins, who said so, and whether anything answers there.

Ray itself waits for minutes for a cluster that is gone, and says neither the address nor where it has it from.
"""

from __future__ import annotations

import os
import socket
import time
from typing import NamedTuple

from jobs.settings.common import AUTO, ClusterSettings, check_address

RAY_ADDRESS = "RAY_ADDRESS"
PATIENCE_S = 20.0
"""Seconds for which a cluster that does not answer is tried again: it may be starting."""
_CONNECT_S, _ANSWER_S, _PAUSE_S = 10.0, 10.0, 0.5
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client of gRPC, which Ray's head speaks, says first: the preface of HTTP/2 and empty settings (RFC 9113, 3.4)."""
_HEADER_BYTES, _TYPE_AT, _SETTINGS = 9, 3, 4
"""A server's first answer is a frame of settings, which its header says."""


class ClusterAddress(NamedTuple):
    """A cluster to join."""

    address: str
    """``host:port``, or ``auto``."""
    origin: str
    """Where it was given."""


def cluster_address(cluster: ClusterSettings) -> ClusterAddress:
    """The address that the job was given. Raises ValueError for one that this project does not join."""
    if cluster.address and cluster.address != AUTO:
        return ClusterAddress(cluster.address, "cluster.address")
    said = os.environ.get(RAY_ADDRESS)
    if said and said != AUTO:
        origin = f"the environment variable {RAY_ADDRESS}"
        check_address(said, origin)
        return ClusterAddress(said, origin)
    return ClusterAddress(AUTO, "cluster.address")


def check_answers(where: ClusterAddress, patience_s: float = PATIENCE_S) -> None:
    """Returns once a Ray answers at ``where``; raises ValueError with the address, its origin and the reason if none does."""
    address = _resolved(where)
    deadline = time.monotonic() + patience_s
    while reason := _silence(address):
        if time.monotonic() >= deadline:
            raise ValueError(
                f"no Ray answers at {address} (from {where.origin}): {reason}; start the cluster, correct the address, or leave "
                f"it out to run on this machine alone"
            )
        time.sleep(_PAUSE_S)


def _resolved(where: ClusterAddress) -> str:
    """``host:port`` as Ray reads an address: ``auto`` is the Ray on this machine, 127.0.0.1 the machine's address in its
    network."""
    from ray._private import services  # Ray has no public way to ask

    try:
        found: str | None = services.canonicalize_bootstrap_address(where.address)
    except ConnectionError:
        found = None
    if not found:
        raise ValueError(
            f"{where.origin} is {where.address}, and no Ray runs on this machine; start one with ray start, or leave "
            f"cluster.address out"
        )
    return found


def _silence(address: str) -> str:
    """Why nothing that could be a Ray answers at ``address``; empty when something does."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return ""  # its answer would be encrypted
            connection.settimeout(_ANSWER_S)
            connection.sendall(_HELLO)
            answer = b""
            while len(answer) < _HEADER_BYTES and (part := connection.recv(_HEADER_BYTES - len(answer))):
                answer += part
    except OSError as error:
        return str(error) or type(error).__name__
    is_grpc = len(answer) == _HEADER_BYTES and answer[_TYPE_AT] == _SETTINGS
    return "" if is_grpc else "what listens there is no Ray"
