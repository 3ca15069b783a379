"""What a label job labels: from ``input.path`` to tables with a row per image. docs/inputs.md lists the kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc

from anchornet.cascade.rows import along_name
from anchornet.data.lists import read_list
from anchornet.data.parquet import holds_images, list_rows, open_parquet
from anchornet.data.tars import list_samples
from anchornet.files import storage
from anchornet.files.kinds import CONTAINERS, LISTS, TAR, containers_among, ending, is_parquet
from anchornet.files.ranges import LARGEST_PICTURE, check_number
from anchornet.files.spool import Spool, SpooledNames, cut

BATCH_ROWS = 65_536
"""Rows of a listing that are in memory at a time."""
_MOST_THREADS = 1024
_SHARD = re.compile(r"([1-9][0-9]*)/([1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class InputSettings:
    """The images to label."""

    path: str
    """Folder, ``s3://`` or ``gs://`` prefix that is listed recursively; an image; or a list of names: Parquet (a file, or a
    folder of them), ``.csv``, ``.txt``, ``.jsonl``; or Parquet or tars that hold images. docs/inputs.md says more."""
    uri_column: str | None = None
    """Column of a list that holds the names; None: the first of uri, url, image_url, path, file_name."""
    image_column: str = "image"
    """Column of Parquet that holds the images themselves: bytes, or ``{bytes, path}`` as data sets of Hugging Face have it."""
    carry_columns: tuple[str, ...] = ()
    """Columns of the input that go along into the labels; one that label rows have already is called input_NAME there."""
    limit: int | None = None
    """Label only the first this many of the listing; None labels all."""
    shard: str | None = None
    """Label only one of several equal parts of the listing: ``2/4`` is the second of four. Give each part a run folder and a
    budget of its own. The same as ``--shard 2/4``; None labels all."""
    max_pixels: int = 100_000_000
    """Larger images get status ``unreadable`` instead of being decoded."""
    accept_truncated: bool = False
    """Label files whose tail is missing by what is there of them, with a note in the column ``error``; false: they are
    ``unreadable``. Calibrate with the same setting (``data.accept_truncated``) when many are."""
    decode_cpus: float = 0.5
    """Logical CPUs of one read-and-decode task."""
    read_threads: int = 16
    """Concurrent reads within one task; for object storage."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require(bool(self.path.strip()), "input.path is empty; give a folder, a prefix, an image or a list of names")
        names = [along_name(name) for name in self.carry_columns]
        _require(
            len(set(names)) == len(names),
            f"input.carry_columns would give the labels a column twice ({', '.join(names)}); leave one out",
        )
        _require(self.limit is None or self.limit > 0, f"input.limit must be > 0 or null, got {self.limit}")
        if self.shard is not None:
            found = _SHARD.fullmatch(self.shard)
            _require(
                found is not None and int(found[1]) <= int(found[2]),
                f"input.shard must be I/N, the I-th of N parts (1 <= I <= N), got {self.shard!r}; say 1/4 .. 4/4 for four parts",
            )
        check_number("input.max_pixels", self.max_pixels, above=0, most=LARGEST_PICTURE)
        check_number("input.decode_cpus", self.decode_cpus, above=0)
        check_number("input.read_threads", self.read_threads, above=0, most=_MOST_THREADS)

    @property
    def part(self) -> tuple[int, int]:
        """(which one, from 0, of how many) parts of the listing is to be labelled."""
        which, _, parts = (self.shard or "1/1").partition("/")
        return int(which) - 1, int(parts)

    def source(self) -> str:
        """What the listing depends on, as text: a run is never mixed with another one's images."""
        defaults = {field.name: field.default for field in fields(self)}
        said = [
            f"{name}={getattr(self, name)!r}"
            for name in ("uri_column", "image_column", "carry_columns", "shard")
            if getattr(self, name) != defaults[name]
        ]
        return " ".join([storage.absolute(self.path), f"limit={self.limit}", *said])


def list_input(settings: InputSettings) -> pa.Table:
    """All of :func:`input_tables` as one."""
    return pa.concat_tables(input_tables(settings))


def input_tables(settings: InputSettings) -> Iterator[pa.Table]:
    """Column ``uri`` of every image, in the order of the listing, and the columns that go along (``rows.ALONG``); in tables of
    BATCH_ROWS rows or fewer, so that memory does not grow with the listing.

    Rows of Parquet that holds the images also say where they are: columns file, row_group, row (in the row group);
    of tars: file, offset, size.
    A folder: all files below it, sorted, whatever they are: one that is no image becomes a row that says so. A list: its
    names in its order. ``input.shard`` is not looked at. Raises ValueError when there is nothing to label or what there is
    cannot be used, when the first table is asked for.
    """
    path, num_rows = settings.path, 0
    try:
        for table in cut(_tables(settings), BATCH_ROWS):
            wanted = len(table) if settings.limit is None else settings.limit - num_rows
            num_rows += len(table)
            if wanted > 0:
                yield table.slice(0, wanted)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"input {path} does not exist; give a folder, an s3:// or gs:// prefix, an image or a list of names"
        ) from error
    except PermissionError as error:
        raise ValueError(f"input {path} may not be read ({error}); change its permissions") from error
    if not num_rows:
        raise ValueError(f"input {path} has no files; give a folder with images, an image or a list of names")


def _tables(settings: InputSettings) -> Iterator[pa.Table]:
    """A list of names, a single image, or what a folder holds."""
    if storage.is_folder(settings.path):
        yield from _from_folder(settings)
        return
    file = storage.absolute(settings.path)
    if is_parquet(file) or ending(file) == TAR:
        yield from _from_containers([file], settings)
    elif ending(file) in LISTS:
        yield from read_list(settings.path, [file], settings.uri_column, settings.carry_columns)
    else:
        _check_no_list(settings, "uri_column", "carry_columns")
        yield pa.table({"uri": pa.array([file], pa.string())})


def _from_folder(settings: InputSettings) -> Iterator[pa.Table]:
    """A folder of images; or one of the files that a list was written as, by its name or because all files are Parquet."""
    with Spool() as spool:
        may_hold = False
        for table in storage.visible_tables(settings.path):
            spool.add(table)
            may_hold = may_hold or pc.any(pc.match_substring_regex(table["uri"], CONTAINERS)).as_py()
        files, end = SpooledNames(spool, "uri"), ending(settings.path.rstrip("/"))
        if end in LISTS and (parts := [file for file in files if ending(file) == end]):
            yield from read_list(settings.path, parts, settings.uri_column, settings.carry_columns)
        elif may_hold and (containers := containers_among(files, f"input {settings.path}")):
            yield from _from_containers(containers, settings)
        else:
            _check_no_list(settings, "uri_column", "carry_columns")
            yield from spool.tables()


def _from_containers(files: list[str], settings: InputSettings) -> Iterator[pa.Table]:
    """The images in Parquet files or tars; or those that Parquet names, when no column holds images or names are asked for."""
    if ending(files[0]) == TAR:
        _check_no_list(settings, "uri_column")
        return list_samples(files, settings.carry_columns)
    with open_parquet(files[0]) as first:
        images = settings.uri_column is None and holds_images(first.schema_arrow, settings.image_column)
    if images:
        return list_rows(files, settings.image_column, settings.carry_columns)
    return read_list(settings.path, files, settings.uri_column, settings.carry_columns)


def _check_no_list(settings: InputSettings, *names: str) -> None:
    for name in names:
        if getattr(settings, name):
            raise ValueError(
                f"input {settings.path} is no list, so there are no columns for input.{name}; leave it out"
            )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
