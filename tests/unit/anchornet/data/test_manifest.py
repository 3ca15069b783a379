"""The manifest: every file of the input once, in a random order, whatever its name, and the same one at every start."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.data import manifest
from anchornet.data.manifest import InputSettings, manifest_table, open_manifest, read_manifest, write_manifest
from anchornet.data.reading import ReadAndDecode
from anchornet.images.preprocess import Preprocessing
from tests.small_images import encode


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def listed(folder: Path) -> list[str]:
    return [uri.removeprefix(f"{folder}/") for uri in manifest.list_input(InputSettings(path=str(folder)))]


def test_every_file_is_listed_whatever_its_name(tmp_path: Path) -> None:
    names = ["_DSC0001.JPG", "_raw/a b#1%20.jpg", "deep/er/é.png", "notes.txt", "übung/_MG_1.jpg"]
    assert listed(write(tmp_path, *names)) == sorted(names)


def test_hidden_files_and_what_spark_leaves_are_not(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", ".DS_Store", ".git/b.jpg", "c/.hidden.jpg", "_SUCCESS", "_temporary/0/d.jpg")
    assert listed(tmp_path) == ["a.jpg"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, 2]), "column 'uri' must be text, got int64"),
        (pa.array(["a", None]), "has 1 rows without a uri"),
        (pa.array(["gs://b/a.jpg"]), "only local paths and s3:// URIs"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(column: pa.Array, message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": column}), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=message):
        manifest.list_input(InputSettings(path=str(tmp_path / "list.parquet")))


def test_an_input_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="has no files; give a folder, an s3:// prefix or a Parquet with a column 'uri'"
    ):
        manifest.list_input(InputSettings(path=str(write(tmp_path, ".hidden"))))
    with pytest.raises(ValueError, match="nowhere does not exist; give a folder, an s3:// prefix or a Parquet file"):
        manifest.list_input(InputSettings(path=str(tmp_path / "nowhere")))


def test_a_list_without_the_column_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["a"]}), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=r"has no column 'uri' \(it has url\)"):
        manifest.list_input(InputSettings(path=str(tmp_path / "list.parquet")))


def test_a_name_that_no_storage_can_have_is_a_failed_row(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(encode(0))
    uris = [str(good), "s3://bucket/a//b.jpg", str(tmp_path / "nul\0.jpg"), str(tmp_path / "nowhere.jpg")]
    rows = ReadAndDecode(Preprocessing(), 10**6, 4)(manifest_table(uris, 0).sort_by("image_id"))
    assert rows["status"].to_pylist() == ["ok", "failed", "failed", "failed"]
    assert "Empty path component" in rows["error"][1].as_py()
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


def test_a_limit_takes_the_first_of_the_listing(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "c.jpg", "a.jpg", "b.jpg")
    chosen = manifest.list_input(InputSettings(path=str(folder), limit=2))
    assert chosen == [str(folder / "a.jpg"), str(folder / "b.jpg")]
    pq.write_table(pa.table({"uri": chosen[::-1]}), tmp_path / "list.parquet")
    first = manifest.list_input(InputSettings(path=str(tmp_path / "list.parquet"), limit=1))
    assert first == [str(folder / "b.jpg")]  # a list of one's own keeps its order
    assert open_manifest(str(tmp_path / "run"), InputSettings(path=str(folder), limit=2), 0) == 2


@pytest.mark.parametrize("name", ["limit", "max_pixels", "decode_cpus", "read_threads"])
def test_numbers_that_cannot_work_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"input\.{name} must be > 0"):
        InputSettings(path="p", **{name: 0})  # type: ignore[arg-type]
