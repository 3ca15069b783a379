"""The manifest: every file of the input once, in a random order, whatever its name, and the same one at every start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.data import manifest
from anchornet.data.inputs import InputSettings
from anchornet.data.manifest import manifest_table, open_manifest, read_manifest, write_manifest
from anchornet.data.reading import ReadAndDecode
from anchornet.images.preprocess import Preprocessing
from tests.small_images import encode


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_a_name_that_no_storage_can_have_is_a_failed_row(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(encode(0))
    uris = [str(good), "wasb://bucket/b.jpg", str(tmp_path / "nul\0.jpg"), str(tmp_path / "nowhere.jpg")]
    rows = ReadAndDecode(Preprocessing(), 10**6, 4)(manifest_table(uris, 0).sort_by("image_id"))
    assert rows["status"].to_pylist() == ["ok", "failed", "failed", "failed"]
    assert "only local paths, s3:// and gs:// URIs" in rows["error"][1].as_py()
    assert "FileNotFoundError" in rows["error"][3].as_py()


def test_a_manifest_keeps_its_ids_when_files_appear(tmp_path: Path) -> None:
    folder, run = write(tmp_path / "in", "b.jpg"), str(tmp_path / "run")
    settings = InputSettings(path=str(folder))
    assert open_manifest(run, settings, 0) == 1
    write(folder, "a.jpg")
    assert open_manifest(run, settings, 0) == 1
    assert read_manifest(run)["uri"].to_pylist() == [str(folder / "b.jpg")]


def test_what_an_interrupted_listing_left_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ROWS_PER_FILE", 2)
    run = str(tmp_path / "run")
    write_manifest(run, manifest_table([f"/old/{i}.jpg" for i in range(7)], 0))
    folder = write(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg")
    assert open_manifest(run, InputSettings(path=str(folder)), 0) == 3
    assert open_manifest(run, InputSettings(path=str(folder)), 0) == 3
    assert sorted(read_manifest(run)["image_id"].to_pylist()) == [0, 1, 2]


def test_another_input_in_the_same_run_folder_is_refused(tmp_path: Path) -> None:
    folder, run = write(tmp_path / "in", "a.jpg"), str(tmp_path / "run")
    open_manifest(run, InputSettings(path=str(folder)), 0)
    with pytest.raises(ValueError, match=r"was made for input .*choose another run\.folder"):
        open_manifest(run, InputSettings(path=str(folder), limit=1), 0)


def test_the_order_is_a_permutation_of_the_listing_drawn_from_the_seed() -> None:
    uris = [f"{i:03d}.jpg" for i in range(200)]
    table = manifest_table(uris, 7)
    assert table.sort_by("image_id")["uri"].to_pylist() == uris
    assert table["uri"].to_pylist() != uris
    assert table.equals(manifest_table(uris, 7))
    assert not table.equals(manifest_table(uris, 8))


@given(st.lists(st.text("abc/ü", max_size=4), max_size=30), st.integers(0, 2**32))
def test_every_name_is_labelled_exactly_once_under_its_position(uris: list[str], seed: int) -> None:
    rows = manifest_table(uris, seed).to_pylist()
    assert sorted(row["image_id"] for row in rows) == list(range(len(uris)))
    assert all(row["uri"] == uris[row["image_id"]] for row in rows)


def test_another_column_of_the_same_list_is_another_input(tmp_path: Path) -> None:
    path, run = tmp_path / "list.parquet", str(tmp_path / "run")
    pq.write_table(pa.table({"small": ["/s.jpg"], "large": ["/l.jpg"], "id": [7]}), path)
    small = InputSettings(path=str(path), uri_column="small")
    assert open_manifest(run, small, 0) == 1
    for other in (replace(small, uri_column="large"), replace(small, carry_columns=("id",))):
        with pytest.raises(ValueError, match="was made for input"):
            open_manifest(run, other, 0)


def test_further_columns_go_with_their_image() -> None:
    uris = [f"/{i}.jpg" for i in range(50)]
    table = manifest_table(uris, 3, pa.table({"along_n": list(range(50))}))
    assert table["along_n"].equals(table["image_id"])
    assert table["uri"].to_pylist() == [f"/{i}.jpg" for i in table["along_n"].to_pylist()]
