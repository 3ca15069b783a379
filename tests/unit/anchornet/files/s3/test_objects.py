"""Keys that are no paths: what is listed can be read, under exactly the name that the listing gives."""

from __future__ import annotations

import boto3
import pytest

from anchornet.data.inputs import InputSettings, list_input
from anchornet.data.manifest import manifest_table
from anchornet.data.reading import ReadAndDecode
from anchornet.files import storage
from anchornet.files.s3.objects import is_odd
from anchornet.images.preprocess import Preprocessing
from tests.small_images import encode

KEYS = ("a//b", "/lead", "x/./y", "x/../z", "../up", "./here", "dir/", "d//", "sp ace/ü%20//+x?#", "plain", "dir/plain")


@pytest.mark.parametrize(
    ("key", "odd"),
    [*((key, "plain" not in key) for key in KEYS), ("", False), ("a/b.c/..d/e...", False), (".hidden/x", False)],
)
def test_odd_keys_are_told_from_others(key: str, odd: bool) -> None:
    assert is_odd(f"s3://bucket/{key}") == odd
    assert not is_odd("s3://bucket")


@pytest.fixture
def bucket(s3_bucket: str) -> str:
    for number, key in enumerate(KEYS):
        boto3.client("s3").put_object(Bucket=s3_bucket[5:], Key=key, Body=encode(number))
    return s3_bucket


@pytest.mark.s3
def test_every_key_that_is_listed_can_be_read(bucket: str) -> None:
    assert storage.list_visible(bucket) == sorted(f"{bucket}/{key}" for key in KEYS)
    for number, key in enumerate(KEYS):
        assert storage.read_bytes(f"{bucket}/{key}") == encode(number)
        assert storage.read_bytes(f"{bucket}/{key}".replace("s3://", "S3A://")) == encode(number)


@pytest.mark.s3
def test_they_are_rows_with_their_own_pixels(bucket: str) -> None:
    uris = list_input(InputSettings(path=bucket))["uri"].to_pylist()
    rows = ReadAndDecode(Preprocessing(), 10**6, 4)(manifest_table(uris, 0).sort_by("image_id"))
    assert rows["uri"].to_pylist() == sorted(f"{bucket}/{key}" for key in KEYS)
    assert set(rows["status"].to_pylist()) == {"ok"}


@pytest.mark.s3
def test_one_of_them_is_an_input_alone_and_a_folder_called_so_is_one(bucket: str) -> None:
    assert list_input(InputSettings(path=bucket + "/a//b"))["uri"].to_pylist() == [bucket + "/a//b"]
    assert list_input(InputSettings(path=bucket + "/dir/"))["uri"].to_pylist() == [
        bucket + "/dir/",
        bucket + "/dir/plain",
    ]
    assert list_input(InputSettings(path=bucket + "/x/."))["uri"].to_pylist() == [bucket + "/x/./y"]
    with pytest.raises(ValueError, match="does not exist; give a folder"):
        list_input(InputSettings(path=bucket + "/no//thing"))


@pytest.mark.s3
def test_one_that_is_not_there_says_so(bucket: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"reading s3://.*/b//a failed: no object has this key"):
        storage.read_bytes(bucket + "/b//a")
    with pytest.raises(OSError, match=r"reading s3://.*-other/a//b failed: .*NoSuchBucket.*; see docs/s3\.md"):
        storage.read_bytes(bucket + "-other/a//b")
