"""The manifest: every file of the input once, in a random order, whatever its name, and the same one at every start."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchornet.data import manifest
from anchornet.data.inputs import InputSettings
from anchornet.data.manifest import (
    group_bounds,
    manifest_table,
    open_manifest,
    read_manifest,
    read_rows,
    shuffled,
    write_manifest,
)
from anchornet.data.reading import ReadAndDecode
from anchornet.files import spool
from anchornet.images.preprocess import Preprocessing
from tests.small_images import encode, write_parquet


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
    wanted = InputSettings(path=str(folder))
    assert open_manifest(run, wanted, 0) == 1
    write(folder, "a.jpg")
    assert open_manifest(run, wanted, 0) == 1
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


def test_rows_are_found_by_their_place_in_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ROWS_PER_FILE", 3)
    table = manifest_table([f"/{i}.jpg" for i in range(10)], 0)
    write_manifest(str(tmp_path), table)
    for places in ([0, 2, 3, 9], [4], list(range(10))):
        assert read_rows(str(tmp_path), np.array(places)).equals(table.take(places))


SIZES = st.lists(st.integers(0, 7), max_size=8)


def listing(sizes: list[int], group_rows: int | None) -> list[pa.Table]:
    """Tables of so many rows; with ``group_rows``, of images in row groups of that many, of files of three groups."""
    rows = sum(sizes)
    columns: dict[str, object] = {"image_id": pa.array(range(rows), pa.int64()), "uri": [f"/{k}" for k in range(rows)]}
    if group_rows:
        groups = np.arange(rows) // group_rows
        columns |= {"file": [f"{group // 3}.parquet" for group in groups], "row_group": groups % 3}
    table = pa.table(columns)
    starts = np.cumsum([0, *sizes[:-1]]) if sizes else []
    return [table.slice(start, size) for start, size in zip(starts, sizes, strict=True)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than four rows are permuted on the disk, in five buckets, three at a time."""
    for name, value in (("IN_MEMORY_ROWS", 4), ("NUM_BUCKETS", 5), ("DEAL_ROWS", 3)):
        monkeypatch.setattr(manifest, name, value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIZES, st.integers(0, 2**32), st.sampled_from([None, 1, 2, 4]))
def test_on_the_disk_the_order_is_a_permutation_too_and_groups_keep_together(
    small: None, sizes: list[int], seed: int, group_rows: int | None
) -> None:
    rows = [row for table in shuffled(listing(sizes, group_rows), seed) for row in table.to_pylist()]
    ids = [row["image_id"] for row in rows]
    assert sorted(ids) == list(range(sum(sizes)))
    assert all(row["uri"] == f"/{row['image_id']}" for row in rows)
    if group_rows and rows:
        starts = group_bounds(pa.Table.from_pylist(rows))[:-1]
        assert len(starts) == -(-len(rows) // group_rows)
        assert all(ids[start] % group_rows == 0 for start in starts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIZES, st.integers(1, 9), st.sampled_from([None, 1, 2, 4]))
def test_the_order_does_not_depend_on_how_the_listing_was_cut(
    small: None, sizes: list[int], deal_rows: int, group_rows: int | None
) -> None:
    whole = [sum(sizes)]
    expected = [row for table in shuffled(listing(whole, group_rows), 3) for row in table.to_pylist()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "DEAL_ROWS", deal_rows)
        found = [row for table in shuffled(listing(sizes, group_rows), 3) for row in table.to_pylist()]
    assert found == expected


def test_memory_does_not_grow_with_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("IN_MEMORY_ROWS", 1000), ("NUM_BUCKETS", 100), ("DEAL_ROWS", 1000)):
        monkeypatch.setattr(manifest, name, value)
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 1)
    listing = (pa.table({"image_id": [k] * 500, "uri": [f"{k}" * 100] * 500}) for k in range(1000, 1200))
    before, most, found = pa.total_allocated_bytes(), 0, 0
    for table in shuffled(listing, 0):
        found += table.nbytes
        most = max(most, pa.total_allocated_bytes() - before)
    assert found > 40e6
    assert most < 4e6


def test_on_the_disk_every_order_is_as_likely_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "IN_MEMORY_ROWS", 2)
    monkeypatch.setattr(manifest, "NUM_BUCKETS", 2)
    orders = Counter(
        tuple(row["image_id"] for table in shuffled(listing([3], None), seed) for row in table.to_pylist())
        for seed in range(1200)
    )
    assert len(orders) == 6
    assert all(abs(count - 200) < 55 for count in orders.values())  # four standard deviations


def test_up_to_a_million_the_order_is_numpys(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", *(f"{k}.jpg" for k in range(9)))
    open_manifest(str(tmp_path / "run"), InputSettings(path=str(folder)), 5)
    expected = np.random.default_rng(5).permutation(9).tolist()
    assert read_manifest(str(tmp_path / "run"))["image_id"].to_pylist() == expected


class TestShards:
    def input_of(self, kind: str, folder: Path, images: int) -> str:
        """``images`` images as files, or in Parquet in groups of three."""
        if kind == "files":
            return str(write(folder / "in", *(f"{k:02d}.jpg" for k in range(images))))
        write_parquet(str(folder / "d.parquet"), images, group_rows=3)
        return str(folder / "d.parquet")

    @pytest.mark.parametrize("kind", ["files", "row groups"])
    @pytest.mark.parametrize("in_memory", [1, 1000])
    @pytest.mark.parametrize("parts", [1, 2, 3, 5])
    def test_all_together_hold_each_image_once_under_its_position(
        self, kind: str, in_memory: int, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(manifest, "IN_MEMORY_ROWS", in_memory)
        monkeypatch.setattr(manifest, "DEAL_ROWS", 4)
        path = self.input_of(kind, tmp_path, 17)
        open_manifest(str(tmp_path / "all"), InputSettings(path=path), 0)
        found = []
        for which in range(1, parts + 1):
            run = str(tmp_path / f"run{which}")
            wanted = InputSettings(path=path, shard=f"{which}/{parts}")
            num_images = open_manifest(run, wanted, 0)
            table = read_manifest(run)
            assert len(table) == num_images == open_manifest(run, wanted, 0)
            units = {image_id // 3 if kind == "row groups" else image_id for image_id in table["image_id"].to_pylist()}
            assert {unit % parts for unit in units} == {which - 1}
            found += table.to_pylist()
        whole = read_manifest(str(tmp_path / "all")).sort_by("image_id").to_pylist()
        assert sorted(found, key=lambda row: row["image_id"]) == whole
        assert len(whole) == 17

    def test_a_limit_goes_before(self, tmp_path: Path) -> None:
        path = self.input_of("files", tmp_path, 9)
        assert open_manifest(str(tmp_path / "run"), InputSettings(path=path, limit=5, shard="2/3"), 0) == 2
        assert sorted(read_manifest(str(tmp_path / "run"))["image_id"].to_pylist()) == [1, 4]

    @pytest.mark.parametrize(("kind", "units"), [("files", 4), ("row groups", 2)])
    def test_a_part_with_nothing_in_it_is_refused(self, kind: str, units: int, tmp_path: Path) -> None:
        path = self.input_of(kind, tmp_path, 4)
        with pytest.raises(
            ValueError,
            match=rf"has {units} images or row groups of them, so nothing is left for input\.shard=5/5; make fewer",
        ):
            open_manifest(str(tmp_path / "run"), InputSettings(path=path, shard="5/5"), 0)

    def test_another_part_is_another_input(self, tmp_path: Path) -> None:
        path, run = self.input_of("files", tmp_path, 4), str(tmp_path / "run")
        open_manifest(run, InputSettings(path=path, shard="1/2"), 0)
        assert open_manifest(run, InputSettings(path=path, shard="1/2"), 0) == 2
        with pytest.raises(ValueError, match=r"was made for input .* shard='1/2'.*, got .* shard='2/2'"):
            open_manifest(run, InputSettings(path=path, shard="2/2"), 0)

    @pytest.mark.parametrize("shard", ["", "1", "0/4", "5/4", "1/0", "1/4/2", "-1/4", "1 / 4", "a/b", "01/4", "1/4\n"])
    def test_what_is_no_part_is_refused(self, shard: str) -> None:
        with pytest.raises(ValueError, match=r"input\.shard must be I/N, the I-th of N parts \(1 <= I <= N\), got '"):
            InputSettings(path="p", shard=shard)
