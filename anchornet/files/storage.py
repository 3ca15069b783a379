"""Files by name: a local path, an ``s3://`` or a ``gs://`` URI, read and written the same way.

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

import logging
import os
import re
import uuid
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from anchornet.files.kinds import NO_DATA, is_hidden, without_hidden
from anchornet.files.local_listing import KINDS, LeftOut, tables_of, walk
from anchornet.files.s3 import client
from anchornet.files.s3.listing import list_objects
from anchornet.files.s3.objects import is_object, is_odd, read_object
from anchornet.files.waiting import says_when_it_waits

log = logging.getLogger(__name__)

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://|(file):/", re.IGNORECASE)
_SCHEMES = {"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gs", "gcs": "gs"}
"""Schemes of object storage as people write them, and as this project does."""
_GS_PATIENCE = timedelta(minutes=2)
"""How long a request to Google's storage is tried again; about as long as twelve attempts at S3 take."""
_DENIED = ("ACCESS_DENIED", "Forbidden", "403", "PERMISSION_DENIED")
"""What an answer to somebody who may not ask has in it."""
_KNOWN_BUCKETS: list[tuple[pafs.FileSystem, str]] = []
"""Buckets that were seen, so that each is asked for once; with their client, so that another server is another bucket."""


def is_remote(uri: str) -> bool:
    """True when ``uri`` names something in object storage rather than a local file."""
    return _scheme(uri) in _SCHEMES


def _scheme(uri: str) -> str:
    """The scheme of ``uri`` in lower case; empty for a plain path."""
    found = _SCHEME.match(uri)
    return (found[1] or found[2]).lower() if found else ""


def join(uri: str, *parts: str) -> str:
    """``uri`` with ``parts`` appended, separated by single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)]) or "/"


def absolute(uri: str) -> str:
    """``uri`` as workers on the same file system understand it, in the one form that the project uses.

    Local paths become absolute, and so do ``file:`` URIs, whose percent signs are undone as Spark and Arrow do it; ``S3://``,
    ``s3a://`` and ``s3n://`` become ``s3://``. Keys are taken literally. Raises ValueError for any other scheme.
    """
    scheme = _scheme(uri)
    if scheme in _SCHEMES:
        return f"{_SCHEMES[scheme]}://{uri.partition('://')[2]}"
    if scheme == "file":
        path = uri[len("file:") :]
        host, _, rest = path.removeprefix("//").partition("/") if path.startswith("//") else ("", "", path[1:])
        if host.lower() not in ("", "localhost"):
            raise ValueError(f"storage {uri!r} lies on the machine {host!r}; write file:/// and the path on this one")
        return str(Path("/" + unquote(rest)))
    if scheme:
        raise ValueError(
            f"storage {uri!r}: only local paths, s3:// and gs:// URIs are supported; copy the data to one of them"
        )
    return str(Path(uri).expanduser().absolute())


def is_relative(uri: str) -> bool:
    """True for a name that says nothing of where it begins."""
    return not (uri.startswith(("/", "~")) or _scheme(uri))


def beside(folder: str, name: str) -> str:
    """``name`` itself, or when it is relative its place in ``folder``."""
    return f"{folder}/{name}" if is_relative(name) else name


@cache
def _gs_file_system(emulator: str | None) -> pafs.FileSystem:
    """One patient client of Google's storage; ``emulator``: host and port, or a URL, of a server that asks for no credentials."""
    if emulator is None:
        return pafs.GcsFileSystem(retry_time_limit=_GS_PATIENCE)
    scheme, _, host = emulator.rpartition("://")
    return pafs.GcsFileSystem(
        anonymous=True, scheme=scheme or "http", endpoint_override=host.rstrip("/"), retry_time_limit=_GS_PATIENCE
    )


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of ``uri`` and the path inside it.

    Raises ValueError for a scheme that is not supported.
    """
    uri = absolute(uri)
    if uri.startswith("gs://"):
        return _gs_file_system(os.environ.get("STORAGE_EMULATOR_HOST")), uri.removeprefix("gs://").rstrip("/")
    if uri.startswith("s3://"):
        return client.file_system(), uri.removeprefix("s3://").rstrip("/")
    return pafs.LocalFileSystem(), uri


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


def _prefix(uri: str) -> str:
    """What stands before the path inside the file system of ``uri``."""
    return f"{_SCHEMES[_scheme(uri)]}://" if is_remote(uri) else ""


def is_folder(uri: str) -> bool:
    """True for a folder, False for a file; of an object and a prefix of the same name it is the object.

    A key that Arrow cannot name (:mod:`s3.objects`) and that is no object counts as a folder, whose listing will tell.

    Raises FileNotFoundError when there is neither.
    """
    place = absolute(uri)
    if place.startswith("s3://") and is_odd(place.rstrip("/")):
        return not is_object(place, attempts=client.attempts(), timeout_s=client.REQUEST_TIMEOUT_S)
    file_system, path = resolve(place)
    kind = file_system.get_file_info(path).type
    if kind == pafs.FileType.NotFound:
        raise FileNotFoundError(f"{uri} does not exist")
    return bool(kind == pafs.FileType.Directory)


def list_files(uri: str) -> list[tuple[str, int]]:
    """Every file below the folder ``uri`` as (uri, size in bytes), sorted by name.

    Raises FileNotFoundError when the folder does not exist.
    """
    require_bucket(uri)
    file_system, path = resolve(uri)
    prefix = _prefix(uri)
    infos = file_system.get_file_info(pafs.FileSelector(path, recursive=True))
    return sorted((prefix + info.path, info.size) for info in infos if info.type == pafs.FileType.File)


def list_visible(uri: str) -> list[str]:
    """All the names of :func:`visible_tables`."""
    return [name for table in visible_tables(uri) for name in table["uri"].to_pylist()]


def visible_tables(uri: str) -> Iterator[pa.Table]:
    """Every file below the folder ``uri`` that is meant as data, sorted by name, some thousands at a time: column ``uri``.

    Left out, and counted in a warning at the end, are files and folders whose name begins with a dot, what Spark and Arrow
    write beside data (``_SUCCESS`` and its like, without a warning), and locally what :func:`local_listing.walk` cannot follow.
    A camera's ``_MG_1234.JPG`` is data. Data may be millions of objects, so S3 is asked by several requests at a time, and what
    it answers is never in memory as a whole. Raises FileNotFoundError when the folder does not exist, ValueError for a local
    name that is not UTF-8, both when the first table is asked for.
    """
    require_bucket(uri)
    root = absolute(uri).rstrip("/") or "/"
    left_out = LeftOut(NO_DATA)
    if is_remote(root):
        yield from without_hidden(_remote_tables(root), len(root) + 1, left_out)
    else:
        yield from tables_of(walk(root, is_hidden, left_out))
    for kind in KINDS:
        if count := left_out.count[kind]:
            log.warning("below %s %d %s left out, such as %s", uri, count, kind, ", ".join(left_out.names[kind]))


def _remote_tables(root: str) -> Iterator[pa.Table]:
    if root.startswith("s3://"):
        return list_objects(root, attempts=client.attempts(), timeout_s=client.REQUEST_TIMEOUT_S)
    return tables_of(file for file, _ in list_files(root))


def is_outage(error: OSError, uri: str) -> bool:
    """Whether ``error`` says that the object storage did not answer, or not sensibly, rather than something of the one object.

    Of the object: it does not exist, or who asks may not have it.
    """
    of_the_object = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError)
    return is_remote(uri) and not of_the_object and not any(sign in str(error) for sign in _DENIED)


@says_when_it_waits
def read_bytes(uri: str) -> bytes:
    """The content of the file at ``uri``.

    Raises FileNotFoundError when there is none, OSError when the storage does not answer.
    """
    place = absolute(uri)
    if place.startswith("s3://") and is_odd(place):
        return read_object(place, attempts=client.attempts(), timeout_s=client.REQUEST_TIMEOUT_S)
    file_system, path = resolve(place)
    with file_system.open_input_stream(path) as stream:
        return bytes(stream.read())


@says_when_it_waits
def write_bytes(uri: str, data: bytes) -> None:
    """Replace the file at ``uri`` by ``data`` in one step; missing parent folders are made."""
    file_system, path = resolve(uri)
    if is_remote(uri):
        require_bucket(uri)
        with file_system.open_output_stream(path) as stream:
            stream.write(data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:  # a full disk, above all, which must not fill up further
        temporary.unlink(missing_ok=True)
        raise


@says_when_it_waits
def delete(uri: str) -> None:
    """Remove the file at ``uri``; raises FileNotFoundError when there is none."""
    file_system, path = resolve(uri)
    file_system.delete_file(path)
