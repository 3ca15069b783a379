"""Class folders: ``path/CLASS/...``, the class is the first folder below ``path``; each image is a file of its own."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa

from anchornet.data.kinds import is_companion
from anchornet.data.listing import BLOCK_IMAGES, DatasetSettings, Listing, chosen_rows, class_names
from anchornet.data.reading import read_files
from anchornet.files import storage

log = logging.getLogger(__name__)


def list_folders(files: list[str], settings: DatasetSettings, classes: tuple[str, ...] | None, seed: int) -> Listing:
    """The listing of ``files`` below ``settings.path``; raises ValueError for a file outside a class folder."""
    root = storage.absolute(settings.path).rstrip("/")
    files = _without_companions(files, root, settings.path)
    parts = [uri[len(root) + 1 :].split("/") for uri in files]
    loose = [part[0] for part in parts if len(part) == 1]
    if loose:
        raise ValueError(
            f"data set {settings.path} has {len(loose)} files outside a class folder, such as {loose[0]}; "
            f"move each image into the folder of its class"
        )
    names = [part[0] for part in parts]
    classes = class_names(sorted(set(names)), classes, settings.path)
    index = {name: position for position, name in enumerate(classes)}
    labels = np.array([index[name] for name in names], dtype=np.int64)
    chosen = chosen_rows(len(files), settings.limit, seed)
    table = pa.table({"image_id": chosen, "uri": pa.array(files).take(chosen), "label": labels[chosen]})
    blocks = [table.slice(start, BLOCK_IMAGES).combine_chunks() for start in range(0, len(chosen), BLOCK_IMAGES)]
    return Listing(blocks=blocks, classes=classes, read=read_files, rows_are_files=True)


def _without_companions(files: list[str], root: str, path: str) -> list[str]:
    """``files`` without what lies beside the class folders to say what they are, such as README.md; that is counted."""
    beside = {uri for uri in files if "/" not in uri[len(root) + 1 :] and is_companion(uri)}
    if not beside:
        return files
    log.warning("below %s %d files beside the class folders are no images, such as %s", path, len(beside), min(beside))
    return [uri for uri in files if uri not in beside]
