"""Which labelled images there are: names, labels and where the bytes lie, without reading a single image."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa

from anchornet.data.listing import BLOCK_IMAGES, DatasetSettings, Listing, chosen_rows, class_names
from anchornet.data.parquet import list_parquet
from anchornet.data.reading import read_files
from anchornet.data.tars import list_tars
from anchornet.files import storage
from anchornet.files.kinds import TAR, containers_among, ending, is_companion, is_parquet

log = logging.getLogger(__name__)


def list_images(settings: DatasetSettings, classes: tuple[str, ...] | None, *, seed: int) -> Listing:
    """The labelled images below ``settings.path``, in an order drawn from ``seed``, at most ``settings.limit`` of them.

    image_id is the position in the sorted listing, whatever the seed and the limit. classes: None takes the sorted
    names found in the data (at least two). Raises ValueError when there is nothing to read, a single class, a file
    outside a class folder, a label that ``classes`` does not have, or Parquet without the two columns.
    """
    files = _visible_files(settings.path)
    containers = containers_among(files, f"data set {settings.path}")
    if containers and ending(containers[0]) == TAR:
        listing = list_tars(containers, settings, classes, seed)
    elif containers:
        listing = list_parquet(containers, settings, classes, seed)
    else:
        listing = _list_folders(files, settings, classes, seed)
    return replace(listing, accept_truncated=settings.accept_truncated)


def _visible_files(path: str) -> list[str]:
    root = storage.absolute(path).rstrip("/")
    try:
        visible = storage.list_visible(root) if storage.is_folder(root) else [root]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"data set {path} does not exist; give a folder, an s3:// prefix or a .parquet file"
        ) from error
    except PermissionError as error:
        raise ValueError(f"data set {path} may not be read ({error}); change its permissions") from error
    if not visible:
        raise ValueError(f"data set {path} is empty; put images into one folder per class, or give Parquet files")
    if visible == [root] and not is_parquet(root) and ending(root) != TAR:
        raise ValueError(
            f"data set {path} is a single file, neither Parquet nor a tar; give the folder of the class folders"
        )
    return visible


def _list_folders(files: list[str], settings: DatasetSettings, classes: tuple[str, ...] | None, seed: int) -> Listing:
    """The listing of ``path/CLASS/...``: the class is the first folder below ``path``, each image is a file of its own.

    Raises ValueError for a file outside a class folder.
    """
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
