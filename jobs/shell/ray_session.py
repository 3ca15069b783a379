"""The Ray that a job runs on: one of its own on this machine, or a cluster that is there already."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.data

from jobs.resources.cluster_address import check_answers, cluster_address
from jobs.settings.common import AUTO, ClusterSettings
from jobs.shell import terminal
from jobs.shell.provenance import ROOT
from jobs.shell.run_folder import RunFolder
from jobs.shell.stops import FolderTakenError, listen

logger = logging.getLogger(__name__)

NOT_SHIPPED = ["/.git", "/.venv", "/runs", "/data", ".*_cache", ".hypothesis", "__pycache__"]
"""Not sent to the workers of a cluster; written as in .gitignore."""
_OF_THIS_MACHINE = ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")
"""Names of files and of their parts that lie here; a node of a cluster has a role of its own."""
_GOOGLE = ("STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT")
"""What Arrow's client for ``gs://`` looks for besides credentials."""
_LOCAL_ENVIRONMENT = {
    # Ray Train looks at its workers every 2 s, and an epoch that has ended waits for that; on one machine a look is cheap.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A process that watches for nodes about to be taken away; here the node is this machine.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@contextlib.contextmanager
def ray_session(cluster: ClusterSettings, run_folder: str) -> Iterator[None]:
    """A connection to Ray for the body: the one that is open already, the configured cluster, or a local Ray.

    The run folder is this job's alone meanwhile. Only a session that this call opened is closed at the end, so jobs can be run
    one after the other in one process. What Ray itself has to say goes to a log file (``ray.log`` in a local run folder),
    which is named.
    """
    with RunFolder(run_folder).alone():
        if ray.is_initialized():
            yield
            return
        log = terminal.log_file(run_folder)
        with terminal.quiet(log), _session(cluster, log):
            yield


@contextlib.contextmanager
def _session(cluster: ClusterSettings, log: Path) -> Iterator[None]:
    """A session that ends with the body."""
    logger.info("starting Ray; what it says itself goes to %s", log)
    try:
        _connect(cluster)
        listen()
        yield
    except (KeyboardInterrupt, SystemExit, ValueError, FolderTakenError):
        raise
    except BaseException:
        logger.error("this failed while Ray was running; %s may say more", log)
        raise
    finally:
        ray.shutdown()


def _connect(cluster: ClusterSettings) -> None:
    if cluster.is_local:
        context = start_local_ray(cluster.cpus_of_local_ray(), dashboard=cluster.dashboard)
        if cluster.dashboard:
            logger.info(
                "dashboard: http://%s; where it asks for a token, `ray get-auth-token` shows it", context.dashboard_url
            )
    else:
        where = cluster_address(cluster)
        logger.info("joining the Ray at %s (from %s)", where.address, where.origin)
        check_answers(where)
        ray.init(address=cluster.address or AUTO, runtime_env=runtime_env(), log_to_driver=False)
    # The job has progress lines of its own.
    ray.data.DataContext.get_current().enable_progress_bars = False


def start_local_ray(num_cpus: int, *, dashboard: bool = False) -> Any:
    """A Ray of its own on this machine, of ``num_cpus`` logical CPUs, whose workers import the checkout.

    dashboard: with Ray's dashboard, on the loopback address.
    """
    # Ray hands the interpreter of workers with a runtime environment (Ray Train's) to bash without quoting it.
    interpreter = shlex.quote(sys.executable)
    with _environment_of_workers():
        return ray.init(
            address="local",  # a cluster that happens to run on this machine is joined only when it is asked for
            num_cpus=num_cpus,
            runtime_env={"py_executable": interpreter} if interpreter != sys.executable else None,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.WARNING,
        )


@contextlib.contextmanager
def _environment_of_workers() -> Iterator[None]:
    """What the workers of a local Ray shall find in their environment, in this process's while it starts: they inherit it.

    Not a runtime environment: with one, Ray starts each worker through a second interpreter, and prestarted workers go
    to waste; on two cores that doubled the start of a job.
    """
    checkout = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    wanted = {**_LOCAL_ENVIRONMENT, **os.environ, "PYTHONPATH": checkout}
    before = {name: os.environ.get(name) for name in (*_LOCAL_ENVIRONMENT, "PYTHONPATH")}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def runtime_env() -> dict[str, Any]:
    """The checkout as the workers' working directory, and their environment.

    What ``ray job submit`` was given holds already, and Ray refuses to be told twice, even the same.
    """
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    known = submitted.get("env_vars") or {}
    mine: dict[str, Any] = {"env_vars": {k: v for k, v in worker_environment().items() if k not in known}}
    if "working_dir" not in submitted:
        mine |= {"working_dir": str(ROOT), "excludes": NOT_SHIPPED}
    return mine


def worker_environment() -> dict[str, str]:
    """Environment that workers need to find the object storage.

    Credentials are left out, and the names of files of them, which lie on this machine: a runtime environment can be
    read by whoever sees the cluster's dashboard. Local workers inherit them from this process; on a cluster the nodes have a
    role, or a profile, of their own.
    """
    return {key: value for key, value in os.environ.items() if _is_storage(key) and not _stays_here(key)}


def _is_storage(name: str) -> bool:
    return name.startswith("AWS_") or name in _GOOGLE


def _stays_here(name: str) -> bool:
    return name in _OF_THIS_MACHINE or any(part in name for part in ("ACCESS_KEY", "SECRET", "TOKEN"))
