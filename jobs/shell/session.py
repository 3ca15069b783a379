"""What every job does before and after its work: arguments, logging, the run folder, the Ray session."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
import yaml

from anchornet.files import config as configuration
from anchornet.files import storage
from anchornet.files.documents import write_json
from jobs.settings.common import ClusterSettings
from jobs.shell.run_folder import RunFolder

T = TypeVar("T")
logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
STORAGE_FAILED, INTERRUPTED = 3, 130
_NOT_SHIPPED = ["/.git", "/.venv", "/runs", "/data", ".*_cache", ".hypothesis", "__pycache__"]
"""Not sent to the workers of a cluster; written as in .gitignore."""
_VERSIONED = ("anchornet", "ray", "torch", "torchvision", "pyarrow", "numpy", "pillow")


def run_job(
    cls: type[T],
    execute: Callable[[T], int],
    doc: str | None,
    argv: Sequence[str] | None,
    flags: Sequence[str] = (),
) -> int:
    """The exit code of a job: parse, validate, then ``execute(config)``.

    User errors (ValueError, a missing file) are one line on stderr and exit code 2; storage or a machine that fails is 3;
    Ctrl-C is 130; everything else propagates with its traceback. ``execute`` calls ``save_provenance`` once it has
    accepted the configuration. flags: names of top-level booleans that get a switch of their own (``--dry-run``).
    """
    configure_logging()
    arguments = _parser(doc, flags).parse_args(argv)
    switched = [f"{flag}=true" for flag in flags if getattr(arguments, flag)]
    try:
        config = configuration.load_config(cls, arguments.config, [*arguments.set, *switched])
        return execute(config)
    except (ValueError, FileNotFoundError) as error:
        logger.debug("refused", exc_info=True)
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        logger.debug("failed", exc_info=True)
        sys.stderr.write(f"error: {type(error).__name__}: {error}; once this is mended, run the same command again\n")
        return STORAGE_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        return INTERRUPTED


def _parser(doc: str | None, flags: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file, local or s3://")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", help="override one value")
    for flag in flags:
        parser.add_argument(f"--{flag.replace('_', '-')}", action="store_true", help=f"the same as --set {flag}=true")
    return parser


def configure_logging() -> None:
    """One format for every job, on stderr; stdout is left to the job's own answer."""
    logging.basicConfig(
        level=os.environ.get("ANCHORNET_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )


def save_provenance(config: Any) -> None:
    """Write ``config.yaml`` and ``provenance.json`` (commit, versions, hardware) into the run folder."""
    folder = RunFolder(config.run.folder)
    text = yaml.safe_dump(configuration.to_dict(config), sort_keys=False)
    storage.write_bytes(folder.config, text.encode())
    write_json(folder.provenance, provenance())


def provenance() -> dict[str, Any]:
    """Commit, package versions and hardware, as they go beside every output."""
    versions = {}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "commit": _commit(),
        "versions": versions,
        "python": platform.python_version(),
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
    }


def _commit() -> str | None:
    """The checkout's commit, with ``+changes`` when the tree differs from it; None outside a git checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@contextlib.contextmanager
def ray_session(cluster: ClusterSettings) -> Iterator[None]:
    """A connection to Ray for the body: the one that is open already, the configured cluster, or a local Ray.

    Only a session that this call opened is closed at the end, so jobs can be run one after the other in one process.
    """
    if ray.is_initialized():
        yield
        return
    if not cluster.is_local:
        ray.init(address=cluster.address or "auto", runtime_env=runtime_env(), log_to_driver=False)
    else:
        start_local_ray(cluster.cpus_of_local_ray())
    _quiet_ray_data()
    try:
        yield
    finally:
        ray.shutdown()


def start_local_ray(num_cpus: int) -> None:
    """A Ray of its own on this machine, of ``num_cpus`` logical CPUs, whose workers import the checkout."""
    # Ray hands the interpreter of workers with a runtime environment (Ray Train's) to bash without quoting it.
    interpreter = shlex.quote(sys.executable)
    with _importable_checkout():
        ray.init(
            address="local",  # a cluster that happens to run on this machine is joined only when it is asked for
            num_cpus=num_cpus,
            runtime_env={"py_executable": interpreter} if interpreter != sys.executable else None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="WARNING",
        )


@contextlib.contextmanager
def _importable_checkout() -> Iterator[None]:
    """The checkout in PYTHONPATH while a local Ray starts: its workers inherit this process's environment.

    Not a runtime environment: with one, Ray starts each worker through a second interpreter, and prestarted workers go
    to waste; on two cores that doubled the start of a job.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = _python_path()
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def runtime_env() -> dict[str, Any]:
    """The checkout as the workers' working directory, and their environment.

    What ``ray job submit`` was given holds already, and Ray refuses to be told twice, even the same.
    """
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    known = submitted.get("env_vars") or {}
    mine: dict[str, Any] = {"env_vars": {k: v for k, v in _worker_environment().items() if k not in known}}
    if "working_dir" not in submitted:
        mine |= {"working_dir": str(ROOT), "excludes": _NOT_SHIPPED}
    return mine


def _worker_environment() -> dict[str, str]:
    """Environment that workers need to find the object storage.

    Credentials are left out: a runtime environment can be read by whoever sees the cluster's dashboard. Local workers
    inherit them from this process; on a cluster the nodes have a role, or a profile, of their own.
    """
    return {key: value for key, value in os.environ.items() if key.startswith("AWS_") and not _is_secret(key)}


def _is_secret(name: str) -> bool:
    return any(part in name for part in ("ACCESS_KEY", "SECRET", "TOKEN"))


def _quiet_ray_data() -> None:
    """Replace Ray Data's own progress bars by the job's progress lines."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
