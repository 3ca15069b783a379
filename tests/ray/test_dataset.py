"""Labelled images as Ray Data sees them: every image once, the same ids whatever the form, new views at each epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from anchornet.data.listing import DatasetSettings, Listing
from anchornet.data.sources import list_images
from anchornet.files import storage
from anchornet.images.augment import CropSettings
from anchornet.images.decode import decode
from anchornet.images.preprocess import Preprocessing, preprocess
from jobs.data import dataset
from tests.small_images import CLASSES, encode, write_folders, write_parquet

pytestmark = pytest.mark.ray


def rows(settings: DatasetSettings, classes: tuple[str, ...] | None = None) -> dict[int, dict]:
    found = list_images(settings, classes, seed=0)
    result = {row["image_id"]: row for row in dataset.labelled_images(found, Preprocessing()).take_all()}
    assert len(result) == found.num_images
    return result


@pytest.mark.parametrize("form", ["folders", "parquet"])
def test_every_image_is_a_row_and_the_damaged_one_says_why(form: str, tmp_path: Path) -> None:
    if form == "folders":
        path = write_folders(str(tmp_path / "data"), 9, damaged=[3])
        ids = {index: position for position, index in enumerate([0, 2, 4, 6, 8, 1, 3, 5, 7])}  # sorted by class
    else:
        path = write_parquet(str(tmp_path / "data.parquet"), 9, damaged=[3], group_rows=4)
        ids = {index: index for index in range(9)}
    found = rows(DatasetSettings(path=path))
    assert sorted(found) == list(range(9))
    for index, image_id in ids.items():
        row = found[image_id]
        assert CLASSES[row["label"]] == CLASSES[index % 2]
        if index == 3:
            assert (row["status"], row["image"]) == ("unreadable", None)
            assert "damaged" in row["error"]
        else:
            assert (row["status"], row["error"]) == ("ok", None)
            assert row["image"] == preprocess(decode(encode(index))).tobytes()


def test_a_file_that_disappears_is_a_failed_row(tmp_path: Path) -> None:
    folder = Path(write_folders(str(tmp_path), 4))
    found = list_images(DatasetSettings(path=str(folder)), None, seed=0)
    (folder / "left" / "0002.png").unlink()
    statuses = {
        row["uri"].rsplit("/", 1)[1]: row["status"]
        for row in dataset.labelled_images(found, Preprocessing()).take_all()
    }
    assert statuses == {"0000.png": "ok", "0001.png": "ok", "0002.png": "failed", "0003.png": "ok"}


def test_several_parquet_files_have_ids_and_uris_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(str(tmp_path / f"{name}.parquet"), 7, group_rows=3)
    found = rows(DatasetSettings(path=str(tmp_path)))
    assert sorted(found) == list(range(14))
    assert [found[i]["uri"].rsplit("/", 1)[1] for i in (0, 6, 7, 13)] == [
        "a.parquet#0", "a.parquet#6", "b.parquet#0", "b.parquet#6",
    ]  # fmt: skip


@pytest.mark.s3
def test_s3_gives_the_same_rows_as_the_disk(tmp_path: Path, s3_bucket: str) -> None:
    here = rows(DatasetSettings(path=write_folders(str(tmp_path), 6)))
    there = rows(DatasetSettings(path=write_folders(storage.join(s3_bucket, "some/prefix"), 6)))
    columns = ("image_id", "label", "image", "status", "error")
    assert [[there[i][name] for name in columns] for i in range(6)] == [
        [here[i][name] for name in columns] for i in range(6)
    ]


class TestListing:
    def test_integer_labels_are_named_by_their_text_in_numeric_order(self, tmp_path: Path) -> None:
        path = write_parquet(str(tmp_path / "data.parquet"), 4, labels=[10, 9, 10, -1])
        found = list_images(DatasetSettings(path=path), None, seed=0)
        assert found.classes == ("-1", "9", "10")

    def test_the_classes_of_a_network_number_the_labels(self, tmp_path: Path) -> None:
        settings = DatasetSettings(path=write_folders(str(tmp_path), 2))
        found = list_images(settings, ("right", "middle", "left"), seed=0)
        labels = {row["uri"].split("/")[-2]: row["label"] for block in found.blocks for row in block.to_pylist()}
        assert labels == {"left": 2, "right": 0}

    def test_a_limit_draws_from_the_whole_list_and_keeps_the_ids(self, tmp_path: Path) -> None:
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

    def test_hidden_files_are_no_data(self, tmp_path: Path) -> None:
        write_folders(str(tmp_path), 4)
        storage.write_bytes(str(tmp_path / ".DS_Store"), b"x")
        storage.write_bytes(str(tmp_path / "_SUCCESS"), b"x")
        assert list_images(DatasetSettings(path=str(tmp_path)), None, seed=0).num_images == 4

    def test_what_cannot_be_used_is_refused_with_the_reason(self, tmp_path: Path) -> None:
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
        write_folders(str(tmp_path / "other"), 2)
        refused(tmp_path / "other", "1 classes that the network does not know, such as 'right'", ("left", "up"))
        write_parquet(str(tmp_path / "other" / "left" / "more.parquet"), 2)
        refused(tmp_path / "other", "mixes Parquet and other files")

    def test_images_may_be_structs_with_bytes(self, tmp_path: Path) -> None:
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
    def test_parquet_without_image_bytes_is_refused(self, tmp_path: Path, column: pa.Array) -> None:
        pq.write_table(pa.table({"label": ["a", "b"], "image": column}), tmp_path / "data.parquet")
        with pytest.raises(ValueError, match="column 'image' must hold encoded images"):
            list_images(DatasetSettings(path=str(tmp_path / "data.parquet")), None, seed=0)

    def test_parquet_that_cannot_be_used_is_refused_with_the_reason(self, tmp_path: Path) -> None:
        path = str(tmp_path / "data.parquet")
        for labels, reason in (
            ([0.5, 1.0], "column 'label' must be text or integers, got double"),
            (["a", None], "has 1 rows without a label; remove them"),
            (pa.array([], pa.string()), "has no rows; write at least one image into it"),
        ):
            write_parquet(path, len(labels), labels=labels)
            with pytest.raises(ValueError, match=reason):
                list_images(DatasetSettings(path=path), None, seed=0)


class TestTrainingViews:
    @staticmethod
    def epochs(found: Listing, seed: int, count: int, *, split: bool = False) -> list[list[bytes]]:
        notes = dataset.start_notes()
        data = dataset.training_images(found, CropSettings(size=32), seed, notes)
        shard = data.streaming_split(1, equal=True)[0] if split else data.iterator()
        result = []
        for _ in range(count):
            batches = list(shard.iter_batches(batch_size=64))
            result.append([view.tobytes() for batch in batches for view in batch["image"]])
        return result

    @pytest.mark.parametrize("split", [False, True])  # what a single worker gets, and what several get
    def test_each_epoch_has_other_views_and_the_seed_gives_them_again(self, tmp_path: Path, split: bool) -> None:
        found = list_images(DatasetSettings(path=write_folders(str(tmp_path), 10)), None, seed=0)
        first, second = self.epochs(found, seed=1, count=2, split=split)
        assert len(first) == len(second) == 10
        assert not set(first) & set(second)
        assert set(self.epochs(found, seed=1, count=1, split=split)[0]) == set(first)

    def test_what_cannot_be_decoded_is_told_once(self, tmp_path: Path) -> None:
        path = write_folders(str(tmp_path), 10, damaged=[4, 7])
        found = list_images(DatasetSettings(path=path), None, seed=0)
        notes = dataset.start_notes()
        data = dataset.validation_images(found, Preprocessing(), notes)
        for _ in range(2):
            batches = list(data.iter_batches(batch_size=64))
            assert sum(len(batch["label"]) for batch in batches) == 8
            assert {view.shape for batch in batches for view in batch["image"]} == {(224, 224, 3)}
            assert {view.dtype for batch in batches for view in batch["image"]} == {np.dtype(np.uint8)}
        reasons = ray.get(notes.reasons.remote())
        assert sorted(uri.rsplit("/", 1)[1] for uri in reasons) == ["0004.png", "0007.png"]
