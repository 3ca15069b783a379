"""Every object below an ``s3://`` folder, listed by several requests at a time.

A listing of S3 is a chain: an answer holds at most 1,000 keys, and the next request needs the last of them. What breaks the
chain is ``Delimiter="/"``: it names the subfolders without their content. They cut the keys into ranges, and each range is
listed by a thread of its own, whose answers wait in a spool for their turn. Which subfolders were seen decides how fast it
goes, never what is found: the ranges cover every key there can be. Servers that do not answer in the order of the keys' bytes
(S3's directory buckets) cannot be listed so.

boto3 is imported by the first listing, so that nobody else waits for it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from anchornet.files.spool import Spool

Entry = tuple[str, int]
"""Key of an object, its size in bytes."""
THREADS = 16
"""Requests at a time."""
RANGES = 4 * THREADS
"""Most ranges: several for each thread, so that one with many keys does not hold up the rest."""
PAGES_PER_RANGE = 2
"""Fewest answers' worth of keys in a range: its last answer reaches beyond its end, and what is there is read twice."""
PAGE_KEYS = 1000
"""Keys of an answer, the most that servers give."""
_CONNECT_TIMEOUT_S = 10.0
_ENTRIES = "anchornet_entries"
_CONTENTS = re.compile(rb"<Contents>.*</Contents>", re.DOTALL)
_KEY_AND_SIZE = re.compile(rb"<Key>([^<]*)</Key>.*?<Size>(\d+)</Size>.*?</Contents>", re.DOTALL)
_ENCODED = b"<EncodingType>url</EncodingType>"


@dataclass(frozen=True)
class _Folder:
    """What is listed: keys of ``bucket`` that begin with ``prefix`` (empty, or ending in a slash)."""

    client: Any
    bucket: str
    prefix: str
    page_keys: int

    def page(self, after: str = "") -> tuple[list[Entry], bool]:
        """The next objects behind the key ``after``, in order, and whether there are more of them."""
        answer = self._ask(Prefix=self.prefix, StartAfter=after)
        # boto3 has read those that _take_entries left: answers of servers that write their XML in another way
        entries = answer.get(_ENTRIES) or [(entry["Key"], entry["Size"]) for entry in answer.get("Contents", ())]
        return entries, answer["IsTruncated"]

    def subfolders(self, prefix: str) -> list[str]:
        """The first subfolders right below ``prefix``."""
        answer = self._ask(Prefix=prefix, Delimiter="/")
        return [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())]

    def _ask(self, **question: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=self.page_keys, **question)
        return answer


def list_objects(uri: str, *, attempts: int, timeout_s: float, page_keys: int = PAGE_KEYS) -> Iterator[pa.Table]:
    """Every object below the folder ``uri``, sorted by name, an answer at a time: columns uri and size (bytes); empty
    ``folder/`` markers are left out.

    Each request is tried ``attempts`` times and given up after ``timeout_s`` without a byte. Raises FileNotFoundError when
    nothing begins with the folder's name (a whole bucket may be empty), OSError when the server refuses or does not answer.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    bucket, _, path = uri.removeprefix("s3://").rstrip("/").partition("/")
    prefix = path + "/" if path else ""
    with Spool() as spool:
        with storage_errors(f"listing {uri}"):
            folder = _Folder(client(endpoint, region, attempts, timeout_s), bucket, prefix, page_keys)
            num_ranges = _spool_ranges(folder, spool)
        if prefix and not spool.num_rows:
            raise FileNotFoundError(f"folder {uri} does not exist: no object of bucket {bucket} begins with {prefix!r}")
        for number in range(num_ranges):
            for page in spool.tables(number):
                marker = pc.and_(pc.equal(page["size"], 0), pc.ends_with(page["key"], "/"))
                page = page.filter(pc.invert(marker))
                uris = pc.binary_join_element_wise(f"s3://{bucket}/", page["key"], "")
                yield pa.table({"uri": uris, "size": page["size"]})


def _spool_ranges(folder: _Folder, spool: Spool) -> int:
    """Put all objects of the folder into ``spool``, range after range; how many those are, one when all fit into an answer."""
    entries, more = folder.page()
    _spool_page(spool, 0, entries)
    if not more:
        return 1
    last = entries[-1][0]
    with ThreadPoolExecutor(THREADS) as pool:
        cuts = [cut for cut in _cuts(folder, pool) if cut > last]
        cuts = _thinned(cuts, entries)
        ends = zip([last, *cuts], [*cuts, None], strict=True)
        ranges = [pool.submit(_list_range, folder, *span, spool, number) for number, span in enumerate(ends, 1)]
        for each in ranges:
            each.result()
    return 1 + len(ranges)


def _spool_page(spool: Spool, number: int, entries: Sequence[Entry]) -> None:
    keys, sizes = zip(*entries, strict=True) if entries else ((), ())
    spool.add(pa.table({"key": pa.array(keys, pa.string()), "size": pa.array(sizes, pa.int64())}), number)


def _cuts(folder: _Folder, pool: ThreadPoolExecutor) -> list[str]:
    """Names of subfolders, sorted: of the first level that has RANGES of them, or of the last that there is.

    One request for each folder of a level, so no more subfolders of each are seen than an answer holds.
    """
    level = [folder.prefix]
    while len(level) < RANGES:
        below = [name for names in pool.map(folder.subfolders, level) for name in names]
        if not below:
            break
        level = below
    return sorted(level)


def _thinned(cuts: Sequence[str], sample: Sequence[Entry]) -> list[str]:
    """So many of the cuts that a range holds PAGES_PER_RANGE or more, when all are as dense as in ``sample``, an answer."""
    if not cuts:
        return []
    depth = cuts[0].count("/")
    folders_per_page = len({tuple(key.split("/")[:depth]) for key, _ in sample})
    ranges = max(1, min(RANGES, len(cuts) // (folders_per_page * PAGES_PER_RANGE)))
    return list(cuts[:: -(-len(cuts) // ranges)])


def _list_range(folder: _Folder, after: str, end: str | None, spool: Spool, number: int) -> None:
    """Put the objects behind the key ``after``, up to and with ``end`` (None: the folder's end), into ``spool``."""
    more = True
    while more and (end is None or after < end):
        page, more = folder.page(after)
        after = page[-1][0] if page else after
        _spool_page(spool, number, page if end is None else [entry for entry in page if entry[0] <= end])


@cache
def client(endpoint: str | None, region: str | None, attempts: int, timeout_s: float) -> Any:
    """One patient client for all threads; without any credentials it asks unsigned, as Arrow's does."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    session = boto3.session.Session()
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=timeout_s,
        max_pool_connections=THREADS,
        ignore_configured_endpoint_urls=True,  # AWS_ENDPOINT_URL alone decides, as everywhere in this project
        signature_version=None if session.get_credentials() else UNSIGNED,
    )
    client = session.client("s3", endpoint_url=endpoint or None, region_name=region, config=config)
    client.meta.events.register("before-parse.s3.ListObjectsV2", _take_entries)
    return client


def _take_entries(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Cut the objects out of an answer and put their keys and sizes beside it, before boto3 reads it.

    boto3 makes a dictionary of six fields, a date among them, of each object: seven times the work. Threads share the time that
    Python takes, so it decides how fast they are together. Without ``EncodingType`` a key may hold entities: left to boto3.
    """
    body: bytes = response_dict["body"]
    found = _CONTENTS.search(body)
    if not found or _ENCODED not in body[: found.start()] + body[found.end() :]:
        return
    entries = _KEY_AND_SIZE.findall(found[0])
    if len(entries) == found[0].count(b"<Contents>"):
        customized_response_dict[_ENTRIES] = [(unquote(key.decode()), int(size)) for key, size in entries]
        response_dict["body"] = body[: found.start()] + body[found.end() :]


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """What boto3 raises as the OSError that the rest of the project knows; ``doing``: what fails then."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        code = error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(f"{doing} failed: no object has this key") from error
        raise OSError(f"{doing} failed: {error}; see docs/s3.md for what has to be set") from error
