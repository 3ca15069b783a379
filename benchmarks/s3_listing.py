"""Seconds to list a bucket: Arrow's chain of requests, Arrow in threads by subfolder, and boto3 in threads by range.

    python -m benchmarks.s3_listing --bucket BUCKET [--keys 24000] [--folders 120] [--delays-ms 0 50 100] [--runs 5]

Needs an S3 server that may be written to (``AWS_ENDPOINT_URL`` and credentials, see docs/s3.md). The bucket is made and
filled with empty objects ``images/classNNN/NNNNNN.jpg`` when it does not exist. Each delay is added to every request by a
proxy on this machine, as a server far away adds it. One JSON object per line and delay: median, least and most seconds of
each way over the runs, which take turns; ``ratio`` is the median of Arrow's chain over that of boto3; ``cpu_s`` are this
process's CPU seconds. Raises RuntimeError when the three do not find the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from anchornet.files import storage
from anchornet.files.s3 import client
from anchornet.files.s3 import listing as s3_listing

Files = list[tuple[str, int]]
FOLDER = "images"


def arrow_chain(uri: str) -> Files:
    """One request after the other, by Arrow."""
    file_system, path = storage.resolve(uri)
    return _files(file_system.get_file_info(pafs.FileSelector(path, recursive=True)))


def arrow_threads(uri: str) -> Files:
    """Each subfolder of the first level by a thread of its own, by Arrow."""
    file_system, path = storage.resolve(uri)
    level = file_system.get_file_info(pafs.FileSelector(path))
    below = [info.path for info in level if info.type == pafs.FileType.Directory]
    with ThreadPoolExecutor(s3_listing.THREADS) as pool:
        parts = pool.map(lambda name: file_system.get_file_info(pafs.FileSelector(name, recursive=True)), below)
        return _files([*level, *(info for part in parts for info in part)])


def boto3_threads(uri: str) -> Files:
    """What this project has."""
    tables = s3_listing.list_objects(uri, attempts=client.attempts(), timeout_s=client.REQUEST_TIMEOUT_S)
    columns = ((table["uri"].to_pylist(), table["size"].to_pylist()) for table in tables)
    return [entry for uris, sizes in columns for entry in zip(uris, sizes, strict=True)]


WAYS: tuple[Callable[[str], Files], ...] = (arrow_chain, arrow_threads, boto3_threads)


def _files(infos: Sequence[Any]) -> Files:
    return sorted(("s3://" + info.path, info.size) for info in infos if info.type == pafs.FileType.File)


def fill(bucket: str, keys: int, folders: int) -> None:
    """Make the bucket with ``keys`` empty objects in ``folders`` folders; nothing when it is there."""
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))
    if bucket in {each["Name"] for each in client.list_buckets()["Buckets"]}:
        return
    client.create_bucket(Bucket=bucket)
    with ThreadPoolExecutor(s3_listing.THREADS) as pool:
        names = (f"{FOLDER}/class{i % folders:04d}/{i:07d}.jpg" for i in range(keys))
        for _ in pool.map(lambda key: client.put_object(Bucket=bucket, Key=key, Body=b""), names):
            pass


def measure(uri: str, delay_ms: float, runs: int) -> dict[str, Any]:
    """The line of one delay; see the top of this file."""
    seconds: dict[str, list[float]] = {way.__name__: [] for way in WAYS}
    cpu: dict[str, list[float]] = {way.__name__: [] for way in WAYS}
    found: list[Files] = []
    for run in range(runs + 1):  # the first, which imports and connects, is not counted
        for way in WAYS:
            wall, used = time.perf_counter(), time.process_time()
            found.append(way(uri))
            if run:
                seconds[way.__name__].append(time.perf_counter() - wall)
                cpu[way.__name__].append(time.process_time() - used)
            if found[-1] != found[0]:
                raise RuntimeError(
                    f"{way.__name__} found {len(found[-1])} files of {uri}, {WAYS[0].__name__} {len(found[0])}"
                )
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "delay_ms": delay_ms,
        "keys": len(found[0]),
        "ratio": median["arrow_chain"] / median["boto3_threads"],
        "seconds": {name: [median[name], min(values), max(values)] for name, values in seconds.items()},
        "cpu_s": {name: statistics.median(values) for name, values in cpu.items()},
    }


@contextmanager
def delayed(delay_ms: float) -> Iterator[None]:
    """The S3 server of the environment seen through a proxy, in a process of its own, that holds each request so long."""
    before = os.environ["AWS_ENDPOINT_URL"]
    processes = multiprocessing.get_context("spawn")  # a fork of a process with Arrow's threads may never come up
    mine, its = processes.Pipe()
    process = processes.Process(target=_serve, args=(urlsplit(before).port, delay_ms / 1000, its), daemon=True)
    process.start()
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{mine.recv()}"
    try:
        yield
    finally:
        os.environ["AWS_ENDPOINT_URL"] = before
        process.terminate()
        process.join()


def _serve(port: int, delay_s: float, answer: Connection) -> None:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait_s: float) -> None:
        while data := await reader.read(1 << 20):
            await asyncio.sleep(wait_s)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        ways = pump(reader, far_writer, delay_s), pump(far_reader, writer, 0.0)
        await asyncio.gather(*ways, return_exceptions=True)

    async def serve() -> None:
        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        answer.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--keys", type=int, default=24_000)
    parser.add_argument("--folders", type=int, default=120)
    parser.add_argument("--delays-ms", type=float, nargs="+", default=[0.0, 50.0, 100.0])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(argv)
    fill(options.bucket, options.keys, options.folders)
    for delay_ms in options.delays_ms:
        with delayed(delay_ms):
            print(json.dumps(measure(f"s3://{options.bucket}/{FOLDER}", delay_ms, options.runs)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
