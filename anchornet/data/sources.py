"""Which labelled images there are: names, labels and where the bytes lie, without reading a single image."""

from __future__ import annotations

from anchornet.data.folders import list_folders
from anchornet.data.kinds import is_parquet, parquet_among
from anchornet.data.listing import DatasetSettings, Listing
from anchornet.data.parquet import list_parquet
from anchornet.files import storage


def list_images(settings: DatasetSettings, classes: tuple[str, ...] | None, *, seed: int) -> Listing:
    """The labelled images below ``settings.path``, in an order drawn from ``seed``, at most ``settings.limit`` of them.

    image_id is the position in the sorted listing, whatever the seed and the limit. classes: None takes the sorted
    names found in the data (at least two). Raises ValueError when there is nothing to read, a single class, a file
    outside a class folder, a label that ``classes`` does not have, or Parquet without the two columns.
    """
    files = _visible_files(settings.path)
    parquet = parquet_among(files, f"data set {settings.path}")
    if parquet:
        return list_parquet(parquet, settings, classes, seed)
    return list_folders(files, settings, classes, seed)


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
    if visible == [root] and not is_parquet(root):
        raise ValueError(f"data set {path} is a single file that is no Parquet; give the folder of the class folders")
    return visible
