"""Google's storage, against a server in this process that speaks the few requests of its JSON API that Arrow sends."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.data.inputs import InputSettings, list_input
from anchornet.files import storage


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.objects: dict[tuple[str, str], bytes] = {}
        """(bucket, key) -> content."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Requests(BaseHTTPRequestHandler):
    """Reads, listings and resumable uploads."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        asked = parse_qs(address.query)
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", address.path)
        assert found is not None, self.path
        bucket, key = found[1], unquote(found[2] or "")
        if not key:
            items = [self._about(*each) for each in sorted(self.server.objects) if each[0] == bucket]
            items = [each for each in items if str(each["name"]).startswith(asked.get("prefix", [""])[0])]
            self._answer(json.dumps({"kind": "storage#objects", "items": items}).encode())
        elif (bucket, key) not in self.server.objects:
            self._answer(b'{"error": {"code": 404, "message": "none"}}', 404)
        elif asked.get("alt") == ["media"]:
            self._answer(self.server.objects[bucket, key])
        else:
            self._answer(json.dumps(self._about(bucket, key)).encode())

    def do_POST(self) -> None:
        """The beginning of an upload: says where its content is to be sent."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(b"{}", headers={"Location": f"{self.server.endpoint}{self.path}&upload_id=1"})

    def do_PUT(self) -> None:
        address = urlsplit(self.path)
        bucket, key = address.path.split("/")[5], parse_qs(address.query)["name"][0]
        self.server.objects[bucket, key] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(json.dumps(self._about(bucket, key)).encode())

    def do_DELETE(self) -> None:
        bucket, _, key = self.path.removeprefix("/storage/v1/b/").partition("/o/")
        del self.server.objects[bucket, unquote(key.partition("?")[0])]
        self._answer(b"", 204)

    def _about(self, bucket: str, key: str) -> dict[str, object]:
        size = len(self.server.objects[bucket, key])
        return {"kind": "storage#object", "name": key, "bucket": bucket, "size": str(size), "generation": "1"}

    def _answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing: the test's output is no place for requests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    server = _Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
    yield server
    server.shutdown()
    server.server_close()


def test_what_is_written_is_read_listed_and_deleted(server: _Server) -> None:
    storage.write_bytes("gs://bucket/deep/a b.txt", b"one")
    storage.write_bytes("gcs://bucket/deep/er/ü.txt", b"three")
    assert server.objects == {("bucket", "deep/a b.txt"): b"one", ("bucket", "deep/er/ü.txt"): b"three"}
    assert storage.read_bytes("GS://bucket/deep/a b.txt") == b"one"
    expected = [("gs://bucket/deep/a b.txt", 3), ("gs://bucket/deep/er/ü.txt", 5)]
    assert storage.list_files("gs://bucket/deep") == expected
    assert storage.list_visible("gs://bucket/") == [uri for uri, _ in expected]
    assert storage.is_folder("gs://bucket/deep")
    assert not storage.is_folder("gs://bucket/deep/a b.txt")
    storage.delete("gs://bucket/deep/a b.txt")
    assert not storage.exists("gs://bucket/deep/a b.txt")
    with pytest.raises(FileNotFoundError, match="NOT_FOUND"):
        storage.read_bytes("gs://bucket/deep/a b.txt")


def test_images_and_lists_of_them_are_inputs(server: _Server, tmp_path: Path) -> None:
    def listed(path: str) -> list[str]:
        return list_input(InputSettings(path=path))["uri"].to_pylist()

    for name in ("a.jpg", ".hidden.jpg", "b/c.jpg"):
        storage.write_bytes(f"gs://bucket/photos/{name}", b"x")
    storage.write_bytes("gs://bucket/l.txt", b"photos/a.jpg\ngs://other/b.jpg\n")
    assert listed("gs://bucket/photos") == ["gs://bucket/photos/a.jpg", "gs://bucket/photos/b/c.jpg"]
    assert listed("gs://bucket/photos/a.jpg") == ["gs://bucket/photos/a.jpg"]
    assert listed("gs://bucket/l.txt") == ["gs://bucket/photos/a.jpg", "gs://other/b.jpg"]
    pq.write_table(pa.table({"url": ["gs://bucket/photos/a.jpg"]}), tmp_path / "l.parquet")
    assert listed(str(tmp_path / "l.parquet")) == ["gs://bucket/photos/a.jpg"]
    with pytest.raises(ValueError, match="gs://bucket/nothing does not exist; give a folder"):
        listed("gs://bucket/nothing")
