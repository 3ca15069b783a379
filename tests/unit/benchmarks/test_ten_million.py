"""The server of the benchmark gives a listing as S3 does, and what it writes down as finished is what a resume counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from anchornet.data.inputs import InputSettings
from anchornet.data.manifest import open_manifest, read_manifest
from anchornet.files import storage
from anchornet.files.s3.listing import list_objects
from anchornet.units import GIGA
from benchmarks import ten_million
from jobs.labelling.resume import count_labelled, spent_so_far
from jobs.shell.run_folder import RunFolder
from tests.small_images import encode

IMAGES = 200


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ten_million, "FOLDER_IMAGES", 30)
    monkeypatch.setattr(ten_million._Handler, "images", IMAGES)
    monkeypatch.setattr(ten_million._Handler, "photographs", [encode(k) for k in range(3)])
    with ThreadingHTTPServer(("127.0.0.1", 0), ten_million._Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testtest")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield
        server.shutdown()


@pytest.mark.parametrize("page_keys", [7, 1000])
def test_its_server_lists_every_image_once_in_order(server: None, page_keys: int) -> None:
    tables = list_objects(ten_million.INPUT, attempts=1, timeout_s=30.0, page_keys=page_keys)
    found = [name for table in tables for name in table["uri"].to_pylist()]
    assert found == [f"s3://bucket/images/{k // 30:05d}/{k:08d}.jpg" for k in range(IMAGES)]
    assert storage.read_bytes(found[5]) == encode(5 % 3)


def test_all_but_some_images_are_finished(server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(str(tmp_path))
    assert open_manifest(run.manifest, InputSettings(path=ten_million.INPUT), 0) == IMAGES
    monkeypatch.setattr(ten_million, "GFLOPS_PER_IMAGE", 0.5)
    assert ten_million.write_finished(run, 20, IMAGES) == count_labelled(run) == IMAGES - 20
    assert spent_so_far(run, IMAGES - 20) == 0.5 * (IMAGES - 20) * GIGA
    assert len(read_manifest(run.finished_ids)) == IMAGES - 20


def test_a_process_is_measured_as_long_as_it_lives() -> None:
    assert ten_million.peak_mb(2**30) == 0.0
    assert ten_million.below(2**30) == []
    assert ten_million.worker_name(2**30) == ""
