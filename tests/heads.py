"""Ray heads as real processes of their own, with or without the real autoscaler on pretended nodes."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
START_S = 120.0
_POLL_S = 0.2
_HOSTS = itertools.count(2)


@dataclass(frozen=True)
class Node:
    """A running worker node."""

    name: str
    """Its label ``tests/name``."""
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """SIGKILL to everything that runs there, as when a machine is taken away."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            for each in (*root.children(recursive=True), root):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.wait()


@dataclass(frozen=True)
class Head:
    """A running head."""

    address: str
    dashboard: str
    """URL of the job server; nobody listens there unless the head was started with one."""
    folder: Path
    environment: Mapping[str, str]

    def run(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """A command of this checkout, as somebody on the head would start it."""
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **self.environment, "RAY_ADDRESS": self.address},
            text=True,
            **options,
        )

    @contextlib.contextmanager
    def node(self, num_cpus: int) -> Iterator[Node]:
        """A worker node more, with processes and an address of its own; gone at the end if it is not gone before.

        Of nodes with one address Ray gives a driver any, and the driver would die with it.
        """
        python = self.folder / "environment" / "bin" / Path(sys.executable).name
        command = [str(python), "-m", "ray.scripts.scripts", "start", f"--address={self.address}", "--block"]
        name = uuid.uuid4().hex
        command += [
            f"--node-ip-address=127.0.0.{next(_HOSTS)}",
            f"--num-cpus={num_cpus}",
            "--object-store-memory=200000000",
            f"--labels=tests/name={name}",
        ]
        with (self.folder / f"node-{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=ROOT,
            )
        node = Node(name, process)
        try:
            yield node
        finally:
            node.kill()

    def processes(self) -> Iterator[psutil.Process]:
        """Everything that belongs to this Ray: its folder is in every command."""
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in part for part in process.info["cmdline"] or ()):
                yield process

    def kill_node(self, node_id: str) -> int:
        """SIGKILL to the raylet of a node; how many processes that were."""
        raylets = [each for each in self.processes() if each.name() == "raylet" and node_id in " ".join(each.cmdline())]
        for raylet in raylets:
            raylet.kill()
        return len(raylets)


@contextlib.contextmanager
def head(
    environment: Mapping[str, str],
    *arguments: str,
    autoscaling: Mapping[str, Any] | None = None,
    job_server: bool = False,
) -> Iterator[Head]:
    """A head without CPUs for work, on ports of its own; gone at the end with everything it started."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets lie below it
    port = free_port()
    address = f"{node_address()}:{port}"
    if autoscaling is not None:
        config = {**autoscaling, "provider": {**autoscaling["provider"], "gcs_address": address}}
        (folder / "cluster.yaml").write_text(yaml.safe_dump(config))
        arguments = (*arguments, f"--autoscaling-config={folder / 'cluster.yaml'}")
    # Ray does not quote the path of its interpreter, and a checkout may lie in a folder with a space.
    (folder / "environment").symlink_to(sys.prefix)
    python = str(folder / "environment" / "bin" / Path(sys.executable).name)
    command = [python, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += [f"--temp-dir={folder}", "--disable-usage-stats", *arguments]
    dashboard_port, agent_port = free_port(), free_port()
    command += [f"--include-dashboard={job_server}", f"--dashboard-port={dashboard_port}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={agent_port}"]
    log = (folder / "head.log").open("wb")
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True, cwd=ROOT
    )
    started = Head(address, f"http://127.0.0.1:{dashboard_port}", folder, environment)
    try:
        _await_port(node_address(), port, process, folder / "head.log")
        if job_server:
            _await_port("127.0.0.1", dashboard_port, process, folder / "head.log")
        yield started
    finally:
        for each in started.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.kill()
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def pretended(node_types: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]) -> dict[str, Any]:
    """A cluster file whose nodes are processes on this machine.

    node_types: what a node of each type holds; sizes: how many of each there may be. The provider that Ray brings for such nodes
    wants the head's type to have this name.
    """
    types: dict[str, Any] = {
        name: {
            "resources": {**resources, "object_store_memory": 200_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": sizes[name],
        }
        for name, resources in node_types.items()
    }
    types["ray.head.default"] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    provider = {"type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True}
    empty: dict[str, Any] = {
        name: [] for name in ("setup_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter")
    }
    for name in ("initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"):
        empty[f"{name}_commands"] = []
    return {
        "cluster_name": "pretended",
        "max_workers": sum(sizes.values()),
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.1,
        "provider": {**provider, "disable_launch_config_check": True},
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "auth": {},
        "docker": {},
        **empty,
    }


def node_address() -> str:
    """What Ray calls this machine."""
    import ray.util

    return ray.util.get_node_ip_address()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _await_port(host: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return True
        return False

    assert until(lambda: answers() or process.poll() is not None, START_S) and process.poll() is None, (
        f"the head did not start: {log.read_text()[-2000:]}"
    )


def until(condition: Callable[[], bool], most_s: float) -> bool:
    """Whether the condition came to hold within so many seconds; asked a few times a second."""
    never, deadline = threading.Event(), time.monotonic() + most_s
    while not (holds := condition()) and time.monotonic() < deadline:
        never.wait(_POLL_S)
    return holds
