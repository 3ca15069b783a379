"""Listing with many requests at a time finds exactly what Arrow's chain of requests finds."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pyarrow.fs as pafs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchornet.files import spool, storage
from anchornet.files.s3 import listing as s3_listing

pytestmark = pytest.mark.s3
ODD_KEYS = (
    "sp ace/ü%20+#?&=;:@!$'()*,~`^{}[]|\\<>\"", "日本/ひと", "emoji/😀", "emoji/\ufffd", "t/tab\there", "dot/../x", "dot/./y",
    "d//b", "d//", "a/", "a/x", "onlymarker/", "obj", "obj2/x", "a0", "a-b/c", "plus+/+", "pct%2F/%41", "amp&amp;/<Contents>",
)  # fmt: skip


def put(bucket: str, sizes: dict[str, int]) -> None:
    client = boto3.client("s3")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=bucket[5:], Key=key, Body=b"x" * sizes[key]), sizes))


def arrow_list(uri: str) -> list[tuple[str, int]]:
    file_system, path = storage.resolve(uri)
    infos = file_system.get_file_info(pafs.FileSelector(path, recursive=True))
    return sorted(("s3://" + info.path, info.size) for info in infos if info.type == pafs.FileType.File)


def parallel_list(uri: str, page_keys: int = s3_listing.PAGE_KEYS) -> list[tuple[str, int]]:
    tables = s3_listing.list_objects(uri, attempts=2, timeout_s=30.0, page_keys=page_keys)
    return [(row["uri"], row["size"]) for table in tables for row in table.to_pylist()]


FOLDERS = ("", "/sp ace", "/日本", "/emoji", "/d", "/d/", "/a", "/dot", "/pct%2F", "/amp&amp;")


@pytest.mark.parametrize("page_keys", [1, 2, 3, 1000])
def test_odd_keys_are_those_that_arrow_finds(odd_bucket: str, page_keys: int) -> None:
    for folder in FOLDERS:
        assert parallel_list(odd_bucket + folder, page_keys) == arrow_list(odd_bucket + folder)


@pytest.fixture
def odd_bucket(s3_bucket: str) -> str:
    put(s3_bucket, {key: 0 if key.endswith("/") else 1 + len(key) for key in ODD_KEYS})
    return s3_bucket


def test_markers_of_folders_are_left_out(s3_bucket: str) -> None:
    put(s3_bucket, {"only/": 0, "full/": 0, "full/x": 1})
    assert parallel_list(s3_bucket + "/only") == []
    assert parallel_list(s3_bucket) == [(s3_bucket + "/full/x", 1)]


def test_a_key_that_ends_in_a_slash_and_holds_content_keeps_it(s3_bucket: str) -> None:
    put(s3_bucket, {"photos/": 5, "photos/x": 1, "photos/empty/": 0})
    assert parallel_list(s3_bucket + "/photos") == [(s3_bucket + "/photos/", 5), (s3_bucket + "/photos/x", 1)]


NAMES = st.lists(st.sampled_from(["a", "b", "B", "a b", "é", "~", "-", "0"]), min_size=1, max_size=5).map("/".join)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(NAMES, max_size=25), page_keys=st.integers(1, 6))
def test_any_tree_is_found_whole(s3_server: Any, s3_bucket: str, keys: set[str], page_keys: int) -> None:
    bucket = s3_server.make_bucket()
    put(bucket, {key: len(key) for key in keys})
    assert (
        parallel_list(bucket, page_keys) == sorted((f"{bucket}/{key}", len(key)) for key in keys) == arrow_list(bucket)
    )


def test_more_keys_than_an_answer_holds(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {f"images/class{i % 37:02d}/{i:05d}.jpg": i % 7 for i in range(1130)}
    put(s3_bucket, sizes)
    expected = sorted((f"{s3_bucket}/{key}", size) for key, size in sizes.items())
    assert parallel_list(s3_bucket + "/images") == expected
    assert parallel_list(s3_bucket, page_keys=20) == expected  # many ranges, several answers in each
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 1)
    assert parallel_list(s3_bucket, page_keys=20) == expected  # which wait on the disk


@pytest.mark.parametrize("folder", ["/absent", "/obj", "/obj2/x"])
def test_a_folder_that_is_none_says_so(odd_bucket: str, folder: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"folder s3://.*{folder} does not exist: no object of bucket"):
        parallel_list(odd_bucket + folder)


def test_an_empty_bucket_has_no_files(s3_bucket: str) -> None:
    assert parallel_list(s3_bucket) == arrow_list(s3_bucket) == []


def test_a_server_that_refuses_is_an_os_error(s3_bucket: str) -> None:
    with pytest.raises(OSError, match=r"listing s3://.*-other/x failed: .*NoSuchBucket"):
        parallel_list(s3_bucket + "-other/x")


def test_few_ranges_where_folders_are_small() -> None:
    dense = [(f"c{i // 250}/{i}", 1) for i in range(1000)]  # an answer holds 4 folders
    sparse = [(f"c{i:04d}/{i}", 1) for i in range(1000)]
    cuts = [f"c{i:04d}/" for i in range(400)]
    assert len(s3_listing._thinned(cuts, dense)) == 50
    assert s3_listing._thinned(cuts, sparse) == cuts[:1]
    assert s3_listing._thinned([], sparse) == []
    assert len(s3_listing._thinned(cuts * 10, dense)) <= s3_listing.RANGES


def test_storage_does_not_load_boto3_before_a_bucket_is_listed() -> None:
    program = (
        "import sys; from anchornet.files import storage; from anchornet.files.s3 import listing; "
        "print('boto3' in sys.modules, 'torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "False False\n"


def test_data_is_listed_so(odd_bucket: str) -> None:
    put(odd_bucket, {".hidden/x": 1, "a/_SUCCESS": 1, "a/_MG_1.JPG": 1})
    expected = [uri for uri, _ in arrow_list(odd_bucket) if "/.hidden/" not in uri and not uri.endswith("_SUCCESS")]
    assert storage.list_visible(odd_bucket + "/") == expected
    assert odd_bucket + "/a/_MG_1.JPG" in expected
