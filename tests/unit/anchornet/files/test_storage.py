"""Every rule of storage, on a local folder and on an S3 server alike; then what only one of the two can show."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from anchornet.files import storage
from anchornet.files.s3 import client

ABOVE_ONE_PART = 11 << 20
"""Bytes that do not fit into one S3 request of Arrow's, so that the upload has several parts."""


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder: a local path, or a prefix of a bucket."""
    if request.param == "local":
        return str(tmp_path / "data")
    return str(request.getfixturevalue("s3_bucket")) + "/data"


@pytest.mark.parametrize("size", [0, 1000, ABOVE_ONE_PART], ids=["empty", "small", "large"])
def test_what_is_written_is_read(folder: str, size: int) -> None:
    uri = storage.join(folder, "deep", "er", "file.bin")
    data = bytes(range(256)) * (size // 256 + 1)
    storage.write_bytes(uri, data[:size])
    assert storage.read_bytes(uri) == data[:size]


def test_a_second_write_replaces_the_first(folder: str) -> None:
    uri = storage.join(folder, "mark.json")
    storage.write_bytes(uri, b"a long first version")
    storage.write_bytes(uri, b"short")
    assert storage.read_bytes(uri) == b"short"
    assert [name for name, _ in storage.list_files(folder)] == [uri]


def test_names_are_taken_literally(folder: str) -> None:
    uri = storage.join(folder, "a b", "50% Größe #1 + ?.jpg")
    storage.write_bytes(uri, b"x")
    assert storage.read_bytes(uri) == b"x"
    assert storage.list_files(folder) == [(uri, 1)]


def test_exists_for_a_file_a_folder_and_nothing(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "sub", "file"), b"x")
    assert storage.exists(storage.join(folder, "sub", "file"))
    assert storage.exists(storage.join(folder, "sub"))
    assert not storage.exists(storage.join(folder, "sub", "fil"))


def test_list_files_is_recursive_sorted_and_sized(folder: str) -> None:
    for name, size in (("b", 2), ("c/x", 3), ("a", 0), ("c/deep/y", 4)):
        storage.write_bytes(storage.join(folder, name), bytes(size))
    expected = [(storage.join(folder, name), size) for name, size in (("a", 0), ("b", 2), ("c/deep/y", 4), ("c/x", 3))]
    assert storage.list_files(folder) == expected
    assert storage.list_files(folder + "/") == expected


def test_a_missing_file_says_so(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "present"), b"x")
    with pytest.raises(FileNotFoundError, match="absent"):
        storage.read_bytes(storage.join(folder, "absent"))
    with pytest.raises(FileNotFoundError, match="absent"):
        storage.delete(storage.join(folder, "absent"))
    with pytest.raises(FileNotFoundError, match="absent"):
        storage.list_files(storage.join(folder, "absent"))


def test_delete_removes_one_file(folder: str) -> None:
    for name in ("a", "b"):
        storage.write_bytes(storage.join(folder, name), b"x")
    storage.delete(storage.join(folder, "a"))
    assert storage.list_files(folder) == [(storage.join(folder, "b"), 1)]


def test_a_reader_sees_one_whole_version_while_it_is_replaced(folder: str) -> None:
    uri = storage.join(folder, "frontier.json")
    versions = [letter * 200_000 for letter in (b"a", b"b")]
    storage.write_bytes(uri, versions[0])

    def replace(times: int) -> None:
        for turn in range(times):
            storage.write_bytes(uri, versions[turn % 2])

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(replace, 20)
        while not writer.done():
            assert storage.read_bytes(uri) in versions
        writer.result()


def test_resolve_gives_what_arrow_itself_needs(folder: str) -> None:
    file_system, path = storage.resolve(storage.join(folder, "table.parquet"))
    storage.write_bytes(storage.join(folder, "makes-the-folder"), b"")
    pq.write_table(pa.table({"image_id": [1, 2, 3]}), path, filesystem=file_system)
    assert pq.read_table(path, filesystem=file_system)["image_id"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("folder", "a"), "folder/a"),
        (("folder/", "/a/", "b"), "folder/a/b"),
        (("s3://bucket", "a"), "s3://bucket/a"),
        (("s3://bucket/prefix/", "a/b"), "s3://bucket/prefix/a/b"),
        (("s3://bucket",), "s3://bucket"),
    ],
)
def test_join_puts_single_slashes(parts: tuple[str, ...], expected: str) -> None:
    assert storage.join(*parts) == expected


def test_join_at_the_root() -> None:
    assert storage.join("/", "a") == "/a"


@pytest.mark.parametrize("uri", ["ftp://bucket/x", "https://example.org/x.jpg", "hdfs:///x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="only local paths, s3:// and gs:// URIs are supported"):
        storage.resolve(uri)
    with pytest.raises(ValueError, match="only local paths, s3:// and gs:// URIs are supported"):
        storage.absolute(uri)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("file:///data/a b.jpg", "/data/a b.jpg"),
        ("file:///data/a%20b.jpg", "/data/a b.jpg"),  # as Spark and Arrow write it
        ("FILE:///data/x.jpg", "/data/x.jpg"),
        ("file:/data/x.jpg", "/data/x.jpg"),  # as Hadoop writes it
        ("file://localhost/data/x.jpg", "/data/x.jpg"),
        ("s3a://bucket/a%20b", "s3://bucket/a%20b"),  # keys are taken literally
        ("S3://Bucket/Key", "s3://Bucket/Key"),
        ("s3n://bucket/key", "s3://bucket/key"),
        ("GS://bucket/key", "gs://bucket/key"),
        ("gcs://bucket/key", "gs://bucket/key"),
    ],
)
def test_names_as_other_tools_write_them(written: str, meant: str) -> None:
    assert storage.absolute(written) == meant
    assert storage.absolute(meant) == meant
    assert storage.is_remote(written) == storage.is_remote(meant) == (not meant.startswith("/"))


def test_a_file_of_another_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="lies on the machine 'nas7'; write file:///"):
        storage.absolute("file://nas7/data/x.jpg")


def test_file_uris_are_read_and_listed(tmp_path: Path) -> None:
    storage.write_bytes(f"file://{tmp_path}/sub/a%20b", b"x")
    assert storage.read_bytes(str(tmp_path / "sub" / "a b")) == b"x"
    assert storage.list_files(f"file:{tmp_path}") == [(str(tmp_path / "sub" / "a b"), 1)]


@pytest.mark.s3
def test_s3_is_read_and_listed_under_its_other_names(s3_bucket: str) -> None:
    storage.write_bytes(s3_bucket.replace("s3://", "S3://") + "/sub/file", b"x")
    assert storage.read_bytes(s3_bucket.replace("s3://", "s3a://") + "/sub/file") == b"x"
    assert storage.list_files(s3_bucket.replace("s3://", "S3A://")) == [(s3_bucket + "/sub/file", 1)]
    assert storage.list_visible(s3_bucket.replace("s3://", "s3a://") + "/sub/") == [s3_bucket + "/sub/file"]


def test_a_folder_is_told_from_a_file_and_from_nothing(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "sub", "file"), b"x")
    assert storage.is_folder(storage.join(folder, "sub"))
    assert not storage.is_folder(storage.join(folder, "sub", "file"))
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        storage.is_folder(storage.join(folder, "nothing"))


def test_a_local_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn.jpg"))).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"has a name that is not UTF-8 .*; rename it"):
        storage.list_visible(str(tmp_path))


def test_absolute_is_for_local_paths_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage.absolute("images/a.jpg") == str(tmp_path / "images" / "a.jpg")
    assert storage.absolute("~/a.jpg") == str(tmp_path / "home" / "a.jpg")
    assert storage.absolute("/images/a.jpg") == "/images/a.jpg"
    assert storage.absolute("s3://bucket/a.jpg") == "s3://bucket/a.jpg"


def test_a_local_write_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "report.json"), b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_local_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "mark.json")
    storage.write_bytes(uri, b"old")
    with pytest.raises(TypeError):
        storage.write_bytes(uri, "not bytes")  # type: ignore[arg-type]
    assert storage.read_bytes(uri) == b"old"


@pytest.mark.parametrize(
    ("error", "uri", "outage"),
    [
        (OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7"), "s3://b/k", True),
        (OSError("AWS Error SLOW_DOWN during GetObject operation"), "gs://b/k", True),
        (OSError("AWS Error ACCESS_DENIED during GetObject operation"), "s3://b/k", False),
        (FileNotFoundError("Path does not exist 'b/k'"), "s3://b/k", False),
        (OSError(5, "Input/output error"), "/mnt/k", False),
    ],
    ids=["no answer", "too busy", "of others", "gone", "a local file"],
)
def test_an_outage_is_told_from_what_is_wrong_with_one_object(error: OSError, uri: str, outage: bool) -> None:
    assert storage.is_outage(error, uri) == outage


@pytest.mark.s3
@pytest.mark.skipif(not client.WRITES_SMALL_FILES_WHOLE, reason="this Arrow makes a multipart upload of every file")
def test_a_small_s3_write_is_one_put(s3_bucket: str) -> None:
    storage.write_bytes(s3_bucket + "/mark.json", b"x" * 1000)
    etag = boto3.client("s3").head_object(Bucket=s3_bucket.removeprefix("s3://"), Key="mark.json")["ETag"]
    assert "-" not in etag  # that of a multipart upload ends in -(number of parts)


@pytest.mark.s3
def test_a_bucket_that_does_not_exist_is_an_error(s3_bucket: str) -> None:
    for call in (storage.exists, lambda uri: storage.write_bytes(uri, b"x")):
        with pytest.raises(
            ValueError, match=f"bucket '{s3_bucket[5:]}-other' of .* does not exist; correct the name, or make"
        ):
            call(s3_bucket + "-other/file")


@pytest.mark.s3
def test_the_whole_bucket_can_be_listed(s3_bucket: str) -> None:
    storage.write_bytes(s3_bucket + "/top", b"x")
    storage.write_bytes(s3_bucket + "/sub/file", b"xy")
    assert storage.list_files(s3_bucket) == [(s3_bucket + "/sub/file", 2), (s3_bucket + "/top", 1)]


@pytest.mark.s3
def test_arrow_reads_the_same_uri_by_itself(s3_bucket: str) -> None:
    """Ray hands ``s3://`` paths to this function of Arrow's; it must end at the same server."""
    storage.write_bytes(s3_bucket + "/file", b"seen")
    file_system, path = pafs.FileSystem.from_uri(s3_bucket + "/file")
    assert file_system.open_input_stream(path).read() == b"seen"


class _BusyThenFine(BaseHTTPRequestHandler):
    """Answers 503 to the first requests of the server, then serves one object of six bytes."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"labels")

    def _answer(self, body: bytes) -> None:
        assert isinstance(self.server, _BusyServer)
        self.send_response(503 if self.server.is_busy() else 200)
        self.send_header("Content-Length", "6" if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing: the test's output is no place for requests."""


class _BusyServer(ThreadingHTTPServer):
    refusals_left = 3

    def is_busy(self) -> bool:
        self.refusals_left -= 1
        return self.refusals_left >= 0


@pytest.fixture
def busy_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_BusyServer]:
    server = _BusyServer(("127.0.0.1", 0), _BusyThenFine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.s3
def test_a_server_that_is_busy_for_a_while_is_waited_for(busy_server: _BusyServer) -> None:
    assert storage.read_bytes("s3://bucket/labels") == b"labels"
    assert busy_server.refusals_left < 0
