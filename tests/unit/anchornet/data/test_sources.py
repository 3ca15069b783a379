"""Which labelled images there are: names, labels and ids from class folders and from Parquet, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.data.listing import BLOCK_IMAGES, DatasetSettings, Listing, chosen_rows, class_names
from anchornet.data.sources import list_images
from anchornet.files import storage
from tests.small_images import CLASSES, encode, write_folders, write_parquet


def test_integer_labels_are_named_by_their_text_in_numeric_order(tmp_path: Path) -> None:
    path = write_parquet(str(tmp_path / "data.parquet"), 4, labels=[10, 9, 10, -2])
    found = list_images(DatasetSettings(path=path), None, seed=0)
    assert found.classes == ("-2", "9", "10")


def test_the_classes_of_a_network_number_the_labels(tmp_path: Path) -> None:
    settings = DatasetSettings(path=write_folders(str(tmp_path), 2))
    found = list_images(settings, ("right", "middle", "left"), seed=0)
    labels = {row["uri"].split("/")[-2]: row["label"] for block in found.blocks for row in block.to_pylist()}
    assert labels == {"left": 2, "right": 0}


def test_a_limit_draws_from_the_whole_list_and_keeps_the_ids(tmp_path: Path) -> None:
    folder = write_folders(str(tmp_path / "folders"), 40)
    file = write_parquet(str(tmp_path / "data.parquet"), 40)
    for path in (folder, file):
        everything, some = (
            {
                row["image_id"]: row["uri"]
                for block in list_images(DatasetSettings(path=path, limit=limit), None, seed=5).blocks
                for row in block.to_pylist()
            }
            for limit in (None, 12)
        )
        assert len(some) == 12
        assert some.items() < everything.items()
        assert max(some) > 20
        assert min(some) < 20


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    write_folders(str(tmp_path), 4)
    storage.write_bytes(str(tmp_path / ".DS_Store"), b"x")
    storage.write_bytes(str(tmp_path / "_SUCCESS"), b"x")
    assert list_images(DatasetSettings(path=str(tmp_path)), None, seed=0).num_images == 4


def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    def refused(path: Path | str, reason: str, classes: tuple[str, ...] | None = None) -> None:
        with pytest.raises(ValueError, match=reason):
            list_images(DatasetSettings(path=str(path)), classes, seed=0)

    refused(tmp_path / "nowhere", r"does not exist; give a folder, an s3:// prefix or a \.parquet file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is empty; put images into one folder per class")
    storage.write_bytes(str(tmp_path / "one" / "cat" / "1.png"), encode(0))
    refused(tmp_path / "one", "has a single class, 'cat'")
    write_folders(str(tmp_path / "loose"), 2)
    storage.write_bytes(str(tmp_path / "loose" / "stray.png"), encode(0))
    refused(tmp_path / "loose", r"1 files outside a class folder, such as stray\.png")
    refused(tmp_path / "loose" / "stray.png", "is a single file, neither Parquet nor a tar; give the folder")
    write_folders(str(tmp_path / "other"), 2)
    refused(tmp_path / "other", "1 classes that the network does not know, such as 'right'", ("left", "up"))
    write_parquet(str(tmp_path / "other" / "left" / "more.parquet"), 2)
    refused(
        tmp_path / "other",
        r"mixes 2 other files and 1 Parquet files; in the way .* Parquet files: .*left/more\.parquet",
    )


def test_what_may_not_be_read_is_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(folder: str) -> None:  # chmod would not lock root out
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("os.scandir", locked)
    with pytest.raises(ValueError, match=r"data set .* may not be read \(.*; change its permissions"):
        list_images(DatasetSettings(path=str(tmp_path)), None, seed=0)


def test_what_says_what_the_folders_are_is_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folders(str(tmp_path), 4)
    for name in ("README.md", "LICENSE", "classes.txt"):
        storage.write_bytes(str(tmp_path / name), b"x")
    assert list_images(DatasetSettings(path=str(tmp_path)), None, seed=0).num_images == 4
    assert "3 files beside the class folders are no images, such as" in caplog.text


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    write_folders(str(tmp_path / "disk"), 4)
    (tmp_path / "set").mkdir()
    for name in CLASSES:
        (tmp_path / "set" / name).symlink_to(tmp_path / "disk" / name)
    found = list_images(DatasetSettings(path=str(tmp_path / "set")), None, seed=0)
    assert (found.classes, found.num_images) == (CLASSES, 4)


def test_images_may_be_structs_with_bytes(tmp_path: Path) -> None:
    write_parquet(str(tmp_path / "plain.parquet"), 6)
    plain = pq.read_table(tmp_path / "plain.parquet")
    column = pa.StructArray.from_arrays([plain["image"].combine_chunks(), pa.array(["a"] * 6)], ["bytes", "path"])
    pq.write_table(pa.table({"label": plain["label"], "image": column}), tmp_path / "struct.parquet")
    contents = []
    for name in ("plain.parquet", "struct.parquet"):
        found = list_images(DatasetSettings(path=str(tmp_path / name)), None, seed=0)
        contents.append([c for block in found.blocks for _, part in found.read(block, 4) for c in part])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 6


@pytest.mark.parametrize("column", [pa.array(["a.png", "b.png"]), pa.array([{"path": "a"}, {"path": "b"}])])
def test_parquet_without_image_bytes_is_refused(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"label": ["a", "b"], "image": column}), tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="column 'image' must hold encoded images"):
        list_images(DatasetSettings(path=str(tmp_path / "data.parquet")), None, seed=0)


def test_parquet_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = str(tmp_path / "data.parquet")
    for labels, reason in (
        ([0.5, 1.0], "column 'label' must be text or integers, got double"),
        (["a", None], "has 1 rows without a label; remove them"),
        (pa.array([], pa.string()), "has no rows; write at least one image into it"),
    ):
        write_parquet(path, len(labels), labels=labels)
        with pytest.raises(ValueError, match=reason):
            list_images(DatasetSettings(path=path), None, seed=0)


def rows_of(found: Listing) -> list[dict[str, object]]:
    return [row for block in found.blocks for row in block.to_pylist()]


def contents_of(found: Listing, chunk_images: int) -> dict[int, bytes | OSError]:
    """What reading every block gives, by image_id."""
    read: dict[int, bytes | OSError] = {}
    for block in found.blocks:
        for chunk, contents in found.read(block, chunk_images):
            assert 0 < len(contents) <= chunk_images
            read.update(zip(chunk["image_id"].to_pylist(), contents, strict=True))
    return read


@pytest.mark.parametrize("form", ["folders", "parquet"])
def test_ids_are_positions_in_the_sorted_listing_whatever_the_seed(form: str, tmp_path: Path) -> None:
    path = (
        write_folders(str(tmp_path / "d"), 9)
        if form == "folders"
        else write_parquet(str(tmp_path / "d.parquet"), 9, group_rows=1)
    )
    first, second = (list_images(DatasetSettings(path=path), None, seed=seed) for seed in (1, 2))
    by_id = {row["image_id"]: row for row in rows_of(first)}
    assert sorted(by_id) == list(range(9))
    assert {row["image_id"]: row for row in rows_of(second)} == by_id
    order = [[row["image_id"] for row in rows_of(found)] for found in (first, second)]
    assert order[0] != order[1]
    again = list_images(DatasetSettings(path=path), None, seed=1)
    assert [row["image_id"] for row in rows_of(again)] == order[0]


def test_folders_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a", "C", "a10", "a9"):
        storage.write_bytes(str(tmp_path / name / "deeper" / "1.png"), b"x")
    found = list_images(DatasetSettings(path=str(tmp_path)), None, seed=0)
    assert found.classes == ("C", "a", "a10", "a9", "b")
    names = {row["label"]: str(row["uri"]).split("/")[-3] for row in rows_of(found)}
    assert [names[label] for label in range(5)] == list(found.classes)


def test_rows_of_folders_are_cut_into_blocks_and_may_be_shuffled_one_by_one(tmp_path: Path) -> None:
    for index in range(BLOCK_IMAGES + 3):
        storage.write_bytes(str(tmp_path / CLASSES[index % 2] / f"{index}.png"), b"x")
    found = list_images(DatasetSettings(path=str(tmp_path)), None, seed=0)
    assert [len(block) for block in found.blocks] == [BLOCK_IMAGES, 3]
    assert (found.num_images, found.rows_are_files) == (BLOCK_IMAGES + 3, True)


def test_a_block_of_parquet_is_one_row_group_and_stays_together(tmp_path: Path) -> None:
    path = write_parquet(str(tmp_path / "d.parquet"), 12, group_rows=5)
    found = list_images(DatasetSettings(path=path), None, seed=0)
    assert sorted(block["image_id"].to_pylist() for block in found.blocks) == [
        [0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11],
    ]  # fmt: skip
    assert not found.rows_are_files
    assert {row["uri"] for row in rows_of(found)} == {f"{path}#{k}" for k in range(12)}


@pytest.mark.parametrize("chunk_images", [1, 3, 100])
@pytest.mark.parametrize("limit", [None, 7])
def test_parquet_gives_each_row_its_own_bytes_whatever_the_cuts(
    tmp_path: Path, chunk_images: int, limit: int | None
) -> None:
    path = write_parquet(str(tmp_path / "d.parquet"), 12, group_rows=5)
    read = contents_of(list_images(DatasetSettings(path=path, limit=limit), None, seed=3), chunk_images)
    assert len(read) == (limit or 12)
    assert read == {index: encode(index) for index in read}


def test_a_row_without_an_image_is_empty_and_not_left_out(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"label": ["a", "b"], "image": pa.array([None, b"x"], pa.binary())}), path)
    assert contents_of(list_images(DatasetSettings(path=str(path)), None, seed=0), 2) == {0: b"", 1: b"x"}


def test_a_file_that_has_gone_is_its_error_and_the_others_are_read(tmp_path: Path) -> None:
    folder = Path(write_folders(str(tmp_path), 4))
    found = list_images(DatasetSettings(path=str(folder)), None, seed=0)
    (folder / "left" / "0002.png").unlink()
    read = contents_of(found, 3)
    assert {image_id for image_id, content in read.items() if isinstance(content, FileNotFoundError)} == {1}
    assert sum(isinstance(content, bytes) for content in read.values()) == 3


def test_labels_may_come_as_a_dictionary(tmp_path: Path) -> None:
    path = write_parquet(str(tmp_path / "d.parquet"), 4, labels=pa.array(["b", "a", "b", "a"]).dictionary_encode())
    found = list_images(DatasetSettings(path=path), None, seed=0)
    assert found.classes == ("a", "b")
    assert {row["image_id"]: row["label"] for row in rows_of(found)} == {0: 1, 1: 0, 2: 1, 3: 0}


def test_a_column_that_is_missing_is_named_beside_those_that_are_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": [b"x"], "label": ["a"]}), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match=r"has no column 'image' \(it has picture, label\); set image_column"):
        list_images(DatasetSettings(path=str(tmp_path / "d.parquet")), None, seed=0)


@given(st.integers(0, 200), st.one_of(st.none(), st.integers(1, 250)), st.integers(0, 9))
def test_a_draw_is_a_shuffle_without_repeats_and_a_smaller_one_is_its_beginning(
    num_images: int, limit: int | None, seed: int
) -> None:
    chosen = chosen_rows(num_images, limit, seed)
    whole = chosen_rows(num_images, None, seed)
    assert len(chosen) == min(num_images, num_images if limit is None else limit)
    assert chosen.dtype == np.int64
    assert sorted(whole.tolist()) == list(range(num_images))
    assert chosen.tolist() == whole[: len(chosen)].tolist()


def test_the_classes_of_a_network_are_kept_whole_and_in_their_order() -> None:
    assert class_names(["b"], ("c", "b", "a"), "data") == ("c", "b", "a")
    given_names = tuple(f"class {k}" for k in range(7))
    with pytest.raises(ValueError, match=r"2 classes .* such as 'x'; it knows class 0, .* class 4, \.\.\."):
        class_names(["y", "class 1", "x"], given_names, "data")


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_of_nothing_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=rf"limit must be > 0 or null, got {limit}"):
        DatasetSettings(path="d", limit=limit)
