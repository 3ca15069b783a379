"""Lists of names: Parquet, CSV, lines of text or of JSON -> a table of URIs and of the columns that go along."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from anchornet.data.parquet import along, joined, open_parquet
from anchornet.data.reading import READ_THREADS
from anchornet.files import storage
from anchornet.files.kinds import PACKED, ending
from anchornet.files.spool import AT_ONCE_ROWS, in_order

URI_COLUMNS = ("uri", "url", "image_url", "path", "file_name")
"""Names of the column of names, the first that is there is taken."""
_PLAIN = r"^(?:(?:s3|gs)://|(?:/[^/.][^/]*)+$)"
"""A pattern (of RE2) for names that are absolute and in the one form of the project, which nearly all are."""


def read_list(path: str, files: Sequence[str], uri_column: str | None, carry: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of all ``files`` of the list ``path``, in their order: column ``uri``, absolute where it can be, and ``along_*``.

    A name with a scheme that is not supported stays as it is: reading it will say so. Relative names lie beside the list, when
    the first of them does or the list is in object storage, and else in the working directory. Parquet is read in parts, a
    file of text as a whole. Raises ValueError for a list that lacks a column, has rows without a name, or nothing but names
    that cannot be read.
    """
    if not files:
        return
    read = _READERS.get(ending(files[0]), _read_parquet)
    names = _Names(path)
    found = in_order(lambda file: _chosen(read(file, path), file, uri_column, carry), files, READ_THREADS)
    yield from joined(names.checked(table for tables in found for table in tables), files[0])


def find_uri_column(names: Sequence[str], wanted: str | None) -> str | None:
    """The column that holds the names; None when there is none."""
    candidates = URI_COLUMNS if wanted is None else (wanted,)
    return next((name for name in candidates if name in names), None)


def _chosen(columns: _Columns, file: str, uri_column: str | None, carry: Sequence[str]) -> Iterable[pa.Table]:
    """Column uri and the columns along, of one file: at once when it has few rows, else as they are asked for."""
    names = columns.names
    name = find_uri_column(names, uri_column)
    if name is None:
        wanted = repr(uri_column) if uri_column else f"of names ({', '.join(URI_COLUMNS)})"
        raise ValueError(
            f"list {file} has no column {wanted} (it has {', '.join(names[:20])}); set input.uri_column, or "
            f"input.image_column if one holds images, or add a header"
        )
    for each in carry:
        if each not in names:
            raise ValueError(
                f"list {file} has no column {each!r} to go along (it has {', '.join(names[:20])}); mend input.carry_columns"
            )
    tables = (
        pa.table({"uri": _as_text(table[name], file, name), **along(table, carry)})
        for table in columns.read([name, *(each for each in carry if each != name)])
    )
    return list(tables) if columns.num_rows <= AT_ONCE_ROWS else tables


def _as_text(column: pa.ChunkedArray, file: str, name: str) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        return column.cast(pa.string())
    raise ValueError(f"list {file}: column {name!r} must be text, got {kind}; cast it, or set input.uri_column")


class _Names:
    """Makes the names of a list absolute, table by table, and remembers what is wrong with them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._beside = storage.absolute(path).rstrip("/").rpartition("/")[0]
        self._base = self._beside if storage.is_remote(path) else None
        """The folder that relative names are in, empty for the working directory; None before the first of them."""
        self._num_rows = 0
        self._num_blank = self._first_blank = 0
        self._num_strange, self._first_strange = 0, ""

    def checked(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The tables with absolute names. Raises ValueError at the end when some have none, or not one can be read."""
        for table in tables:
            for start in range(0, len(table), AT_ONCE_ROWS):
                some = table.slice(start, AT_ONCE_ROWS)
                yield some.set_column(0, "uri", self._absolute(some["uri"]))
        if self._num_blank:
            raise ValueError(
                f"list {self._path} has {self._num_blank} rows without a name of {self._num_rows}, the first is row "
                f"{self._first_blank}; remove them"
            )
        if self._num_rows and self._num_strange == self._num_rows:
            raise ValueError(
                f"list {self._path}: not one of its {self._num_rows} rows can be read; row 1: {self._first_strange}"
            )

    def _absolute(self, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        plain = pc.fill_null(pc.match_substring_regex(column, _PLAIN), False)
        if not pc.all(plain).as_py():
            names = column.to_pylist()
            for row in np.flatnonzero(~plain.to_numpy()):
                names[row] = self._one(names[row], self._num_rows + int(row) + 1)
            column = pa.array(names, pa.string())
        self._num_rows += len(column)
        return column

    def _one(self, name: str | None, row: int) -> str:
        """``name``, of the ``row``-th row of the list, as workers understand it."""
        if name is None or not name.strip():
            self._num_blank += 1
            self._first_blank = self._first_blank or row
            return ""
        try:
            return storage.absolute(self._placed(name))
        except ValueError as error:
            self._num_strange += 1
            self._first_strange = self._first_strange or str(error)
            return name

    def _placed(self, name: str) -> str:
        if not storage.is_relative(name):
            return name
        if self._base is None:
            self._base = self._beside if os.path.exists(f"{self._beside}/{name}") else ""
        return storage.beside(self._base, name) if self._base else name


class _Columns:
    """The columns of one file of a list, which are read when they have been chosen, in one table or in several."""

    def __init__(
        self, names: Sequence[str], read: Callable[[Sequence[str]], Iterable[pa.Table]], num_rows: int = 0
    ) -> None:
        self.names = list(names)
        self.read = read
        self.num_rows = num_rows
        """Of Parquet, which can be read in parts; 0 for text, which cannot."""


def _read_parquet(file: str, path: str) -> _Columns:
    """Columns of a Parquet file, and those that the names of its folders hold (``day=3/part-0.parquet``)."""
    folders = _folder_columns(file, path)
    with open_parquet(file) as opened:
        names, num_rows = opened.schema_arrow.names, opened.metadata.num_rows

    def read(wanted: Sequence[str]) -> Iterator[pa.Table]:
        with open_parquet(file) as opened:
            for batch in opened.iter_batches(AT_ONCE_ROWS, columns=[name for name in wanted if name in names]):
                part = {name: pa.array([text] * len(batch), pa.string()) for name, text in folders.items()}
                yield pa.table({name: batch[name] if name in names else part[name] for name in wanted})

    return _Columns([*names, *(name for name in folders if name not in names)], read, num_rows)


def _folder_columns(file: str, path: str) -> dict[str, str]:
    inside = file.removeprefix(storage.absolute(path).rstrip("/") + "/").split("/")[:-1]
    pairs = (part.partition("=") for part in inside if "=" in part)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _read_text(file: str) -> bytes:
    try:
        return storage.read_bytes(file)  # unpacked, by the ending of its name
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        if not file.lower().endswith(PACKED):
            raise
        raise ValueError(f"list {file} cannot be unpacked ({error}); write it again") from error


def _lines(file: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of every line that is not blank."""
    try:
        text = _read_text(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"list {file} is not UTF-8 text ({error}); save it as UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _read_lines(file: str, path: str) -> _Columns:
    """A name per line; blank lines count for nothing."""
    names = pa.array([line for _, line in _lines(file)], pa.string())
    return _Columns(["uri"], lambda wanted: [pa.table({"uri": names})])


def _read_csv(file: str, path: str) -> _Columns:
    """Columns of a table with a header, as text; separated by what the header has most of: comma, semicolon or tab."""
    data = _read_text(file)
    header = data.partition(b"\n")[0].decode("utf-8-sig", "replace")
    separator = max(",;\t", key=header.count)
    names = next(csv.reader([header], delimiter=separator), [])
    texts = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    options = pacsv.ParseOptions(delimiter=separator, newlines_in_values=True)
    try:
        table = pacsv.read_csv(pa.BufferReader(data), parse_options=options, convert_options=texts)
    except pa.ArrowInvalid as error:
        raise ValueError(f"list {file} is no table that can be read ({error}); mend it") from error
    return _Columns(table.column_names, lambda wanted: [table.select(wanted)])


def _read_json(file: str, path: str) -> _Columns:
    """Columns of a JSON object per line, or of an array of objects; a key that a line lacks is null."""
    rows = list(_json_rows(file))
    names = list(dict.fromkeys(name for row in rows for name in row))

    def read(wanted: Sequence[str]) -> list[pa.Table]:
        return [pa.table({name: _json_column([row.get(name) for row in rows], file, name) for name in wanted})]

    return _Columns(names, read)


def _json_rows(file: str) -> Iterator[dict[str, Any]]:
    lines = list(_lines(file))
    if lines and lines[0][1].lstrip().startswith("["):
        lines = [(1, "\n".join(line for _, line in lines))]
    for number, line in lines:
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ValueError(f"list {file}, line {number} is not JSON ({error}); write an object per line") from error
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                raise ValueError(f"list {file}, line {number} holds {type(row).__name__}; write an object per line")
            yield row


def _json_column(values: list[Any], file: str, name: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"list {file}: column {name!r} holds values of several types ({error}); write one") from error


_READERS: dict[str, Callable[[str, str], _Columns]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".txt": _read_lines,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
}
