"""No thread of Arrow holds what Python owns: it may let go of it when the process is already ending, which kills the process.

Measured with pyarrow 26 and a loop of processes that read three times and end: ``pq.read_table`` of a BytesIO killed 16 of 150,
``ParquetFile(BufferReader(...)).read()`` 5 of 150, one thread (``use_threads=False``) or a file that Arrow opened itself none.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for name in ("anchornet", "jobs", "benchmarks") for path in (ROOT / name).rglob("*.py"))
OWNED_BY_PYTHON = {"BytesIO", "BufferReader", "py_buffer"}


def threaded_reads(source: str) -> list[int]:
    """Lines of calls that read Parquet out of Python's memory without ``use_threads=False``."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        names = {node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)}
        single = any(word.arg == "use_threads" and ast.unparse(word.value) == "False" for word in call.keywords)
        reads = name == "read_table" or (
            name in ("read", "read_row_group", "read_row_groups") and "ParquetFile" in names
        )
        if reads and names & OWNED_BY_PYTHON and not single:
            found.append(call.lineno)
    return found


def test_parquet_in_memory_is_read_by_one_thread() -> None:
    assert not [f"{path.relative_to(ROOT)}:{line}" for path in SOURCES for line in threaded_reads(path.read_text())]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("pq.read_table(io.BytesIO(data))", [1]),
        ("pq.read_table(path, filesystem=system)", []),
        ("pq.ParquetFile(pa.BufferReader(data)).read()", [1]),
        ("pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)", []),
        ("io.BytesIO(data).read()", []),
    ],
)
def test_what_is_looked_for(source: str, lines: list[int]) -> None:
    assert threaded_reads(source) == lines
