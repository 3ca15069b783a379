"""From names to pixels: what cannot be used becomes a row that says why, and never an error of the job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from anchornet.cascade.rows import image_layout, read_carried, wanting_rows
from anchornet.data.reading import (
    ReadAndDecode,
    decode_memory_bytes,
    read_ahead,
    read_files,
    read_or_error,
    shape_or_error,
    with_contents,
)
from anchornet.images.decode import decode
from anchornet.images.preprocess import Preprocessing
from tests.small_images import DAMAGED, encode

SMALL = Preprocessing.of_size(32)
MANY_PIXELS = 10**6


def write(folder: Path, **contents: bytes) -> dict[str, str]:
    """Files by name; their paths."""
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in contents}


def manifest(uris: list[str]) -> pa.Table:
    return pa.table({"image_id": np.arange(len(uris)) + 5, "uri": pa.array(uris, pa.string())})


@pytest.mark.parametrize(
    ("content", "max_pixels", "status", "reason"),
    [
        (encode(0), MANY_PIXELS, "ok", None),
        (encode(0), 100, "unreadable", "too many pixels: 64 x 64 > 100"),
        (DAMAGED, MANY_PIXELS, "unreadable", "damaged"),
        (b"", MANY_PIXELS, "unreadable", "empty file"),
        (PermissionError("not yours"), MANY_PIXELS, "failed", "PermissionError: not yours"),
    ],
    ids=["an image", "too large", "damaged", "empty", "not given"],
)
def test_storage_that_gives_nothing_is_told_from_a_file_that_is_no_image(
    content: bytes | OSError, max_pixels: int, status: str, reason: str | None
) -> None:
    pixels, found, error = shape_or_error(content, SMALL, max_pixels)
    assert found == status
    assert (pixels is None) == (status != "ok")
    assert error is None if reason is None else reason in str(error)


@pytest.mark.parametrize("accepted", [False, True])
def test_a_file_without_its_tail_is_labelled_with_a_note_when_that_was_set(tmp_path: Path, accepted: bool) -> None:
    files = write(tmp_path, whole=encode(1), cut=encode(0, side=200)[:-9000])
    rows = ReadAndDecode(SMALL, MANY_PIXELS, 2, accepted)(manifest([files["whole"], files["cut"]]))
    assert rows["status"].to_pylist() == ["ok", "ok" if accepted else "unreadable"]
    assert rows["error"].to_pylist() == [
        None,
        f"truncated {'PNG: its tail is missing' if accepted else 'or damaged PNG'}",
    ]
    assert wanting_rows(rows).tolist() == ([0, 1] if accepted else [0])


def test_pixels_are_those_of_the_preprocessing() -> None:
    pixels, _, _ = shape_or_error(encode(3), SMALL, MANY_PIXELS)
    assert pixels is not None
    assert (pixels == SMALL(decode(encode(3), MANY_PIXELS))).all()


def test_a_batch_keeps_its_rows_in_order_and_carries_only_images(tmp_path: Path) -> None:
    files = write(tmp_path, a=encode(1), b=DAMAGED, c=encode(2))
    uris = [files["c"], str(tmp_path / "gone"), files["a"], files["b"]]
    rows = ReadAndDecode(SMALL, MANY_PIXELS, 3)(manifest(uris))
    assert rows["image_id"].to_pylist() == [5, 6, 7, 8]
    assert rows["uri"].to_pylist() == uris
    assert rows["status"].to_pylist() == ["ok", "failed", "ok", "unreadable"]
    assert wanting_rows(rows).tolist() == [0, 2]
    carried = read_carried(rows, image_layout(32))["image"]
    assert (carried == np.stack([SMALL(decode(encode(k), MANY_PIXELS)) for k in (2, 1)])).all()


def test_bytes_that_were_read_elsewhere_are_as_good_as_files(tmp_path: Path) -> None:
    files = write(tmp_path, a=encode(1), b=DAMAGED)
    table = manifest([files["a"], str(tmp_path / "gone"), files["b"]])
    alone = ReadAndDecode(SMALL, MANY_PIXELS, 3)(table)
    contents = [read_or_error(uri) for uri in table["uri"].to_pylist()]
    assert ReadAndDecode(SMALL, MANY_PIXELS, 3)(with_contents(table, contents)).equals(alone)
    assert alone["status"].to_pylist() == ["ok", "failed", "unreadable"]


def test_columns_that_go_along_stay_with_their_row(tmp_path: Path) -> None:
    files = write(tmp_path, a=encode(1), b=DAMAGED)
    table = manifest([*files.values()]).append_column("along_sku", pa.array(["007", None]))
    rows = ReadAndDecode(SMALL, MANY_PIXELS, 3)(table.append_column("row_group", pa.array([0, 0])))
    assert rows["along_sku"].to_pylist() == ["007", None]
    assert "row_group" not in rows.column_names


def test_no_rows_are_no_error() -> None:
    rows = ReadAndDecode(SMALL, MANY_PIXELS, 3)(manifest([]))
    assert len(rows) == 0
    assert wanting_rows(rows).tolist() == []


def test_files_are_read_in_chunks_with_their_rows(tmp_path: Path) -> None:
    files = write(tmp_path, a=b"1", b=b"2", c=b"3")
    chunks = list(read_files(manifest([*files.values()]), 2))
    assert [(chunk["image_id"].to_pylist(), contents) for chunk, contents in chunks] == [
        ([5, 6], [b"1", b"2"]), ([7], [b"3"]),
    ]  # fmt: skip


def test_a_name_that_no_storage_can_have_is_an_error_like_any_other(tmp_path: Path) -> None:
    assert isinstance(read_or_error(str(tmp_path / "gone")), FileNotFoundError)
    impossible = read_or_error(str(tmp_path / "nul\0.jpg"))
    assert isinstance(impossible, OSError)
    assert str(impossible).startswith("ArrowInvalid: ") or "Error: " in str(impossible)


def test_a_task_declares_its_largest_image_and_its_batch() -> None:
    resized = 8 * 16_000_000
    assert decode_memory_bytes(Preprocessing(), 100_000_000, 64) == 8 * 100_000_000 + resized + 3 * 224 * 224 * 64


def test_no_more_files_are_read_ahead_than_threads_read(tmp_path: Path) -> None:
    files = [*write(tmp_path, **{name: name.encode() for name in "abcde"}).values()]
    contents = read_ahead(manifest(files), 2)
    assert next(contents) == b"a"
    for file in files[2:]:  # a and b alone have been asked for
        Path(file).unlink()
    rest = list(contents)
    assert rest[0] == b"b"
    assert [type(each) for each in rest[1:]] == [FileNotFoundError] * 3
