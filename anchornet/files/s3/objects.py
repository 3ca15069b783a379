"""Objects of S3 under keys that Arrow takes for paths: with empty parts, ``.`` or ``..`` among them, or a slash at the end.

Such keys are text like any other to S3, and tools that join paths carelessly leave them. boto3 reads them as they are.
"""

from __future__ import annotations

import os
from typing import Any

from anchornet.files.s3.listing import client, storage_errors


def is_odd(uri: str) -> bool:
    """True for the ``s3://`` URI of an object that Arrow cannot name."""
    key = uri.removeprefix("s3://").partition("/")[2]
    return any(part in ("", ".", "..") for part in key.split("/")) if key else False


def read_object(uri: str, *, attempts: int, timeout_s: float) -> bytes:
    """The content of the object at ``uri``, whose key is taken literally.

    Raises FileNotFoundError when there is none, OSError when the server refuses or does not answer.
    """
    with storage_errors(f"reading {uri}"):
        return bytes(_ask("get_object", uri, attempts, timeout_s)["Body"].read())


def is_object(uri: str, *, attempts: int, timeout_s: float) -> bool:
    """Whether an object has exactly this key."""
    try:
        with storage_errors(f"looking for {uri}"):
            _ask("head_object", uri, attempts, timeout_s)
    except FileNotFoundError:
        return False
    return True


def _ask(what: str, uri: str, attempts: int, timeout_s: float) -> dict[str, Any]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    s3 = client(os.environ.get("AWS_ENDPOINT_URL"), region, attempts, timeout_s)
    answer: dict[str, Any] = getattr(s3, what)(Bucket=bucket, Key=key)
    return answer
