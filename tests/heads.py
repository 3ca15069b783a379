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
from ray._private import node as ray_node
from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from ray.autoscaler.v2.sdk import get_cluster_status

ROOT = Path(__file__).resolve().parents[1]
START_S = 120.0
_POLL_S = 0.2
_HOSTS = itertools.count(2)
_HEAD_TYPE, _HEAD_ID = "ray.head.default", f"{0:05}".rjust(56, "f")
"""What Ray's provider of pretended nodes calls the type of the head, and the head."""
_AS_RAY_UP = {"RAY_enable_autoscaler_v2": "1", "RAY_NODE_TYPE_NAME": _HEAD_TYPE, "RAY_CLOUD_INSTANCE_ID": _HEAD_ID}
"""What ``ray up`` puts before the command that starts a head."""
_PRETENDED = {**_AS_RAY_UP, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "PYTHONPATH": str(ROOT)}
_IDLE_S = 6.0


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
        """A worker node more, with processes, an address and a folder of its own; gone at the end if it is not gone before.

        Of nodes with one address Ray gives a driver any, and the driver would die with it. Nodes with one folder unpack the
        checkout over each other's, and what the workers of the others import meanwhile is not there.
        """
        python = self.folder / "environment" / "bin" / Path(sys.executable).name
        command = [str(python), "-m", "ray.scripts.scripts", "start", f"--address={self.address}", "--block"]
        name, host = uuid.uuid4().hex, next(_HOSTS)
        command += [
            f"--node-ip-address=127.0.0.{host}",
            f"--temp-dir={self.folder / str(host)}",
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

    def kill(self) -> None:
        """SIGKILL to everything of this Ray, as when the machine of the head is taken away.

        Workers and agents have titles of their own; they are found below their raylets.
        """
        found: list[psutil.Process] = []
        for each in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [each, *each.children(recursive=True)]
        for each in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()

    def workers(self) -> dict[str, str]:
        """Id -> type of every worker node that is alive, where an autoscaler started it."""
        status = get_cluster_status(self.address)
        found = {node.node_id: node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}
        return {node_id: name for node_id, name in found.items() if name != _HEAD_TYPE}

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
        config = {**autoscaling, "provider": {**autoscaling["provider"], "gcs_address": address, "folder": str(folder)}}
        (folder / "cluster.yaml").write_text(yaml.safe_dump(config))
        arguments = (*arguments, f"--autoscaling-config={folder / 'cluster.yaml'}")
        own = {**_PRETENDED, **environment}
    else:
        own = {**environment}
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
        command, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True, cwd=ROOT
    )
    started = Head(address, f"http://127.0.0.1:{dashboard_port}", folder, environment)
    try:
        _await_port(node_address(), port, process, folder / "head.log")
        if job_server:
            _await_port("127.0.0.1", dashboard_port, process, folder / "head.log")
        yield started
    finally:
        started.kill()
        process.kill()
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


class PretendedNodes(FakeMultiNodeProvider):
    """Ray's provider of nodes that are processes of this machine, each with a folder of its own.

    Ray's share one, and then every new node unpacks the checkout over that of the others while their workers import from it.
    """

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: dict[str, float], labels: dict[str, str]
    ) -> None:
        with self.lock:
            node_id, kind, custom = self._next_hex_node_id(), tags[TAG_RAY_USER_NODE_TYPE], dict(resources)
            parameters = RayParams(
                num_cpus=custom.pop("CPU"),
                num_gpus=custom.pop("GPU", 0),
                memory=custom.pop("memory"),
                object_store_memory=custom.pop("object_store_memory"),
                resources=custom,
                labels=labels,
                temp_dir=str(Path(self.provider_config["folder"], node_id[-5:])),
                gcs_address=self._gcs_address,
                dashboard_agent_listen_port=0,
                min_worker_port=0,
                max_worker_port=0,
                env_vars={
                    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id,
                    "RAY_CLOUD_INSTANCE_ID": node_id,
                    "RAY_NODE_TYPE_NAME": kind,
                },
            )
            process = ray_node.Node(parameters, head=False, shutdown_at_exit=False, spawn_reaper=False)
            told = {
                TAG_RAY_NODE_KIND: NODE_KIND_WORKER,
                TAG_RAY_NODE_NAME: node_id,
                TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
            }
            self._nodes[node_id] = {"tags": {**told, **tags}, "node": process}


def pretended(file: Mapping[str, Any], most: Mapping[str, int]) -> dict[str, Any]:
    """What a head gets of a cloud's cluster file from ``ray up``, with nodes that are processes of this machine.

    Node types stay as they are: names, GPUs, labels, priorities, fewest nodes. Changed, or not in the file:

    - the provider, the name of the head's type, which that provider gives, and the commands, which are for real machines;
    - the most nodes of each type, ``most``: every node is a raylet, and all their actors share this machine;
    - an eighth of the logical CPUs: Ray starts a process for every task that finds room, and 32 of them on each node that decodes
      keep two cores busy for a minute before the first label;
    - a node goes after six seconds without work, where people want minutes;
    - 4 GB of memory for each node, which the provider of a cloud reads off its kind of machine: tasks that decode ask for some;
    - 200 MB for objects, where each node would take a third of this machine's memory.
    """
    prepared = prepare_config(dict(file))
    types = {
        name: each for name, each in prepared["available_node_types"].items() if name != prepared["head_node_type"]
    }
    for name, each in types.items():
        has = {**each["resources"], "CPU": each["resources"]["CPU"] // 8}
        has |= {"memory": 4_000_000_000, "object_store_memory": 200_000_000}
        each |= {"resources": has, "max_workers": most[name], "idle_timeout_s": _IDLE_S}
    types[_HEAD_TYPE] = prepared["available_node_types"][prepared["head_node_type"]]
    provider = {"type": "external", "module": f"{__name__}.{PretendedNodes.__name__}", "head_node_id": _HEAD_ID}
    provider |= {"launch_multiple": True, "use_node_id_as_ip": True}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    none = {name: [] for name in prepared if name.endswith("_commands")}
    size = {"max_workers": sum(most.values()), "head_node_type": _HEAD_TYPE, "available_node_types": types}
    return {**prepared, **none, **size, "provider": provider}


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
