"""Labelled images as Ray Data sees them: every image once, the same ids whatever the form, new views at each epoch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray

from anchornet.data.listing import DatasetSettings, Listing
from anchornet.data.sources import list_images
from anchornet.files import storage
from anchornet.images.augment import CropSettings
from anchornet.images.decode import decode
from anchornet.images.preprocess import Preprocessing, preprocess
from jobs.data import dataset
from tests.small_images import CLASSES, encode, write_folders, write_parquet, write_tar

pytestmark = pytest.mark.ray


def rows(settings: DatasetSettings, classes: tuple[str, ...] | None = None) -> dict[int, dict]:
    found = list_images(settings, classes, seed=0)
    result = {row["image_id"]: row for row in dataset.labelled_images(found, Preprocessing()).take_all()}
    assert len(result) == found.num_images
    return result


@pytest.mark.parametrize("form", ["folders", "parquet", "tar"])
def test_every_image_is_a_row_and_the_damaged_one_says_why(form: str, tmp_path: Path) -> None:
    if form == "folders":
        path = write_folders(str(tmp_path / "data"), 9, damaged=[3])
        ids = {index: position for position, index in enumerate([0, 2, 4, 6, 8, 1, 3, 5, 7])}  # sorted by class
    else:
        names = {"parquet": partial(write_parquet, group_rows=4), "tar": write_tar}
        path = names[form](str(tmp_path / f"data.{form}"), 9, damaged=[3])
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

    @pytest.mark.parametrize("form", ["folders", "tar"])
    @pytest.mark.parametrize("split", [False, True])  # what a single worker gets, and what several get
    def test_each_epoch_has_other_views_and_the_seed_gives_them_again(
        self, tmp_path: Path, split: bool, form: str
    ) -> None:
        path = write_folders(str(tmp_path), 10) if form == "folders" else write_tar(str(tmp_path / "d.tar"), 10)
        found = list_images(DatasetSettings(path=path), None, seed=0)
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
