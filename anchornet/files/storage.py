"""Files by name: a local path or an ``s3://`` URI, read and written the same way.

Everything the project stores outside Ray Data (bundles, marks, reports) goes through these few functions, so that the
rules below hold everywhere:

* ``AWS_ENDPOINT_URL`` is honoured. ``pyarrow.fs.S3FileSystem()`` alone ignores it.
* A gateway that is away for a few seconds is waited for (12 attempts; pyarrow's default lost 10 of some 10,000
  requests when a gateway was killed for two seconds, 12 attempts lost none).
* Storage that lets somebody wait is named in a warning within ten seconds (``waiting``); a bucket that does not exist is
  an error of its own.
* A reader never sees half a file: locally a temporary file is renamed, on S3 one PUT is atomic by itself.
"""

from __future__ import annotations

import os
import uuid
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from anchornet.files.s3_listing import list_objects
from anchornet.files.waiting import is_remote, says_when_it_waits

S3_ATTEMPTS = 12
_DENIED = ("ACCESS_DENIED", "Forbidden", "403", "PERMISSION_DENIED")
"""What an answer to somebody who may not ask has in it."""
_KNOWN_BUCKETS: list[tuple[pafs.FileSystem, str]] = []
"""Buckets that were seen, so that each is asked for once; with their client, so that another server is another bucket."""
_NO_DATA = {"_SUCCESS", "_temporary", "_metadata", "_common_metadata"}
WRITES_SMALL_FILES_WHOLE = int(pa.__version__.split(".")[0]) >= 21
"""Whether this Arrow can write a small file in one PUT; an older one uploads in parts, as whole but slower."""
REQUEST_TIMEOUT_S = 60.0
"""Seconds without a byte before a request is given up; Arrow's 3 are too few for a server that is under load."""


def is_s3(uri: str) -> bool:
    """True when ``uri`` names an object in S3 rather than a local file."""
    return uri.startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """``uri`` with ``parts`` appended, separated by single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)]) or "/"


def absolute(uri: str) -> str:
    """``uri`` as workers on the same file system understand it: local paths become absolute."""
    if is_s3(uri):
        return uri
    if "://" in uri:
        raise ValueError(
            f"storage {uri!r}: only local paths and s3:// URIs are supported; copy the data to one of them"
        )
    return str(Path(uri).expanduser().absolute())


@cache
def _s3_file_system(endpoint: str | None, region: str | None) -> pafs.FileSystem:
    """One patient S3 client per endpoint; ``cache`` keeps its connection pool alive."""
    options: dict[str, object] = {
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
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


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of ``uri`` and the path inside it.

    Raises ValueError for a scheme other than ``s3``.
    """
    if is_s3(uri):
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return _s3_file_system(os.environ.get("AWS_ENDPOINT_URL"), region), uri.removeprefix("s3://").rstrip("/")
    return pafs.LocalFileSystem(), absolute(uri)


@says_when_it_waits
def require_bucket(uri: str) -> None:
    """Raises ValueError when the bucket of ``uri`` does not exist; a local path has none.

    Who may not ask for the bucket as a whole is left to what the storage says of the object.
    """
    if not is_remote(uri):
        return
    file_system, path = resolve(uri)
    bucket = path.partition("/")[0]
    if (file_system, bucket) in _KNOWN_BUCKETS:
        return
    try:
        found = file_system.get_file_info(bucket).type != pafs.FileType.NotFound
    except OSError as error:
        if not any(sign in str(error) for sign in _DENIED):
            raise
        found = True
    if not found:
        raise ValueError(
            f"bucket {bucket!r} of {uri} does not exist; correct the name, or make it: jobs create objects, never buckets"
        )
    _KNOWN_BUCKETS.append((file_system, bucket))


@says_when_it_waits
def exists(uri: str) -> bool:
    """True when a file or folder lies at ``uri`` (on S3: an object, or a prefix with objects below it).

    Raises ValueError when not even its bucket exists.
    """
    file_system, path = resolve(uri)
    found = bool(file_system.get_file_info(path).type != pafs.FileType.NotFound)
    if not found:
        require_bucket(uri)
    return found


def list_files(uri: str) -> list[tuple[str, int]]:
    """Every file below the folder ``uri`` as (uri, size in bytes), sorted by name.

    Raises FileNotFoundError when the folder does not exist.
    """
    require_bucket(uri)
    file_system, path = resolve(uri)
    prefix = "s3://" if is_s3(uri) else ""
    infos = file_system.get_file_info(pafs.FileSelector(path, recursive=True))
    return sorted((prefix + info.path, info.size) for info in infos if info.type == pafs.FileType.File)


def list_visible(uri: str) -> list[str]:
    """Every file below the folder ``uri`` that is meant as data, sorted by name.

    Left out are files and folders whose name begins with a dot, and what Spark and Arrow write beside data
    (``_SUCCESS`` and its like). A camera's ``_MG_1234.JPG`` is data. Data may be millions of objects, so S3 is asked by
    several requests at a time. Raises FileNotFoundError when the folder does not exist, ValueError for a local name that is
    not UTF-8.
    """
    require_bucket(uri)
    root = absolute(uri).rstrip("/")
    try:
        found = (
            list_objects(root, attempts=S3_ATTEMPTS, timeout_s=REQUEST_TIMEOUT_S) if is_s3(root) else list_files(root)
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"a file below {uri} has a name that is not UTF-8 ({error}); rename it") from error
    return [file for file, _ in found if not any(map(_is_hidden, file[len(root) + 1 :].split("/")))]


def _is_hidden(name: str) -> bool:
    return name in _NO_DATA or (name.startswith(".") and name not in (".", ".."))


@says_when_it_waits
def read_bytes(uri: str) -> bytes:
    """The content of the file at ``uri``.

    Raises FileNotFoundError when there is none, OSError when the storage does not answer.
    """
    file_system, path = resolve(uri)
    with file_system.open_input_stream(path) as stream:
        return bytes(stream.read())


@says_when_it_waits
def write_bytes(uri: str, data: bytes) -> None:
    """Replace the file at ``uri`` by ``data`` in one step; missing parent folders are made."""
    file_system, path = resolve(uri)
    if is_s3(uri):
        require_bucket(uri)
        with file_system.open_output_stream(path) as stream:
            stream.write(data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)


@says_when_it_waits
def delete(uri: str) -> None:
    """Remove the file at ``uri``; raises FileNotFoundError when there is none."""
    file_system, path = resolve(uri)
    file_system.delete_file(path)
