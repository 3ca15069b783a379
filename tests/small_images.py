"""Small labelled images for tests: the brighter half decides the class. As class folders, Parquet or tars."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from anchornet.files import storage

CLASSES = ("left", "right")
DAMAGED = b"\xff\xd8\xff\xe0 no picture follows"


def encode(index: int, side: int = 64) -> bytes:
    """A PNG of side x side pixels whose class is ``CLASSES[index % 2]``."""
    rng = np.random.default_rng(index)
    pixels = rng.integers(0, 100, (side, side, 3), dtype=np.uint8)
    half = slice(0, side // 2) if index % 2 == 0 else slice(side // 2, side)
    pixels[:, half] += 120
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_folders(folder: str, count: int, damaged: Sequence[int] = ()) -> str:
    """``count`` images as ``folder/CLASS/0000.png``; those with a number in ``damaged`` cannot be decoded."""
    for index in range(count):
        data = DAMAGED if index in damaged else encode(index)
        storage.write_bytes(storage.join(folder, CLASSES[index % 2], f"{index:04d}.png"), data)
    return folder


def write_parquet(
    path: str, count: int, labels: Sequence[object] | None = None, damaged: Sequence[int] = (), group_rows: int = 5
) -> str:
    """The same images as a Parquet file with row groups of ``group_rows``; labels: class names unless given."""
    table = pa.table(
        {
            "label": [CLASSES[i % 2] for i in range(count)] if labels is None else labels,
            "image": pa.array([DAMAGED if i in damaged else encode(i) for i in range(count)], pa.binary()),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=group_rows)
    storage.write_bytes(path, buffer.getvalue())
    return path


def tar_of(members: dict[str, bytes]) -> bytes:
    """A tar with these files, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path: str, count: int, damaged: Sequence[int] = ()) -> str:
    """The same images as a tar of WebDataset, their class in the field ``label`` of a json."""
    members = {}
    for index in range(count):
        members[f"{index:06d}.png"] = DAMAGED if index in damaged else encode(index)
        members[f"{index:06d}.json"] = json.dumps({"sku": f"{index:03d}", "label": CLASSES[index % 2]}).encode()
    storage.write_bytes(path, tar_of(members))
    return path
