"""What a file is by its name: hidden names are told by their parts, data from what stands beside it by its kind."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.files.kinds import CONTAINERS, containers_among, is_hidden, is_parquet, without_hidden
from anchornet.files.local_listing import HIDDEN, LeftOut

PARTS = st.sampled_from(["a", ".", "..", ".a", "..a", "...", "a.", "_SUCCESS", "_MG_1.JPG", "_a", "a\n.b", ""])
PATHS = st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), max_size=12)


@given(PATHS, st.integers(1, 5))
def test_a_name_is_hidden_when_one_of_its_parts_is(names: list[str], rows: int) -> None:
    paths = sorted(f"/.root/x/{name}" for name in names)  # what stands before the folder does not count
    tables = [pa.table({"uri": pa.array(paths[start : start + rows])}) for start in range(0, len(paths), rows)]
    kept = [name for table in without_hidden(tables, 9, LeftOut()) for name in table["uri"].to_pylist()]
    assert kept == [path for path in paths if not any(map(is_hidden, path[9:].split("/")))]


def test_a_hidden_folder_is_counted_once_however_many_tables_it_goes_through() -> None:
    tables = [pa.table({"uri": [f"s3://b/.cat/{k}"]}) for k in range(5)] + [
        pa.table({"uri": ["s3://b/x", "s3://b/y/.d"]})
    ]
    left = LeftOut()
    assert [len(table) for table in without_hidden(tables, 7, left)] == [0, 0, 0, 0, 0, 1]
    assert (left.count[HIDDEN], left.names[HIDDEN]) == (2, ["s3://b/.cat", "s3://b/y/.d"])


@given(st.text("aT.parquetPARQ/\n", max_size=12))
def test_the_pattern_finds_what_the_slow_way_finds(name: str) -> None:
    [found] = pa.compute.match_substring_regex(pa.array([name]), CONTAINERS).to_pylist()
    assert found == (name.lower().endswith(".tar") or (is_parquet(name) and not name.endswith("/")))


def test_those_in_the_way_are_counted_and_the_first_are_named() -> None:
    files = sorted(f"/in/{k}.jpg" for k in range(5)) + [f"/in/{k}.tar" for k in range(5, 12)]
    with pytest.raises(
        ValueError, match=r"mixes 5 other files and 7 tars; .* /in/0.jpg, /in/1.jpg, /in/2.jpg and 2 more\."
    ):
        containers_among(files, "in")
