"""Parquet as data sets of Hugging Face, Spark and pandas leave it: where images, names of classes and labels are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.data.inputs import InputSettings, list_input
from anchornet.data.listing import DatasetSettings, Listing
from anchornet.data.manifest import group_bounds, grouped, manifest_table
from anchornet.data.parquet import read_row_groups
from anchornet.data.reading import with_contents
from anchornet.data.sources import list_images
from tests.small_images import encode

NAMES = ("tabby cat", "dog", "eel")


def write_hugging_face(
    path: Path,
    labels: Sequence[int],
    *,
    names: Sequence[str] | None = NAMES,
    image: str = "image",
    label: str = "label",
    contents: Sequence[dict[str, Any]] | None = None,
    group_rows: int = 3,
) -> Path:
    """A shard as the library ``datasets`` writes it; names None: without its metadata."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    contents = contents or [{"bytes": encode(k), "path": f"{k}.png"} for k in range(len(labels))]
    table = pa.table({image: pa.array(contents, kind), label: pa.array(labels, pa.int64())})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group_rows)
    return path


def found_in(path: Path, classes: tuple[str, ...] | None = None, **settings: Any) -> Listing:
    return list_images(DatasetSettings(path=str(path), **settings), classes, seed=0)


def labels_of(found: Listing) -> dict[int, str]:
    return {row["image_id"]: found.classes[row["label"]] for block in found.blocks for row in block.to_pylist()}


def contents_of(found: Listing) -> dict[int, bytes | OSError]:
    read: dict[int, bytes | OSError] = {}
    for block in found.blocks:
        for chunk, contents in found.read(block, 2):
            read.update(zip(chunk["image_id"].to_pylist(), contents, strict=True))
    return read


class TestClassNames:
    def test_the_metadata_names_the_classes_in_their_order(self, tmp_path: Path) -> None:
        found = found_in(write_hugging_face(tmp_path / "d.parquet", [2, 0, 2, 0]))
        assert found.classes == NAMES  # the dog too, of which there is no image
        assert labels_of(found) == {0: "eel", 1: "tabby cat", 2: "eel", 3: "tabby cat"}

    def test_a_network_finds_its_classes_by_name(self, tmp_path: Path) -> None:
        path = write_hugging_face(tmp_path / "d.parquet", [2, 0])
        assert labels_of(found_in(path, ("eel", "tabby cat", "fox"))) == {
            0: "eel",
            1: "tabby cat",
        }  # the dog is not met
        with pytest.raises(ValueError, match="1 classes that the network does not know, such as 'eel'"):
            found_in(path, ("tabby cat", "dog"))

    @pytest.mark.parametrize("metadata", [b"not json", b"{}", b'{"info": {"features": {"label": {"_type": "Value"}}}}'])
    def test_without_names_the_numbers_are_names(self, metadata: bytes, tmp_path: Path) -> None:
        path = write_hugging_face(tmp_path / "d.parquet", [10, 9], names=None)
        pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": metadata}), path)
        assert found_in(path).classes == ("9", "10")

    def test_a_number_without_a_name_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"d\.parquet: label 3 has no name, the schema's metadata names 3"):
            found_in(write_hugging_face(tmp_path / "d.parquet", [0, 3]))

    def test_shards_that_name_them_differently_are_refused(self, tmp_path: Path) -> None:
        write_hugging_face(tmp_path / "a.parquet", [0, 1])
        write_hugging_face(tmp_path / "b.parquet", [0, 1], names=("dog", "tabby cat"))
        with pytest.raises(
            ValueError, match=r"a\.parquet and .*b\.parquet name their classes differently in their schemas"
        ):
            found_in(tmp_path)

    def test_numbers_in_one_shard_and_text_in_another_are_refused(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"image": [b"x"], "label": [1]}), tmp_path / "a.parquet")
        pq.write_table(pa.table({"image": [b"x"], "label": ["cat"]}), tmp_path / "b.parquet")
        with pytest.raises(
            ValueError, match=r"'label' holds whole numbers in .*a\.parquet and text in .*b\.parquet; write them alike"
        ):
            found_in(tmp_path)


class TestUnlabelled:
    @pytest.mark.parametrize("names", [NAMES, None], ids=["named", "numbers"])
    def test_they_are_left_out_and_counted(
        self, names: Sequence[str] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = found_in(write_hugging_face(tmp_path / "d.parquet", [0, -1, 1, -1, 1], names=names))
        assert sorted(labels_of(found)) == [0, 2, 4]  # ids are positions among all rows
        assert "2 of 5 rows are left out, their label is -1" in caplog.text
        assert contents_of(found) == {k: encode(k) for k in (0, 2, 4)}

    def test_a_limit_counts_only_labelled_ones(self, tmp_path: Path) -> None:
        path = write_hugging_face(tmp_path / "d.parquet", [-1] * 20 + [0, 1])
        assert sorted(labels_of(found_in(path, limit=2))) == [20, 21]

    def test_nothing_but_them_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has no labels: all 2 rows have -1; label some"):
            found_in(write_hugging_face(tmp_path / "d.parquet", [-1, -1]))


class TestColumns:
    def test_their_names_are_settings(self, tmp_path: Path) -> None:
        path = write_hugging_face(tmp_path / "d.parquet", [1, 0], image="img", label="fine_label")
        found = found_in(path, image_column="img", label_column="fine_label")
        assert labels_of(found) == {0: "dog", 1: "tabby cat"}
        assert contents_of(found) == {k: encode(k) for k in range(2)}
        with pytest.raises(
            ValueError, match=r"no column 'image' \(it has img, fine_label\); set image_column and label_column"
        ):
            found_in(path)

    def test_plain_bytes(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"image": [encode(0), encode(1)], "label": ["a", "b"]}), tmp_path / "d.parquet")
        assert contents_of(found_in(tmp_path / "d.parquet")) == {k: encode(k) for k in range(2)}


class TestPaths:
    """``{bytes: null, path}``: the image lies elsewhere."""

    def test_they_are_followed_beside_the_file_or_from_the_root(self, tmp_path: Path) -> None:
        for name in ("set/images/a.png", "other/b.png"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_bytes(encode(len(name)))
        contents = [
            {"bytes": None, "path": "images/a.png"},
            {"bytes": None, "path": f"file://{tmp_path}/other/b.png"},
            {"bytes": b"own", "path": "images/a.png"},
            {"bytes": None, "path": "gone.png"},
            {"bytes": None, "path": None},
        ]
        found = found_in(write_hugging_face(tmp_path / "set" / "d.parquet", [0, 1, 0, 1, 0], contents=contents))
        read = contents_of(found)
        assert (read[0], read[1], read[2], read[4]) == (encode(16), encode(11), b"own", b"")
        assert isinstance(read[3], FileNotFoundError)
        assert f"{tmp_path}/set/gone.png" in str(read[3])


class TestFolders:
    def test_what_hugging_face_and_spark_put_beside_is_no_data(self, tmp_path: Path) -> None:
        write_hugging_face(tmp_path / "data" / "train-00000-of-00002.parquet", [0, 1])
        write_hugging_face(tmp_path / "data" / "train-00001-of-00002.parquet", [2, 1])
        for name in ("README.md", ".gitattributes", "LICENSE", "_SUCCESS", "dataset_infos.json", "._SUCCESS.crc"):
            (tmp_path / name).write_bytes(b"x")
        found = found_in(tmp_path)
        assert labels_of(found) == {0: "tabby cat", 1: "dog", 2: "eel", 3: "dog"}

    def test_a_folder_called_as_a_file(self, tmp_path: Path) -> None:
        write_hugging_face(tmp_path / "d.parquet" / "part-0.parquet", [0, 1])
        (tmp_path / "d.parquet" / "_SUCCESS").write_bytes(b"")
        assert labels_of(found_in(tmp_path / "d.parquet")) == {0: "tabby cat", 1: "dog"}

    def test_upper_case_endings(self, tmp_path: Path) -> None:
        write_hugging_face(tmp_path / "D.PARQUET", [0, 1])
        assert (
            labels_of(found_in(tmp_path)) == labels_of(found_in(tmp_path / "D.PARQUET")) == {0: "tabby cat", 1: "dog"}
        )

    def test_a_shard_that_was_never_fetched_is_named(self, tmp_path: Path) -> None:
        write_hugging_face(tmp_path / "a.parquet", [0, 1])
        (tmp_path / "b.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 5\n")
        with pytest.raises(
            ValueError, match=r"b\.parquet is a pointer of Git LFS, not the file itself; run git lfs pull"
        ):
            found_in(tmp_path)


class TestLabelling:
    """The same files as the input of a label job."""

    def table(self, path: Path, **settings: Any) -> pa.Table:
        return list_input(InputSettings(path=str(path), **settings))

    def test_a_row_per_image_that_says_where_it_is(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write_hugging_face(tmp_path / f"{name}.parquet", [0, -1, 1, 2, 0])
        (tmp_path / "README.md").write_bytes(b"x")
        table = self.table(tmp_path)
        assert table["uri"].to_pylist() == [f"{tmp_path}/{name}.parquet#{row}" for name in "ab" for row in range(5)]
        assert table["row_group"].to_pylist() == [0, 0, 0, 1, 1] * 2
        assert table["row"].to_pylist() == [0, 1, 2, 0, 1] * 2
        assert group_bounds(table) == [0, 3, 5, 8, 10]

    def test_their_bytes_are_read_a_group_at_a_time(self, tmp_path: Path) -> None:
        table = self.table(write_hugging_face(tmp_path / "d.parquet", [0] * 8))
        manifest = manifest_table(table["uri"].to_pylist(), 5, table.drop_columns("uri"))
        read = {}
        for group in grouped(manifest, 1):
            for rows, contents in read_row_groups(group, 2):
                read.update(zip(rows["image_id"].to_pylist(), contents, strict=True))
        assert read == {k: encode(k) for k in range(8)}

    def test_groups_are_permuted_and_keep_together(self, tmp_path: Path) -> None:
        table = self.table(write_hugging_face(tmp_path / "d.parquet", [0] * 30))
        orders = [
            manifest_table(table["uri"].to_pylist(), seed, table.drop_columns("uri"))["image_id"].to_pylist()
            for seed in (0, 0, 1)
        ]
        assert orders[0] == orders[1] != orders[2]
        assert sorted(orders[0]) == list(range(30)) != orders[0]
        groups = [orders[0][start : start + 3] for start in range(0, 30, 3)]
        assert all(group == list(range(group[0], group[0] + 3)) for group in groups)

    def test_an_image_column_goes_before_a_column_of_names(self, tmp_path: Path) -> None:
        table = pa.table({"image": [encode(0)], "url": ["https://example.org/0.jpg"], "thumb": ["/t.jpg"]})
        pq.write_table(table, tmp_path / "d.parquet")
        assert self.table(tmp_path / "d.parquet")["uri"].to_pylist() == [f"{tmp_path}/d.parquet#0"]
        assert self.table(tmp_path / "d.parquet", uri_column="thumb")["uri"].to_pylist() == ["/t.jpg"]

    def test_another_column_by_setting(self, tmp_path: Path) -> None:
        path = write_hugging_face(tmp_path / "d.parquet", [0, 1], image="img", label="fine_label")
        assert len(self.table(path, image_column="img")) == 2
        with pytest.raises(
            ValueError, match=r"it has img, fine_label\); set input\.uri_column, or input\.image_column"
        ):
            self.table(path)

    def test_a_later_shard_without_images_is_named(self, tmp_path: Path) -> None:
        write_hugging_face(tmp_path / "a.parquet", [0])
        pq.write_table(pa.table({"image": ["a.jpg"]}), tmp_path / "b.parquet")
        with pytest.raises(
            ValueError, match=r"b\.parquet: column 'image' must hold encoded images \(binary\), got string"
        ):
            self.table(tmp_path)

    def test_columns_go_along(self, tmp_path: Path) -> None:
        table = self.table(write_hugging_face(tmp_path / "d.parquet", [2, -1]), carry_columns=("label",))
        assert table["along_label"].to_pylist() == [2, -1]
        with pytest.raises(ValueError, match=r"has no column 'labels' \(it has image, label\)"):
            self.table(tmp_path / "d.parquet", carry_columns=("labels",))


def test_a_file_that_goes_or_breaks_meanwhile_is_the_error_of_its_rows(tmp_path: Path) -> None:
    path = write_hugging_face(tmp_path / "d.parquet", [0, 1, 0, 1, 0], group_rows=5)
    [block] = found_in(path).blocks
    data = path.read_bytes()
    middle = data.index(encode(2)[40:80])
    path.write_bytes(data[:middle])
    chunks = list(read_row_groups(block, 2))
    assert [rows["image_id"].to_pylist() for rows, _ in chunks] == [[0, 1], [2, 3], [4]]
    assert all("is no Parquet file" in str(content) for _, contents in chunks for content in contents)
    path.unlink()
    [(rows, contents)] = read_row_groups(block, 10)
    assert len(rows) == len(contents) == 5
    assert all(isinstance(content, FileNotFoundError) for content in contents)


def test_pieces_are_whole_groups_of_so_many_rows() -> None:
    table = pa.table({"row_group": [0, 0, 1, 1, 0, 0, 0, 1], "file": ["a"] * 4 + ["b"] * 4})
    assert group_bounds(table) == [0, 2, 4, 7, 8]
    assert [len(piece) for piece in grouped(table, 1)] == [2, 2, 3, 1]
    assert [len(piece) for piece in grouped(table, 3)] == [4, 3, 1]
    assert [len(piece) for piece in grouped(table, 100)] == [8]
    assert grouped(table.slice(0, 0), 3) == []


def test_contents_beside_their_rows() -> None:
    rows = with_contents(pa.table({"uri": ["a", "b"]}), [b"x", FileNotFoundError("gone")])
    assert rows["content"].to_pylist() == [b"x", None]
    assert rows["trouble"].to_pylist() == [None, "FileNotFoundError: gone"]


class TestSharedCases:
    def test_class_labels(self, cases: Path) -> None:
        found = found_in(cases / "hf_classlabel.parquet")
        assert set(labels_of(found).values()) <= set(found.classes)
        assert not set(found.classes) & {"0", "1"}
        assert all(isinstance(content, bytes) and content for content in contents_of(found).values())

    def test_paths_that_lead_nowhere_say_so(self, cases: Path) -> None:
        found = found_in(cases / "hf_path_only.parquet")
        assert all(isinstance(content, FileNotFoundError) for content in contents_of(found).values())

    def test_mixed_labels(self, cases: Path) -> None:
        with pytest.raises(ValueError, match="write them alike"):
            found_in(cases / "mixed_label_types")
