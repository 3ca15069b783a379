"""Tars of WebDataset: samples by key, labels from cls or json, each image read by its place in the file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.data.inputs import InputSettings, list_input
from anchornet.data.listing import DatasetSettings, Listing
from anchornet.data.manifest import manifest_table
from anchornet.data.reading import ReadAndDecode, read_part
from anchornet.data.sources import list_images
from anchornet.files import storage
from anchornet.images.preprocess import Preprocessing
from tests.small_images import CLASSES, DAMAGED, encode, tar_of


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(members))
    return path


def shard(first: int, count: int) -> dict[str, bytes]:
    """Samples as WebDataset's writer makes them, with a number as their class."""
    members = {}
    for index in range(first, first + count):
        members[f"{index:06d}.cls"] = f"{index % 2}\n".encode()
        members[f"{index:06d}.png"] = encode(index)
        members[f"{index:06d}.json"] = json.dumps({"sku": f"{index:03d}", "label": CLASSES[index % 2]}).encode()
    return members


def listed(path: Path | str, **settings: Any) -> pa.Table:
    return list_input(InputSettings(path=str(path), **settings))


def found_in(path: Path | str, classes: tuple[str, ...] | None = None, **settings: Any) -> Listing:
    return list_images(DatasetSettings(path=str(path), **settings), classes, seed=3)


def labels_of(found: Listing) -> dict[int, str]:
    return {row["image_id"]: found.classes[row["label"]] for block in found.blocks for row in block.to_pylist()}


def contents_of(found: Listing) -> dict[int, bytes | OSError]:
    read: dict[int, bytes | OSError] = {}
    for block in found.blocks:
        for chunk, contents in found.read(block, 3):
            read.update(zip(chunk["image_id"].to_pylist(), contents, strict=True))
    return read


class TestLabelling:
    def test_every_image_of_every_tar_is_a_row(self, tmp_path: Path) -> None:
        for number in range(3):
            write_tar(tmp_path / f"{number:05d}.tar", shard(4 * number, 4))
        table = listed(tmp_path)
        assert table["uri"].to_pylist() == [f"{tmp_path}/{k // 4:05d}.tar#{k:06d}.png" for k in range(12)]
        manifest = manifest_table(table["uri"].to_pylist(), 0, table.drop_columns("uri"))
        assert manifest["image_id"].to_pylist() != list(range(12))
        rows = ReadAndDecode(Preprocessing(), 10**6, 4)(manifest)
        apart = ReadAndDecode(Preprocessing(), 10**6, 4)(files_of(tmp_path / "apart", manifest["image_id"].to_pylist()))
        assert rows.drop_columns("uri").equals(apart.drop_columns("uri"))
        assert set(rows["status"].to_pylist()) == {"ok"}

    def test_damaged_and_lost_images_are_rows_that_say_so(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "a.tar", {"a.jpg": DAMAGED, "b.jpg": encode(1)})
        table = listed(path)
        path.write_bytes(path.read_bytes()[:1600])  # cut off after it was listed
        table = table.set_column(1, "file", pa.array([str(path)] * 2))
        rows = ReadAndDecode(Preprocessing(), 10**6, 4)(manifest_table(table["uri"].to_pylist(), 0, table)
                                                        .sort_by("image_id"))  # fmt: skip
        assert rows["status"].to_pylist() == ["unreadable", "failed"]
        assert "a.tar ends before byte" in rows["error"][1].as_py()

    def test_one_image_per_key_in_the_order_of_the_tar(self, tmp_path: Path) -> None:
        members = dict.fromkeys(
            [
                "z/1.JPG",
                "z/1.seg.png",
                "z/1.txt",
                "notes",
                "a/1.webp",
                "a/1.png",
                "only.txt",
                "a/.hidden",
                "b.c/2.jpeg",
            ],
            b"x",
        )
        table = listed(write_tar(tmp_path / "T.TAR", members))
        names = [uri.partition("#")[2] for uri in table["uri"].to_pylist()]
        assert names == ["z/1.JPG", "a/1.webp", "b.c/2.jpeg"]

    def test_columns_go_along(self, tmp_path: Path) -> None:
        members = shard(0, 2) | {"x/9.jpg": b"x", "x/9.txt": b"a caption \n"}
        table = listed(write_tar(tmp_path / "a.tar", members), carry_columns=("key", "sku", "cls", "txt"))
        assert table["along_key"].to_pylist() == ["000000", "000001", "x/9"]
        assert table["along_sku"].to_pylist() == ["000", "001", None]
        assert table["along_cls"].to_pylist() == ["0", "1", None]
        assert table["along_txt"].to_pylist() == [None, None, "a caption"]
        with pytest.raises(ValueError, match=r"no sample of .* has 'skuu' to go along"):
            listed(tmp_path / "a.tar", carry_columns=("skuu",))
        with pytest.raises(ValueError, match=r"there are no columns for input\.uri_column"):
            listed(tmp_path / "a.tar", uri_column="sku")

    def test_values_of_several_types_cannot_go_along(self, tmp_path: Path) -> None:
        members = {"a.jpg": b"x", "a.json": b'{"n": 1}', "b.jpg": b"x", "b.json": b'{"n": "one"}'}
        with pytest.raises(ValueError, match="samples hold 'n' in several types"):
            listed(write_tar(tmp_path / "a.tar", members), carry_columns=("n",))

    def test_what_img2dataset_writes_beside_is_no_data(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "00000.tar", shard(0, 3))
        pq.write_table(pa.table({"url": ["u"]}), tmp_path / "00000.parquet")
        (tmp_path / "00000_stats.json").write_text("{}")
        (tmp_path / "README.md").write_text("x")
        write_tar(tmp_path / "00001.tar", shard(3, 1))
        assert len(listed(tmp_path)) == 4
        pq.write_table(pa.table({"url": ["u"]}), tmp_path / "images.parquet")
        with pytest.raises(
            ValueError, match=r"mixes 2 tars and 1 Parquet files; in the way are the Parquet files: .*images"
        ):
            listed(tmp_path)

    @pytest.mark.s3
    def test_from_a_bucket(self, s3_bucket: str) -> None:
        storage.write_bytes(s3_bucket + "/set/a.tar", tar_of(shard(0, 5)))
        table = listed(s3_bucket + "/set", carry_columns=("sku",))
        assert table["uri"].to_pylist() == [f"{s3_bucket}/set/a.tar#{k:06d}.png" for k in range(5)]
        assert table["along_sku"].to_pylist() == [f"{k:03d}" for k in range(5)]
        places = [table[name].to_pylist() for name in ("file", "offset", "size")]
        assert [read_part(*place) for place in zip(*places, strict=True)] == [encode(k) for k in range(5)]


def files_of(folder: Path, numbers: list[int]) -> pa.Table:
    """The same images as files of their own."""
    folder.mkdir()
    for number in numbers:
        (folder / f"{number}.png").write_bytes(encode(number))
    return pa.table({"image_id": numbers, "uri": [f"{folder}/{number}.png" for number in numbers]})


class TestLabels:
    def test_a_number_in_cls_is_a_class(self, tmp_path: Path) -> None:
        for number in range(2):
            write_tar(tmp_path / f"{number}.tar", shard(5 * number, 5))
        found = found_in(tmp_path)
        assert found.classes == ("0", "1")
        assert labels_of(found) == {k: str(k % 2) for k in range(10)}
        assert contents_of(found) == {k: encode(k) for k in range(10)}
        assert found.rows_are_files
        order = [row["image_id"] for block in found.blocks for row in block.to_pylist()]
        assert sorted(order) == list(range(10)) != order

    def test_numbers_are_sorted_as_numbers(self, tmp_path: Path) -> None:
        members = {}
        for key, label in (("a", b"10"), ("b", b"9"), ("c", b" 10\n")):
            members |= {f"{key}.jpg": b"x", f"{key}.cls": label}
        assert found_in(write_tar(tmp_path / "a.tar", members)).classes == ("9", "10")

    def test_text_in_json(self, tmp_path: Path) -> None:
        members = {name: content for name, content in shard(0, 4).items() if not name.endswith(".cls")}
        found = found_in(write_tar(tmp_path / "a.tar", members))
        assert labels_of(found) == {k: CLASSES[k % 2] for k in range(4)}
        assert labels_of(found_in(tmp_path / "a.tar", label_column="sku"))[3] == "3"

    def test_unlabelled_ones_are_left_out_and_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        members = shard(0, 4) | {"000001.cls": b"-1"}
        found = found_in(write_tar(tmp_path / "a.tar", members), ("1", "0"))
        assert labels_of(found) == {0: "0", 2: "0", 3: "1"}
        assert "1 of 4 rows are left out, their label is -1" in caplog.text

    def test_a_limit(self, tmp_path: Path) -> None:
        assert found_in(write_tar(tmp_path / "a.tar", shard(0, 8)), limit=5).num_images == 5

    @pytest.mark.parametrize(
        ("members", "said"),
        [
            ({"a.jpg": b"x"}, "sample a has no label: no .cls, and 'label' in its .json is None; set label_column"),
            ({"a.jpg": b"x", "a.json": b'{"label": [1]}'}, r"'label' in its \.json is \[1\]"),
            ({"a.jpg": b"x", "a.json": b"{"}, "the json of sample a is no JSON"),
            ({"a.jpg": b"x", "a.cls": b""}, "sample a has no label"),
            ({"a.txt": b"x"}, "has no images in its tars"),
            (
                {"a.jpg": b"x", "a.cls": b"1", "b.jpg": b"x", "b.cls": b"cat"},
                "labels some samples by number and some by text; write them alike",
            ),
        ],
    )
    def test_what_cannot_be_learned_from_is_refused(self, members: dict[str, bytes], said: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=said):
            found_in(write_tar(tmp_path / "a.tar", members))


class TestDamage:
    @pytest.mark.parametrize(
        "content",
        [tar_of(shard(0, 3))[:8000], gzip.compress(tar_of(shard(0, 3))), b"no tar at all"],
        ids=["cut off", "compressed", "text"],
    )
    def test_a_tar_that_does_not_end_as_one_is_named(self, content: bytes, tmp_path: Path) -> None:
        write_tar(tmp_path / "a.tar", shard(0, 3))
        (tmp_path / "b.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"b\.tar does not end as a tar does: it is cut off, compressed or no tar"):
            listed(tmp_path)

    def test_a_damaged_header_is_named(self, tmp_path: Path) -> None:
        content = tar_of(shard(0, 3))
        (tmp_path / "b.tar").write_bytes(b"\xff" * 300 + content[300:])
        with pytest.raises(ValueError, match=r"b\.tar is no tar that can be read"):
            listed(tmp_path / "b.tar")

    def test_one_of_no_bytes_has_no_images(self, tmp_path: Path) -> None:
        (tmp_path / "a.tar").write_bytes(b"")
        with pytest.raises(ValueError, match="has no files; give a folder"):
            listed(tmp_path / "a.tar")
