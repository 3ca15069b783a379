"""The manifest: every file of the input once, whatever its name, and the same one at every start."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.cascade import rows as records
from jobs.data import ingest
from jobs.settings import InputSettings
from tests.small_images import encode


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def listed(folder: Path) -> list[str]:
    return [uri.removeprefix(f"{folder}/") for uri in ingest.list_input(InputSettings(path=str(folder)))]


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
        ingest.list_input(InputSettings(path=str(tmp_path / "list.parquet")))


def test_a_list_without_the_column_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["a"]}), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=r"has no column 'uri' \(it has url\)"):
        ingest.list_input(InputSettings(path=str(tmp_path / "list.parquet")))


def test_a_name_that_no_storage_can_have_is_a_failed_row(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(encode(0))
    uris = [str(good), "s3://bucket/a//b.jpg", str(tmp_path / "nul\0.jpg"), str(tmp_path / "nowhere.jpg")]
    rows = ingest.ReadAndDecode(10**6, 4)(records.manifest_table(uris))
    assert rows["status"].to_pylist() == ["ok", "failed", "failed", "failed"]
    assert "Empty path component" in rows["error"][1].as_py()
    assert "FileNotFoundError" in rows["error"][3].as_py()


def test_a_manifest_keeps_its_ids_when_files_appear(tmp_path: Path) -> None:
    folder, run = write(tmp_path / "in", "b.jpg"), str(tmp_path / "run")
    settings = InputSettings(path=str(folder))
    assert ingest.open_manifest(run, settings) == 1
    write(folder, "a.jpg")
    assert ingest.open_manifest(run, settings) == 1
    assert ingest.read_manifest(run)["uri"].to_pylist() == [str(folder / "b.jpg")]


def test_what_an_interrupted_listing_left_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "ROWS_PER_MANIFEST_FILE", 2)
    run = str(tmp_path / "run")
    ingest.write_manifest(run, records.manifest_table([f"/old/{i}.jpg" for i in range(7)]))
    folder = write(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg")
    assert ingest.open_manifest(run, InputSettings(path=str(folder))) == 3
    assert ingest.open_manifest(run, InputSettings(path=str(folder))) == 3
    assert ingest.read_manifest(run)["image_id"].to_pylist() == [0, 1, 2]


def test_another_input_in_the_same_run_folder_is_refused(tmp_path: Path) -> None:
    folder, run = write(tmp_path / "in", "a.jpg"), str(tmp_path / "run")
    ingest.open_manifest(run, InputSettings(path=str(folder)))
    with pytest.raises(ValueError, match=r"was started for input .*choose another run\.folder"):
        ingest.open_manifest(run, InputSettings(path=str(folder), limit=1))
