"""Tables on their way from a listing to a manifest: added one by one, read back in order, as often as they are wanted.

The first few megabytes stay in memory, more goes to the local disk: to a file without a name in the temporary folder
(``TMPDIR``), compressed, which is gone with the process however that ends. So nobody holds a listing as a whole.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import pyarrow as pa

Item = TypeVar("Item")
Found = TypeVar("Found")
IN_MEMORY_BYTES = 16 << 20
AT_ONCE_ROWS = 100_000
"""Rows of a file that a listing reads together; a larger file is read in parts, when it is its turn."""
_WRITE = pa.ipc.IpcWriteOptions(compression="lz4")
_READ = pa.ipc.IpcReadOptions(use_threads=False)  # the bytes are Python's: docs/surprises.md, Arrow


class Spool:
    """Tables in the order in which they were added, each under a number; several threads may add at a time.

    To be used in a ``with`` statement, which gives the disk back.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - closed in __exit__
        self._places: dict[int, list[tuple[int, int]]] = {}
        self._schemas: list[pa.Schema] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, table: pa.Table, number: int = 0) -> None:
        """Append ``table`` to those of ``number``; tables may have columns of different types."""
        if not len(table):
            return
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=_WRITE) as stream:
            stream.write_table(table)
        content = sink.getvalue()
        with self._lock:
            start = self._file.seek(0, 2)
            self._file.write(content)
            self._places.setdefault(number, []).append((start, len(content)))
            self.num_rows += len(table)
            if not any(table.schema.equals(known) for known in self._schemas):
                self._schemas.append(table.schema)

    def schema(self) -> pa.Schema:
        """The columns of all tables: nulls and narrower types become the widest. Raises pa.ArrowException when they cannot."""
        return pa.unify_schemas(self._schemas or [pa.schema([])], promote_options="permissive")

    def tables(self, number: int = 0, schema: pa.Schema | None = None) -> Iterator[pa.Table]:
        """The tables of ``number``, one at a time, with the columns of ``schema`` (that of :meth:`schema`) if it is given."""
        for start, length in self._places.get(number, ()):
            with self._lock:
                self._file.seek(start)
                content = self._file.read(length)
            table = pa.ipc.open_stream(content, options=_READ).read_all()
            if schema is not None and not table.schema.equals(schema):
                table = pa.concat_tables([schema.empty_table(), table], promote_options="permissive")
            yield table


class SpooledNames:
    """The texts of a column of a spool's tables, to be iterated over as often as one likes."""

    def __init__(self, spool: Spool, column: str, number: int = 0) -> None:
        self._spool = spool
        self._column = column
        self._number = number

    def __iter__(self) -> Iterator[str]:
        for table in self._spool.tables(self._number):
            yield from table[self._column].to_pylist()


def cut(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of ``num_rows`` each, of which the last one may be shorter."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        start = 0
        while count + len(table) - start >= num_rows:
            stop = start + num_rows - count
            yield pa.concat_tables([*waiting, table.slice(start, stop - start)])
            waiting, count, start = [], 0, stop
        if start < len(table):
            waiting.append(table.slice(start))
            count += len(table) - start
    if waiting:
        yield pa.concat_tables(waiting)


def in_order(function: Callable[[Item], Found], items: Iterable[Item], threads: int) -> Iterator[Found]:
    """``function(item)`` of each, in their order, by so many threads, which are never further ahead of who takes them."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Found]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
