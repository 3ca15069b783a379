"""Send a job to a Ray cluster, follow its log, and end with its exit code.

    python -m cluster.submit label --config jobs/configs/label.yaml --set input.path=s3://BUCKET/PREFIX --address http://127.0.0.1:8265
    python -m cluster.submit train --config jobs/configs/train_anchornet.yaml --address http://127.0.0.1:8265
    python -m cluster.submit follow ID          python -m cluster.submit stop ID

This checkout is what runs there: it is packed and sent (without .git, .venv, runs, data), its commit goes into
provenance.json. Ctrl-C leaves the job running and says how to follow it again. A cluster with token authentication wants the
token in RAY_AUTH_TOKEN or in Ray's own file, and RAY_AUTH_MODE=token.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.job_submission import JobInfo, JobStatus, JobSubmissionClient

from jobs.shell.job import INTERRUPTED, REFUSED, STORAGE_FAILED, TERMINATED
from jobs.shell.provenance import COMMIT_VARIABLE, ROOT, commit
from jobs.shell.ray_session import NOT_SHIPPED, worker_environment
from jobs.shell.terminal import say

UNREACHABLE = STORAGE_FAILED
JOBS = ("label", "train", "calibrate", "evaluate", "import_weights")
AGAIN_S = 1.0
"""Before a log stream that ended early is opened again."""
PATIENCE_S = 120.0
"""How long a job server may not answer while a job is followed."""
_NOT_YET = "No available agent"
"""What a head says that has only just started."""
_STOP_WAIT_S = "60"
"""How long Ray's job server waits after SIGTERM before it kills; its own three seconds are too few for a report."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the job; 2 when it cannot be sent as it is, 3 when the cluster does not answer, 130 after Ctrl-C."""
    arguments = argument_parser().parse_args(argv)
    for name in (
        "ray",
        JobSubmissionClient.__module__,
    ):  # else every file left out, and every end of a stream, gets a line
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if arguments.command in JOBS:
            flags = [
                flag
                for flag in ("--dry-run", "--retry-failed")
                if getattr(arguments, flag[2:].replace("-", "_"), False)
            ]
            if shard := getattr(arguments, "shard", None):
                flags += ["--shard", shard]
            entrypoint = entrypoint_of(arguments.command, arguments.config, arguments.set, flags)
            client = _client(arguments.address)
            identifier = _submit(client, arguments.command, entrypoint)
        else:
            client, identifier = _client(arguments.address), arguments.id
        if arguments.command == "stop":
            return _stop(client, identifier)
        return 0 if arguments.no_wait else _followed(client, identifier, arguments)
    except ValueError as error:
        say(f"error: {error}")
        return REFUSED
    except (OSError, RuntimeError, RayError) as error:
        say(f"error: {_readable(error, arguments.address)}")
        return UNREACHABLE


def argument_parser() -> argparse.ArgumentParser:
    """Jobs and what can be done with one that runs, each a command of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = argparse.ArgumentParser(add_help=False)
    address = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    shared.add_argument("--address", default=address, help=f"of the job server (default {address})")
    shared.add_argument("--no-wait", action="store_true", help="send it, say its id, and leave")
    shared.add_argument("--stop-on-interrupt", action="store_true", help="Ctrl-C stops the job too")
    commands = parser.add_subparsers(dest="command", required=True)
    for job in JOBS:
        each = commands.add_parser(job, parents=[shared], help=f"python -m jobs.{job} on the cluster")
        each.add_argument("--config", help="YAML file of this checkout, or s3://")
        each.add_argument("--set", action="append", default=[], metavar="section.key=value", help="override one value")
        if job == "label":
            each.add_argument("--dry-run", action="store_true", help="say what it would cost")
            each.add_argument("--retry-failed", action="store_true", help="try images again that failed")
            each.add_argument("--shard", metavar="I/N", help="label the I-th of N equal parts of the input")
    for name, text in (("follow", "go on with the log of a job"), ("stop", "end a job")):
        commands.add_parser(name, parents=[shared], help=text).add_argument("id", help="as submit said it")
    return parser


def entrypoint_of(job: str, config: str | None, overrides: Sequence[str], flags: Sequence[str] = ()) -> str:
    """The shell command that runs on the head.

    Raises ValueError for a configuration file that does not go along with the checkout.
    """
    words = ["python", "-m", f"jobs.{job}"]
    if config and "://" not in config:
        path = Path(config).resolve()
        if not path.is_file():
            raise ValueError(f"--config {config} does not exist; correct the path")
        if ROOT not in path.parents:
            raise ValueError(
                f"--config {config} lies outside the checkout, which is what is sent; move it, or give s3://"
            )
        config = str(path.relative_to(ROOT))
    words += ["--config", config] if config else []
    words += [word for override in overrides for word in ("--set", override)]
    return shlex.join([*words, *flags])


def runtime_environment() -> dict[str, Any]:
    """What goes along: the checkout, where storage is, the commit. No credentials: nodes have a role of their own."""
    variables = {**worker_environment(), "PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": _STOP_WAIT_S}
    if known := commit():
        variables[COMMIT_VARIABLE] = known
    return {"working_dir": str(ROOT), "excludes": NOT_SHIPPED, "env_vars": variables}


def _client(address: str) -> JobSubmissionClient:
    """A client of this job server; the variables, which Ray believes more than its own argument, are put aside."""
    aside = {name: os.environ.pop(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if name in os.environ}
    try:
        return JobSubmissionClient(address)
    finally:
        os.environ.update(aside)


def _submit(client: JobSubmissionClient, job: str, entrypoint: str) -> str:
    identifier = f"{job}-{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(3)}"
    metadata = {"job": job, "commit": commit() or "unknown"}
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.submit_job(
                entrypoint=entrypoint, submission_id=identifier, runtime_env=runtime_environment(), metadata=metadata
            )
            break
        except RuntimeError as error:
            if _NOT_YET not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(AGAIN_S)
        except OSError:  # the connection broke; the job may have arrived all the same
            if _has_arrived(client, identifier):
                break
            if time.monotonic() > deadline:
                raise
            time.sleep(AGAIN_S)
    say(f"submitted {identifier}: {entrypoint}")
    return identifier


def _has_arrived(client: JobSubmissionClient, identifier: str) -> bool:
    try:
        client.get_job_status(identifier)
    except (RuntimeError, OSError):
        return False
    return True


def _followed(client: JobSubmissionClient, identifier: str, arguments: argparse.Namespace) -> int:
    try:
        return follow(client, identifier)
    except KeyboardInterrupt:
        if arguments.stop_on_interrupt:
            return _stop(client, identifier)
        command = f"python -m cluster.submit {{}} {identifier} --address {arguments.address}"
        text = f"the job goes on; {command.format('follow')} shows it again, {command.format('stop')} ends it"
        say(f"\n{text}")
        return INTERRUPTED


def follow(client: JobSubmissionClient, identifier: str) -> int:
    """Print the job's log until the job has ended, however often the stream breaks; the exit code of the job's own process.

    Raises RuntimeError or ConnectionError when the job server does not answer for two minutes.
    """
    shown, answered = 0, time.monotonic()
    while True:
        try:
            info = client.get_job_info(identifier)  # before the log: what is written until then is shown below
            shown = asyncio.run(_show(client, identifier, shown))
            answered = time.monotonic()
            if info.status.is_terminal():
                return exit_code(info)
        except (ConnectionError, RuntimeError, OSError):
            if time.monotonic() - answered > PATIENCE_S:
                raise
        time.sleep(AGAIN_S)


async def _show(client: JobSubmissionClient, identifier: str, shown: int) -> int:
    """Print what is new of the log, which every stream begins from its start; how many characters have been shown in all."""
    seen = 0
    try:
        async for text in client.tail_job_logs(identifier):
            begin, seen = max(0, shown - seen), seen + len(text)
            sys.stdout.write(text[begin:])
            sys.stdout.flush()
            shown = max(shown, seen)
    except (ConnectionError, RuntimeError, OSError):
        pass  # a stream that ends early: its job is asked about, and another one opened
    return shown


def exit_code(info: JobInfo) -> int:
    """Of the job's own process, which Ray's command line makes 1 whatever it is."""
    if info.driver_exit_code is not None:
        code = int(info.driver_exit_code)
        return code if code >= 0 else 128 - code
    return {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: TERMINATED}.get(info.status, 1)


def _stop(client: JobSubmissionClient, identifier: str) -> int:
    """Ask the job to end as ``SIGTERM`` does, and wait for it."""
    client.stop_job(identifier)
    while not client.get_job_status(identifier).is_terminal():
        time.sleep(AGAIN_S)
    say(f"{identifier} has ended")
    return 0


def _readable(error: Exception, address: str) -> str:
    text = str(error)
    if "401" in text or "403" in text or "uthenticat" in text:
        return (
            f"{address} wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or Ray's token file), and try again"
        )
    return f"{address}: {text.splitlines()[0] if text else type(error).__name__}"


if __name__ == "__main__":
    sys.exit(main())
