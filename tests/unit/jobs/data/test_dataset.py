"""Blocks of a listing to rows and to training batches, as tasks of Ray Data run them, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from anchornet.data.listing import DatasetSettings, Listing, Reader
from anchornet.data.sources import list_images
from anchornet.images.decode import decode
from anchornet.images.preprocess import Preprocessing
from jobs.data import dataset
from jobs.data.dataset import ROW_SCHEMA, TrainingNotes
from tests.small_images import encode, write_folders

SMALL = Preprocessing.of_size(32)


@pytest.fixture
def found(tmp_path: Path) -> Listing:
    """Six images, of which number 3 is damaged and number 4 has gone since."""
    folder = write_folders(str(tmp_path), 6, damaged=[3])
    listing = list_images(DatasetSettings(path=folder), None, seed=0)
    (tmp_path / "left" / "0004.png").unlink()
    return listing


def number(uri: str) -> int:
    return int(Path(uri).stem)


class TestRows:
    """Calibration and evaluation: every row is kept."""

    def rows(self, found: Listing) -> list[dict[str, Any]]:
        [block] = found.blocks
        tables = list(dataset._RowReader(found, SMALL)(block))
        assert all(table.schema == ROW_SCHEMA for table in tables)
        return pa.concat_tables(tables).to_pylist()

    def test_every_image_is_a_row_with_its_pixels_or_the_reason(self, found: Listing) -> None:
        rows = {number(row["uri"]): row for row in self.rows(found)}
        assert sorted(rows) == list(range(6))
        for index in (0, 1, 2, 5):
            assert rows[index]["image"] == SMALL(decode(encode(index))).tobytes()
            assert (rows[index]["status"], rows[index]["error"]) == ("ok", None)
            assert rows[index]["label"] == index % 2
        assert (rows[3]["status"], rows[3]["image"]) == ("unreadable", None)
        assert (rows[4]["status"], rows[4]["image"]) == ("failed", None)
        assert "FileNotFoundError" in rows[4]["error"]

    def test_they_come_in_the_order_of_the_listing(self, found: Listing) -> None:
        assert [row["image_id"] for row in self.rows(found)] == found.blocks[0]["image_id"].to_pylist()


@pytest.mark.parametrize("parquet", [False, True])
def test_files_without_a_tail_are_used_when_that_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parquet: bool
) -> None:
    cut = encode(0, side=200)[:-9000]
    if parquet:
        rows = pa.table({"image": [cut, encode(1)], "label": ["left", "right"]})
        pq.write_table(rows, tmp_path / "part.parquet")
    else:
        write_folders(str(tmp_path), 2)
        (tmp_path / "left" / "0000.png").write_bytes(cut)
    for accepted, status in (False, "unreadable"), (True, "ok"):
        settings = DatasetSettings(path=str(tmp_path), accept_truncated=accepted)
        found = list_images(settings, None, seed=0)
        rows = pa.concat_tables(dataset._RowReader(found, SMALL)(pa.concat_tables(found.blocks))).to_pylist()
        row = next(row for row in rows if row["label"] == 0)
        assert (row["status"], "truncated" in row["error"]) == (status, True)
        assert (row["image"] is not None) == accepted
        monkeypatch.setattr(ray, "get", lambda reference: reference)
        tensors = dataset._TensorReader(found, lambda rgb, row: SMALL(rgb), Notes())
        assert sum(len(batch["label"]) for batch in tensors(pa.concat_tables(found.blocks))) == 1 + accepted


class Notes:
    """Training notes in this process, called as an actor is."""

    def __init__(self) -> None:
        self.kept = TrainingNotes()
        self.add = SimpleNamespace(remote=self.kept.add)


class TestTensors:
    """Training: what cannot be used is left out of the batches and told."""

    @pytest.fixture(autouse=True)
    def _answers_are_here_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray, "get", lambda reference: reference)

    @staticmethod
    def batches(found: Listing, notes: Notes) -> list[dict[str, np.ndarray]]:
        reader = dataset._TensorReader(found, lambda rgb, row: SMALL(rgb) + np.uint8(row["label"]), notes)
        [block] = found.blocks
        return list(reader(block))

    def test_batches_hold_what_can_be_used_and_notes_the_rest(self, found: Listing) -> None:
        notes = Notes()
        [batch] = self.batches(found, notes)
        assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (4, 32, 32, 3))
        assert batch["label"].dtype == np.int64
        kept = [number(uri) for uri in found.blocks[0]["uri"].to_pylist() if number(uri) not in {3, 4}]
        assert batch["label"].tolist() == [index % 2 for index in kept]
        for pixels, index in zip(batch["image"], kept, strict=True):
            assert (pixels == SMALL(decode(encode(index))) + np.uint8(index % 2)).all()
        reasons = {number(uri): reason for uri, reason in notes.kept.reasons().items()}
        assert sorted(reasons) == [3, 4]
        assert reasons[3].startswith("ImageError: ")
        assert reasons[4].startswith("FileNotFoundError: ")

    def test_a_chunk_of_nothing_but_damage_is_no_batch(self, tmp_path: Path) -> None:
        notes = Notes()
        folder = write_folders(str(tmp_path), 4, damaged=range(4))
        assert self.batches(list_images(DatasetSettings(path=folder), None, seed=0), notes) == []
        assert len(notes.kept.reasons()) == 4

    def test_nobody_is_told_of_nothing(self, tmp_path: Path) -> None:
        silent = SimpleNamespace(add=None)  # calling it would fail
        folder = write_folders(str(tmp_path), 4)
        [batch] = self.batches(list_images(DatasetSettings(path=folder), None, seed=0), silent)  # type: ignore[arg-type]
        assert len(batch["label"]) == 4


def test_an_image_that_is_tried_again_is_one_reason() -> None:
    notes = TrainingNotes()
    assert (notes.reasons(), notes.told()) == ({}, "")
    notes.add({"/a.jpg": "empty file", "/b.jpg": "gone"})
    notes.add({"/a.jpg": "empty file"})
    notes.tell("epoch 1, step 2")
    notes.tell("epoch 1, step 3")
    assert notes.reasons() == {"/a.jpg": "empty file", "/b.jpg": "gone"}
    assert notes.told() == "epoch 1, step 3"


class Rows:
    """A data set that writes down how it is mapped."""

    def map_batches(self, reader: object, **options: Any) -> dict[str, Any]:
        return options


def nothing(block: pa.Table, chunk_images: int) -> Iterator[Any]:
    """A reader of a listing that is never read."""
    yield from ()


@pytest.mark.parametrize(
    ("nodes", "cores", "blocks", "most"),
    [(1, 4, 20, 4), (1, 4, 3, 3), (1, 1, 20, 2), (1, None, 20, 2), (3, 4, 20, None)],
    ids=["its cores", "not more than blocks", "at least two", "of unknown size", "a cluster as it likes"],
)
def test_a_single_machine_decodes_no_more_at_once_than_it_has_cores(
    monkeypatch: pytest.MonkeyPatch, nodes: int, cores: int | None, blocks: int, most: int | None
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{}] * nodes)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    reader: Reader = nothing
    listing = Listing([pa.table({"image_id": [0]})] * blocks, ("a", "b"), reader, rows_are_files=True)
    options = dataset._map_blocks(Rows(), lambda block: iter([]), listing)  # type: ignore[arg-type]
    assert options["compute"].size == most  # type: ignore[index]
    assert options["num_cpus"] == 0.5  # type: ignore[index]
    assert options["batch_size"] is None  # type: ignore[index]
