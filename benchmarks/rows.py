"""What travelling costs a batch of rows between stages: milliseconds to write and to read their state.

    python -m benchmarks.rows [--rows 256] [--repeats 30]

Compared with one bytes object per row, as a first version did it (a column of ``pa.binary()`` from a Python list), in the
same run. One JSON line per way and share of rows that go on: median of the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from anchornet.cascade.rows import Layout, read_carried, wanting_rows, with_carried

LAYOUT: Layout = {
    "image": (np.dtype(np.uint8), (224, 224, 3)),
    "logits": (np.dtype(np.float32), (1000,)),
    "boxes": (np.dtype(np.int16), (4, 2)),
}


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median over ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def write_objects(table: pa.Table, rows: np.ndarray, arrays: dict[str, np.ndarray]) -> pa.Table:
    """One bytes object per row and column."""
    for name, array in arrays.items():
        values: list[bytes | None] = [None] * len(table)
        for row, value in zip(rows, array, strict=True):
            values[row] = value.tobytes()
        table = table.append_column(name, pa.array(values, pa.binary()))
    return table


def read_objects(table: pa.Table, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays that ``write_objects`` wrote."""
    arrays = {}
    for name, (dtype, shape) in LAYOUT.items():
        chunks = table[name].take(pa.array(rows)).to_pylist()
        arrays[name] = np.frombuffer(bytearray(b"".join(chunks)), dtype).reshape(len(rows), *shape)
    return arrays


def measure(num_rows: int, share: float, repeats: int) -> list[dict[str, object]]:
    """Lines for batches of ``num_rows`` of which ``share`` go on."""
    generator = np.random.default_rng(0)
    rows = np.sort(generator.permutation(num_rows)[: round(share * num_rows)])
    arrays = {
        name: generator.integers(0, 100, (len(rows), *shape)).astype(dtype) for name, (dtype, shape) in LAYOUT.items()
    }
    empty = pa.table({"image_id": np.arange(num_rows)})
    ours, objects = with_carried(empty, rows, arrays, LAYOUT), write_objects(empty, rows, arrays)
    for name, array in read_carried(ours, LAYOUT).items():
        assert np.array_equal(array, arrays[name])
    ways = {
        "arrow": (lambda: with_carried(empty, rows, arrays, LAYOUT), lambda: read_carried(ours, LAYOUT), ours),
        "objects": (lambda: write_objects(empty, rows, arrays), lambda: read_objects(objects, rows), objects),
    }
    assert wanting_rows(ours).tolist() == rows.tolist()
    return [
        {
            "way": way,
            "rows": num_rows,
            "going_on": len(rows),
            "write_ms": round(milliseconds(write, repeats), 2),
            "read_ms": round(milliseconds(read, repeats), 2),
            "table_mb": round(table.nbytes / 1e6, 1),
        }
        for way, (write, read, table) in ways.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args(argv)
    for share in (1.0, 0.3):
        for line in measure(options.rows, share, options.repeats):
            print(json.dumps(line))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
