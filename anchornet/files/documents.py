"""Small documents beside data: YAML and JSON of plain values, a digest of such values, and Parquet tables."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from anchornet.files import storage


def plain(value: Any) -> Any:
    """value with tuples as lists and everything that YAML and JSON do not know as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def digest(value: Any) -> str:
    """sha256 (hex) of value's plain form, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def write_yaml(uri: str, content: Mapping[str, Any]) -> None:
    """Writes content, plain values in this order, as YAML to uri."""
    storage.write_bytes(uri, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120).encode())


def read_yaml(uri: str) -> dict[str, Any]:
    """The mapping in the YAML file at uri; raises ValueError if it holds something else."""
    try:
        content = yaml.safe_load(storage.read_bytes(uri))
    except yaml.YAMLError as error:
        raise ValueError(f"{uri} is not valid YAML ({error}); write it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{uri} must hold a mapping, got {type(content).__name__}; write it again")
    return content


def write_json(uri: str, value: Any) -> None:
    """Write ``value`` as indented JSON to ``uri``."""
    storage.write_bytes(uri, (json.dumps(value, indent=2) + "\n").encode())


def read_json(uri: str) -> Any:
    """The value in the JSON file at ``uri``; raises ValueError if it is no JSON."""
    try:
        return json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise ValueError(f"{uri} is not valid JSON ({error}); restore the file") from error


def write_parquet(uri: str, table: pa.Table) -> None:
    """Write ``table`` as Parquet to ``uri``."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(uri, buffer.getvalue())


def read_parquet(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The Parquet file at ``uri``, all its ``columns`` or some, read by this thread alone.

    Arrow's threads may let go of memory that Python owns when the process is already ending, which kills it
    (docs/surprises.md).
    """
    return pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri))).read(columns, use_threads=False)
