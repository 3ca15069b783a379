"""One local Ray for the whole tier: starting it costs seconds, sharing it costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from jobs.shell.ray_session import start_local_ray
from tests.workshop import Workshop, build_workshop

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def worker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path every worker finds in ANCHORNET_TEST_FOLDER; networks made to fail look there when to."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="session", autouse=True)
def local_ray(s3_server, worker_folder: Path) -> Iterator[None]:  # type: ignore[no-untyped-def]
    """A local Ray of 4 logical CPUs, whose workers import the checkout and reach the tests' S3 server.

    Workers inherit the environment of the process that starts Ray; a runtime environment would start each of them
    through a second interpreter.
    """
    environment = {
        **s3_server.environment,
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
        "ANCHORNET_TEST_FOLDER": str(worker_folder),
        "OMP_NUM_THREADS": "1",
        "RAY_metrics_report_interval_ms": "2000",  # for test_seen.py: what nobody sets is gone after two of them, not 20 s
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        start_local_ray(4)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def workshop(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Images and a calibrated bundle, made once."""
    return build_workshop(tmp_path_factory.mktemp("workshop"))
