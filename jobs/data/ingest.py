"""From object storage to decoded rows: the manifest of a label job, and the task that reads and decodes.

Reading is done here rather than by ``ray.data.expressions.download``: that one turns a missing object, a wrong path and
an outage alike into a null, and a user has to know which of them it was.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from anchornet.cascade import rows as records
from anchornet.files import storage
from anchornet.images.decode import ImageError, decode
from anchornet.images.preprocess import CROP, preprocess
from jobs.settings import InputSettings

ROWS_PER_MANIFEST_FILE = 100_000
MANIFEST_FOLDER = "manifest"


def open_manifest(run_folder: str, settings: InputSettings) -> int:
    """Number of images in the run's manifest, which is made from ``settings`` at the first start.

    A later start in the same folder takes the manifest as it is, so that ids keep their meaning; files that appeared
    since are not in it. Raises ValueError when the input is empty, or differs from what the manifest was made from.
    """
    source = storage.join(run_folder, MANIFEST_FOLDER, "source.txt")
    wanted = f"{storage.absolute(settings.path)} limit={settings.limit}"
    if not storage.exists(source):
        table = records.manifest_table(list_input(settings))
        write_manifest(run_folder, table)
        storage.write_bytes(source, wanted.encode())  # last: its presence says that the manifest is whole
        return len(table)
    known = storage.read_bytes(source).decode()
    if known != wanted:
        raise ValueError(
            f"run folder {run_folder} was started for input {known!r}, got {wanted!r}; choose another run.folder"
        )
    return sum(_num_rows(uri) for uri in manifest_files(run_folder))


def manifest_files(run_folder: str) -> list[str]:
    """The Parquet files of the run's manifest."""
    folder = storage.join(run_folder, MANIFEST_FOLDER)
    return [uri for uri, _ in storage.list_files(folder) if uri.endswith(".parquet")]


def list_input(settings: InputSettings) -> list[str]:
    """URIs of all files below a folder or prefix, sorted; or the column ``uri`` of a Parquet file, in its order.

    Every file is listed, whatever it is: one that is no image becomes a row that says so. Only hidden files
    (``storage.list_visible``) are left out. Raises ValueError when there is nothing to label.
    """
    uris = _read_uris(settings.path) if settings.path.endswith(".parquet") else _list_folder(settings.path)
    if not uris:
        raise ValueError(
            f"input {settings.path} has no files; give a folder, an s3:// prefix or a Parquet with a column 'uri'"
        )
    return uris[: settings.limit]


def _list_folder(path: str) -> list[str]:
    try:
        return storage.list_visible(path)
    except FileNotFoundError as error:
        raise ValueError(f"input {path} does not exist; give a folder, an s3:// prefix or a Parquet file") from error


def _read_uris(path: str) -> list[str]:
    table = pq.read_table(io.BytesIO(storage.read_bytes(path)))
    if "uri" not in table.column_names:
        raise ValueError(f"input {path} has no column 'uri' (it has {', '.join(table.column_names)}); rename it")
    kind = table["uri"].type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"input {path}: column 'uri' must be text, got {kind}; cast it")
    if table["uri"].null_count:
        raise ValueError(f"input {path} has {table['uri'].null_count} rows without a uri; remove them")
    return [storage.absolute(uri) for uri in table["uri"].to_pylist()]


def write_manifest(run_folder: str, table: pa.Table) -> None:
    """Write ``table`` (MANIFEST_SCHEMA) as the manifest of a run, in place of what an interrupted start left."""
    if storage.exists(storage.join(run_folder, MANIFEST_FOLDER)):
        for uri in manifest_files(run_folder):
            storage.delete(uri)
    for start in range(0, len(table), ROWS_PER_MANIFEST_FILE):
        buffer = io.BytesIO()
        pq.write_table(table.slice(start, ROWS_PER_MANIFEST_FILE), buffer)
        name = f"part-{start // ROWS_PER_MANIFEST_FILE:06d}.parquet"
        storage.write_bytes(storage.join(run_folder, MANIFEST_FOLDER, name), buffer.getvalue())


def read_manifest(run_folder: str) -> pa.Table:
    """The whole manifest of a run: 8 bytes and a name per image, on the driver."""
    return pa.concat_tables(pq.read_table(io.BytesIO(storage.read_bytes(uri))) for uri in manifest_files(run_folder))


def _num_rows(uri: str) -> int:
    file_system, path = storage.resolve(uri)
    with file_system.open_input_file(path) as file:
        return int(pq.read_metadata(file).num_rows)


def decode_memory_bytes(max_pixels: int, batch_size: int) -> int:
    """Heap that one read-and-decode task may need: the largest image in RGB, and its batch of 224x224 images."""
    return 3 * max_pixels + 3 * CROP**2 * batch_size


class ReadAndDecode:
    """Manifest rows -> work rows: read the bytes, decode, shape to 224x224; a reason where that failed."""

    def __init__(self, max_pixels: int, read_threads: int) -> None:
        self.max_pixels = max_pixels
        self.read_threads = read_threads

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of MANIFEST_SCHEMA to work rows of :func:`anchornet.cascade.rows.work_table`."""
        uris = table["uri"].to_pylist()
        with ThreadPoolExecutor(self.read_threads) as pool:
            contents = list(pool.map(read_or_error, uris))
        shaped = [shape_or_error(content, self.max_pixels) for content in contents]
        pixels, status, errors = zip(*shaped, strict=True)
        return records.work_table(table["image_id"].to_numpy(), uris, pixels, status, errors)


def read_or_error(uri: str) -> bytes | OSError:
    """The content of a file, or the error that reading it gave."""
    try:
        return storage.read_bytes(uri)
    except OSError as error:
        return error
    except ValueError as error:  # a name that no storage can have, such as a key with an empty part
        return OSError(f"{type(error).__name__}: {error}")


def shape_or_error(content: bytes | OSError, max_pixels: int) -> tuple[bytes | None, str, str | None]:
    """(224*224*3 bytes or None, status, reason): the image boundary, where an error becomes a status.

    ``failed``: the storage did not give the file. ``unreadable``: it did, and it is no usable image.
    """
    if isinstance(content, OSError):
        return None, records.FAILED, f"{type(content).__name__}: {content}"
    try:
        return preprocess(decode(content, max_pixels)).tobytes(), records.OK, None
    except ImageError as error:
        return None, records.UNREADABLE, str(error)
