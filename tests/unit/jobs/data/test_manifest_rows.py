"""The manifest as a source of Ray Data, without Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.data.manifest_rows import ManifestRows


def test_a_task_per_file_with_its_rows_in_order(tmp_path: Path) -> None:
    tables = [pa.table({"image_id": [3, 1, 2]}), pa.table({"image_id": [0]})]
    uris = []
    for number, table in enumerate(tables):
        uris.append(str(tmp_path / f"part-{number}.parquet"))
        pq.write_table(table, uris[-1])
    source = ManifestRows(uris)
    assert source.estimate_inmemory_data_size() is None
    tasks = source.get_read_tasks(200)
    assert [list(task()) for task in tasks] == [[table] for table in tables]
    assert [task.metadata.input_files for task in tasks] == [(uri,) for uri in uris]
