"""Images without labels: what a label job would find, none with a class."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.data.listing import UNLABELLED, DatasetSettings
from anchornet.data.unlabelled import list_unlabelled
from tests.small_images import encode, write_folders


def listed(path: Path, **settings: object) -> pa.Table:
    found = list_unlabelled(DatasetSettings(path=str(path), **settings), seed=3)  # type: ignore[arg-type]
    assert found.classes == ()
    assert found.rows_are_files
    return pa.concat_tables(found.blocks).sort_by("image_id")


def test_every_file_of_a_folder_is_an_image_of_no_class(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "deep/er/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encode(0))
    rows = listed(tmp_path)
    assert rows["uri"].to_pylist() == [str(tmp_path / name) for name in ("a.png", "b.png", "deep/er/c.png")]
    assert rows["image_id"].to_pylist() == [0, 1, 2]
    assert rows["label"].to_pylist() == [UNLABELLED] * 3


def test_class_folders_are_folders_like_any_other(tmp_path: Path) -> None:
    assert listed(Path(write_folders(str(tmp_path), 6)))["label"].to_pylist() == [UNLABELLED] * 6


def test_a_list_of_names_is_taken_too(tmp_path: Path) -> None:
    uris = [str(tmp_path / "x.png"), str(tmp_path / "y.png")]
    pq.write_table(pa.table({"uri": uris}), tmp_path / "list.parquet")
    assert listed(tmp_path / "list.parquet")["uri"].to_pylist() == uris


def test_a_limit_draws_by_the_seed_and_the_images_can_be_read(tmp_path: Path) -> None:
    folder = write_folders(str(tmp_path), 300)
    found = list_unlabelled(DatasetSettings(path=folder, limit=200, accept_truncated=True), seed=3)
    assert [block.num_rows for block in found.blocks] == [128, 72]
    assert found.accept_truncated
    again = list_unlabelled(DatasetSettings(path=folder, limit=200), seed=3)
    assert found.blocks == again.blocks
    other = list_unlabelled(DatasetSettings(path=folder, limit=200), seed=4)
    assert found.blocks != other.blocks
    [(rows, contents), *_] = found.read(found.blocks[1], 128)
    assert [Path(uri).read_bytes() for uri in rows["uri"].to_pylist()] == contents


def test_images_in_parquet_are_read_row_group_by_row_group(tmp_path: Path) -> None:
    contents = [encode(seed) for seed in range(10)]
    pq.write_table(pa.table({"picture": contents}), tmp_path / "images.parquet", row_group_size=4)
    settings = DatasetSettings(path=str(tmp_path), image_column="picture", limit=7)
    found = list_unlabelled(settings, seed=1)
    assert not found.rows_are_files
    read = {
        image_id: content
        for block in found.blocks
        for rows, chunk in found.read(block, 2)
        for image_id, content in zip(rows["image_id"].to_pylist(), chunk, strict=True)
    }
    assert len(read) == 7
    assert all(content == contents[image_id] for image_id, content in read.items())


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no files; give a folder"):
        list_unlabelled(DatasetSettings(path=str(tmp_path)), seed=0)
