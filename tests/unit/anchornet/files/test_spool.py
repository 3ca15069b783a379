"""Tables that wait for their turn: in order, as often as wanted, in memory or on the disk."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.files import spool as spooling
from anchornet.files.spool import Spool, SpooledNames, cut, in_order


@pytest.fixture(params=[0, 1 << 20], ids=["on the disk", "in memory"])
def spool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    monkeypatch.setattr(spooling, "IN_MEMORY_BYTES", request.param or 1)  # 0 would mean no limit
    with Spool() as spool:
        yield spool


def names(*values: str) -> pa.Table:
    return pa.table({"name": pa.array(values, pa.string())})


def test_tables_come_back_under_their_number_in_their_order(spool: Spool) -> None:
    for number, values in ((7, ("a", "ü")), (0, ("b",)), (7, ()), (7, ("c",))):
        spool.add(names(*values), number)
    assert spool.num_rows == 4
    for _ in range(2):
        assert [table.to_pydict() for table in spool.tables(7)] == [{"name": ["a", "ü"]}, {"name": ["c"]}]
    assert list(SpooledNames(spool, "name")) == ["b"]
    assert list(SpooledNames(spool, "name", 7)) == ["a", "ü", "c"]
    assert list(spool.tables(1)) == []


def test_two_readers_do_not_disturb_each_other(spool: Spool) -> None:
    for value in "abc":
        spool.add(names(value))
    both = SpooledNames(spool, "name")
    assert list(zip(both, itertools.islice(both, 1, None), strict=False)) == [("a", "b"), ("b", "c")]


def test_threads_may_add_at_a_time(spool: Spool) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: spool.add(names(f"{k}"), k % 4), range(400)))
    for number in range(4):
        assert sorted(map(int, SpooledNames(spool, "name", number))) == list(range(number, 400, 4))


def test_only_what_is_in_a_slice_is_kept(spool: Spool) -> None:
    spool.add(names(*"abcdef").slice(2, 2))
    assert list(SpooledNames(spool, "name")) == ["c", "d"]


def test_columns_get_the_widest_type_that_any_table_has(spool: Spool) -> None:
    spool.add(pa.table({"n": pa.array([1], pa.int32()), "s": pa.nulls(1)}))
    spool.add(pa.table({"n": pa.array([2**40]), "s": ["x"]}))
    tables = list(spool.tables(schema=spool.schema()))
    assert {table.schema for table in tables} == {pa.schema([("n", pa.int64()), ("s", pa.string())])}
    assert pa.concat_tables(tables).to_pydict() == {"n": [1, 2**40], "s": [None, "x"]}
    spool.add(pa.table({"n": ["one"], "s": ["x"]}))
    with pytest.raises(pa.ArrowTypeError):
        spool.schema()


def test_of_nothing_there_are_no_columns() -> None:
    with Spool() as spool:
        assert spool.schema() == pa.schema([])


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(1, 9))
def test_tables_are_cut_to_a_size_without_losing_a_row(sizes: list[int], num_rows: int) -> None:
    bounds = list(itertools.accumulate([0, *sizes]))
    tables = [pa.table({"n": pa.array(range(*each), pa.int64())}) for each in itertools.pairwise(bounds)]
    pieces = list(cut(tables, num_rows))
    assert [value for piece in pieces for value in piece["n"].to_pylist()] == list(range(bounds[-1]))
    assert {len(piece) for piece in pieces[:-1]} <= {num_rows}
    assert all(0 < len(piece) <= num_rows for piece in pieces)


def test_results_come_in_order_and_work_is_not_begun_long_before_they_are_taken() -> None:
    begun: list[int] = []
    results = in_order(lambda k: k * k, (begun.append(k) or k for k in range(100)), threads=3)
    for k in range(10):
        assert next(results) == k * k
        assert len(begun) <= k + 3
    assert list(results) == [k * k for k in range(10, 100)]


def test_work_is_done_by_several_threads_at_a_time() -> None:
    together = threading.Barrier(3, timeout=60)
    assert list(in_order(lambda k: (together.wait(), k)[1], range(6), threads=3)) == list(range(6))


def test_an_error_comes_in_the_place_of_its_result() -> None:
    results = in_order(lambda k: 1 // (k - 2), range(5), threads=2)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
