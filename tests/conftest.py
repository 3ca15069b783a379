"""What every tier of the tests shares: the shared photographs, an S3 server on this machine, hypothesis's settings."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# No deadline: a clock must not decide a test. In CI the examples are the same each time.
settings.register_profile("anchornet", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("anchornet")

# A call that reaches Ray where none was started is an error: Ray would start one, or join whatever runs on this machine, for
# all the tests that follow.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared photographs and tables: ANCHORNET_SHARED_DATA, else ../shared/data; skips without it."""
    folder = Path(os.environ.get("ANCHORNET_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the shared data is absent; set ANCHORNET_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def cases(shared_data: Path) -> Path:
    """Folder of the small inputs that people stumbled over; skips without it."""
    folder = shared_data / "cases"
    if not folder.is_dir():
        pytest.skip("the shared data has no cases")
    return folder


@dataclasses.dataclass(frozen=True)
class S3Server:
    """A running S3 server. ``environment``: what a process must have in its environment to use it."""

    endpoint: str
    environment: dict[str, str]

    def make_bucket(self) -> str:
        """The ``s3://`` URI of a bucket that nobody has used before."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.environment["AWS_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=name)
        return f"s3://{name}"


def _s3_environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "testtest",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """moto's S3 server in a process of its own, for the session.

    It changes no environment. A session-wide Ray cluster that shall reach it is started with ``environment`` as its
    workers' environment variables; a single test asks for ``s3_bucket``.
    """
    log = tmp_path_factory.mktemp("s3") / "server.log"
    # Port 0: the kernel picks a free one, so that two test runs on a machine never meet; the server says which.
    command = [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    try:
        endpoint = _await_endpoint(process, log)
        yield S3Server(endpoint, _s3_environment(endpoint))
    finally:
        process.terminate()
        process.wait()


def _await_endpoint(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address the server prints once it listens; RuntimeError with its log when it ends before that."""
    while True:
        found = re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())
        if found:
            return found[1]
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        raise RuntimeError(f"the S3 server ended with exit code {process.returncode}: {log.read_text()}")


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket as ``s3://name``, with the environment that reaches it for the time of this test.

    Processes started by the test inherit that environment; those started before it do not.
    """
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)  # the developer's own profile and session token must not mix in
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket()
