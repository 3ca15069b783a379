"""Tars as WebDataset has them: members that follow each other under one key are a sample, such as 0001.jpg and 0001.cls.

A tar is listed once, by its headers; each image is then read by itself, by its place in the file, so images of tars are
permuted one by one like any other files.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from anchornet.cascade.rows import ALONG
from anchornet.data.listing import (
    BLOCK_IMAGES,
    UNLABELLED,
    DatasetSettings,
    Listing,
    chosen_rows,
    class_names,
    labelled_rows,
)
from anchornet.data.parquet import joined
from anchornet.data.reading import OFFSET, READ_THREADS, read_files
from anchornet.files import storage
from anchornet.files.spool import AT_ONCE_ROWS, in_order

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "jp2", "avif")
KEY = "key"
"""Column that every sample has, beside its text members and the fields of its json."""
_REMOTE_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """An image in a tar, and what lies beside it."""

    file: str
    key: str
    name: str
    """Of the member that is the image."""
    offset: int
    size: int
    texts: dict[str, bytes]
    """Content of the other members that were asked for, by ending."""

    def value(self, column: str) -> Any:
        """The key, a text member, or a field of the json; None when there is none. Raises ValueError for what is no JSON."""
        if column == KEY:
            return self.key
        if column in self.texts:
            return self.texts[column].decode("utf-8", "replace").strip()
        if "json" not in self.texts:
            return None
        try:
            fields = json.loads(self.texts["json"])
        except ValueError as error:
            raise ValueError(f"{self.file}: the json of sample {self.key} is no JSON ({error}); mend it") from error
        return fields.get(column) if isinstance(fields, dict) else None


def list_samples(files: Sequence[str], carry: Sequence[str]) -> Iterator[pa.Table]:
    """A row per image of the tars, in their order: columns uri, file, offset, size, and those along.

    Raises ValueError for a column that no sample has, or that holds values of several types.
    """
    wanted = {"json", *carry} if set(carry) - {KEY} else set()
    found = in_order(partial(_rows, wanted=wanted, carry=carry), files, READ_THREADS)
    return joined(_with_all_of(carry, itertools.chain.from_iterable(found), files[0]), files[0])


def _rows(uri: str, wanted: set[str], carry: Sequence[str]) -> list[pa.Table]:
    samples, tables = _samples(uri, wanted), []
    while some := list(itertools.islice(samples, AT_ONCE_ROWS)):
        along = {ALONG + name: _column([sample.value(name) for sample in some], name) for name in carry}
        tables.append(pa.table({**_places(some), **along}))
    return tables


def _with_all_of(carry: Sequence[str], tables: Iterable[pa.Table], first_file: str) -> Iterator[pa.Table]:
    """The same tables; raises ValueError at their end when a column has been null throughout."""
    missing, num_rows = list(carry), 0
    for table in tables:
        missing = [name for name in missing if table[ALONG + name].null_count == len(table)]
        num_rows += len(table)
        yield table
    if num_rows and missing:
        raise ValueError(f"no sample of {first_file} has {missing[0]!r} to go along; mend input.carry_columns")


def list_tars(files: Sequence[str], settings: DatasetSettings, classes: tuple[str, ...] | None, seed: int) -> Listing:
    """The listing of all labelled samples: their member ``cls``, else the field ``label_column`` of their json.

    A whole number is a class whose name is its decimal text, -1 is none. Raises ValueError for a sample without a label.
    """
    samples = _samples_of(files, {"cls", "json"})
    if not samples:
        raise ValueError(f"data set {settings.path} has no images in its tars; write at least one sample into them")
    values = [_label(sample, settings.label_column) for sample in samples]
    labelled = labelled_rows(np.array([value != UNLABELLED for value in values], bool), settings.path)
    kinds = {type(values[row]) for row in labelled}
    if len(kinds) > 1:
        raise ValueError(f"data set {settings.path} labels some samples by number and some by text; write them alike")
    occurring = [str(value) for value in sorted({values[row] for row in labelled})]
    classes = class_names(occurring, classes, settings.path)
    index = {name: position for position, name in enumerate(classes)}
    chosen = labelled[chosen_rows(len(labelled), settings.limit, seed)]
    labels = pa.array([index[str(values[row])] for row in chosen], pa.int64())
    table = pa.table({"image_id": chosen, "label": labels, **_places([samples[row] for row in chosen])})
    blocks = [table.slice(start, BLOCK_IMAGES).combine_chunks() for start in range(0, len(table), BLOCK_IMAGES)]
    return Listing(blocks=blocks, classes=classes, read=read_files, rows_are_files=True)


def _label(sample: Sample, column: str) -> int | str:
    value = sample.value("cls")
    value = sample.value(column) if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise ValueError(
            f"{sample.file}: sample {sample.key} has no label: no .cls, and {column!r} in its .json is {value!r}; "
            f"set label_column, or write a .cls"
        )
    text = str(value)
    return int(text) if text.removeprefix("-").isdecimal() else text


def _places(samples: Sequence[Sample]) -> dict[str, pa.Array]:
    return {
        "uri": pa.array([f"{sample.file}#{sample.name}" for sample in samples], pa.string()),
        "file": pa.array([sample.file for sample in samples], pa.string()),
        OFFSET: pa.array([sample.offset for sample in samples], pa.int64()),
        "size": pa.array([sample.size for sample in samples], pa.int64()),
    }


def _column(values: list[Any], name: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"samples hold {name!r} in several types ({error}); leave it out of input.carry_columns"
        ) from error


def _samples_of(files: Sequence[str], wanted: set[str]) -> list[Sample]:
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return [sample for samples in pool.map(lambda uri: list(_samples(uri, wanted)), files) for sample in samples]


def _samples(uri: str, wanted: set[str]) -> Iterator[Sample]:
    """Samples of a tar that have an image, with those of their other members whose ending is wanted."""
    file_system, path = storage.resolve(uri)
    with file_system.open_input_file(path) as file:
        if not file.size():
            return
        _check_end(file, uri)
        try:
            # In object storage every read is a request: better few large ones, though they bring most of the images too.
            buffer = _REMOTE_BUFFER_BYTES if storage.is_remote(uri) else io.DEFAULT_BUFFER_SIZE
            with tarfile.open(fileobj=io.BufferedReader(file, buffer), mode="r:") as archive:
                yield from _grouped(_members(archive, wanted), uri)
        except tarfile.TarError as error:
            raise ValueError(f"{uri} is no tar that can be read ({error}); write it again, or unpack it") from error


def _check_end(file: pa.NativeFile, uri: str) -> None:
    """Refuse (ValueError) a tar that was cut off, whose last samples would be missing without a word; ends at the beginning."""
    end = file.read_at(tarfile.BLOCKSIZE, max(0, file.size() - tarfile.BLOCKSIZE))
    file.seek(0)
    if end != bytes(tarfile.BLOCKSIZE):
        raise ValueError(
            f"{uri} does not end as a tar does: it is cut off, compressed or no tar; copy it again, or unpack it"
        )


@dataclass(frozen=True)
class _Member:
    key: str
    ending: str
    name: str
    offset: int
    size: int
    content: bytes | None


def _members(archive: tarfile.TarFile, wanted: set[str]) -> Iterator[_Member]:
    for member in archive:
        folder, slash, name = member.name.rpartition("/")
        stem, dot, ending = name.partition(".")
        ending = ending.lower()
        if not member.isfile() or not dot or not stem:
            continue
        content = None
        if ending in wanted and (opened := archive.extractfile(member)):
            content = opened.read()
        yield _Member(folder + slash + stem, ending, member.name, member.offset_data, member.size, content)


def _grouped(members: Iterable[_Member], uri: str) -> Iterator[Sample]:
    """Samples from members in the order of the tar; a key without an image, such as a file of notes, is none."""
    group: list[_Member] = []
    for member in members:
        if group and member.key != group[0].key:
            yield from _sample(group, uri)
            group = []
        group.append(member)
    yield from _sample(group, uri)


def _sample(group: list[_Member], uri: str) -> Iterator[Sample]:
    image = next((member for member in group if member.ending in IMAGE_ENDINGS), None)
    if image is not None:
        texts = {member.ending: member.content for member in group if member.content is not None}
        yield Sample(uri, image.key, image.name, image.offset, image.size, texts)
