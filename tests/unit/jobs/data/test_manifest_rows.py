"""The manifest as a source of Ray Data, without Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.data import manifest
from anchornet.data.inputs import InputSettings, list_input
from anchornet.data.manifest import manifest_files, manifest_table, write_manifest
from jobs.data.manifest_rows import GroupedRows, ManifestRows, RowGroupContents, in_row_groups
from tests.small_images import CLASSES, encode, write_parquet


def test_a_task_per_file_with_its_rows_in_order(tmp_path: Path) -> None:
    tables = [pa.table({"image_id": [3, 1, 2]}), pa.table({"image_id": [0]})]
    uris = []
    for number, table in enumerate(tables):
        uris.append(str(tmp_path / f"part-{number}.parquet"))
        pq.write_table(table, uris[-1])
    source = ManifestRows(uris)
    assert source.estimate_inmemory_data_size() is None
    tasks = source.get_read_tasks(200)
    assert [list(task()) for task in tasks] == [[table] for table in tables]
    assert [task.metadata.input_files for task in tasks] == [(uri,) for uri in uris]


def grouped_manifest(tmp_path: Path) -> tuple[str, pa.Table]:
    """A manifest of 11 images in four row groups of one file, and its rows."""
    write_parquet(str(tmp_path / "d.parquet"), 11, group_rows=3)
    found = list_input(InputSettings(path=str(tmp_path / "d.parquet"), carry_columns=("label",)))
    table = manifest_table(found["uri"].to_pylist(), 0, found.drop_columns("uri"))
    write_manifest(str(tmp_path / "manifest"), table)
    return manifest_files(str(tmp_path / "manifest"))[0], table


def test_tasks_hold_whole_row_groups(tmp_path: Path) -> None:
    uri, table = grouped_manifest(tmp_path)
    assert in_row_groups([uri])
    tasks = GroupedRows([uri], 4).get_read_tasks(200)
    pieces = [piece for task in tasks for piece in task()]
    assert pa.concat_tables(pieces).equals(table)
    assert all(len(piece) >= 4 for piece in pieces[:-1])
    assert [piece["row_group"][0] != pieces[0]["row_group"][0] for piece in pieces] == [False, True]
    assert tasks[0].metadata.input_files == (str(tmp_path / "d.parquet"),)


def test_tasks_find_their_rows_in_every_file_of_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ROWS_PER_FILE", 5)
    _, table = grouped_manifest(tmp_path)
    tasks = GroupedRows(manifest_files(str(tmp_path / "manifest")), 1).get_read_tasks(1)
    assert len(tasks) > 4  # groups that a file ends in are cut
    assert (
        pa.concat_tables(piece for task in reversed(tasks) for piece in task())
        .sort_by("image_id")
        .equals(table.sort_by("image_id"))
    )
    assert pa.concat_tables(piece for task in tasks for piece in task()).equals(table)


def test_a_manifest_of_files_is_in_no_row_groups(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), manifest_table(["/a.jpg"], 0))
    assert not in_row_groups(manifest_files(str(tmp_path)))
    assert not in_row_groups([])


@pytest.mark.parametrize("chunk_images", [1, 2, 100])
def test_rows_get_the_bytes_of_their_images(chunk_images: int, tmp_path: Path) -> None:
    _, table = grouped_manifest(tmp_path)
    left = table.filter(pa.array([image_id % 4 != 1 for image_id in table["image_id"].to_pylist()]))  # after a resume
    read = list(RowGroupContents("image", chunk_images)(left))
    assert all(0 < len(each) <= chunk_images for each in read)
    rows = pa.concat_tables(read)
    assert rows.drop_columns(["content", "trouble"]).equals(left)
    assert rows["content"].to_pylist() == [encode(image_id) for image_id in left["image_id"].to_pylist()]
    assert rows["along_label"].to_pylist() == [CLASSES[image_id % 2] for image_id in left["image_id"].to_pylist()]


def test_of_no_rows_only_the_columns_remain(tmp_path: Path) -> None:
    _, table = grouped_manifest(tmp_path)
    [nothing] = RowGroupContents("image", 3)(table.slice(0, 0))
    assert (len(nothing), nothing.column_names) == (0, [*table.column_names, "content", "trouble"])
