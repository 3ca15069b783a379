"""Arrow's client of S3, patient, and as Amazon's own environment variables want it."""

from __future__ import annotations

import os
from functools import cache

import pyarrow as pa
import pyarrow.fs as pafs

_ATTEMPTS = 12
WRITES_SMALL_FILES_WHOLE = int(pa.__version__.split(".")[0]) >= 21
"""Whether this Arrow can write a small file in one PUT; an older one uploads in parts, as whole but slower."""
REQUEST_TIMEOUT_S = 60.0
"""Seconds without a byte before a request is given up; Arrow's 3 are too few for a server that is under load."""


def attempts() -> int:
    """How often a request is made before it counts as failed: ``AWS_MAX_ATTEMPTS`` as Amazon's own tools read it, else 12, which
    is some two minutes where nobody answers.

    Raises ValueError for something that is no whole number >= 1.
    """
    asked = os.environ.get("AWS_MAX_ATTEMPTS", "")
    if asked and not (asked.isdecimal() and int(asked) >= 1):
        raise ValueError(f"AWS_MAX_ATTEMPTS must be a whole number >= 1, got {asked!r}; correct it or leave it out")
    return int(asked or _ATTEMPTS)


def file_system() -> pafs.FileSystem:
    """The client for the endpoint and the region that the environment names now."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return _file_system(os.environ.get("AWS_ENDPOINT_URL"), region, attempts())


@cache
def _file_system(endpoint: str | None, region: str | None, num_attempts: int) -> pafs.FileSystem:
    """One client per endpoint; ``cache`` keeps its connection pool alive."""
    options: dict[str, object] = {
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=num_attempts),
        "request_timeout": REQUEST_TIMEOUT_S,
    }
    if WRITES_SMALL_FILES_WHOLE:
        options["allow_delayed_open"] = True
    if endpoint:
        options["endpoint_override"] = endpoint
        options["scheme"] = "http" if endpoint.startswith("http://") else "https"
    if region:
        options["region"] = region
    return pafs.S3FileSystem(**options)
