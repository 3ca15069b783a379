"""What a file is by its name, whose ending may be in upper or lower case, and what a folder holds by its files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anchornet.files.local_listing import HIDDEN, LeftOut

PARQUET = (".parquet", ".pq", ".parq")
LISTS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json")
"""Endings of lists that are text; ``.gz`` and its like may follow."""
PACKED = (".gz", ".bz2", ".zst")
"""Endings of compressed text, which Arrow unpacks as it reads."""
TAR = ".tar"
NO_DATA = frozenset({"_SUCCESS", "_temporary", "_metadata", "_common_metadata"})
"""What Spark and Arrow write beside data."""
CONTAINERS = r"(?i)\.(?:parquet|pq|parq|tar)$"
"""A pattern (of RE2) for the names that :func:`containers_among` looks for."""
_SHOWN = 3
_COMPANIONS = (
    ".md",
    ".rst",
    ".txt",
    ".json",
    ".jsonl",
    ".yaml",
    ".yml",
    ".crc",
    ".html",
    ".py",
    ".pdf",
    ".csv",
    ".tsv",
)
_COMPANION_NAMES = ("license", "licence", "readme", "notice", "copying", "authors", "citation", "makefile", "checksums")


def ending(name: str) -> str:
    """The ending of a file's name in lower case, that of compression aside: ``.csv`` of ``LIST.CSV.GZ``; empty without one."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes = suffixes[:-1]
    return suffixes[-1] if suffixes else ""


def is_parquet(name: str) -> bool:
    """True when the name ends as Parquet files and folders of them do."""
    return name.rstrip("/").lower().endswith(PARQUET)


def is_companion(name: str) -> bool:
    """True for what people put beside data to say what it is: README.md, LICENSE, a checksum, a loading script."""
    base = name.rpartition("/")[2].lower()
    return base.endswith(_COMPANIONS) or base in _COMPANION_NAMES


def is_hidden(name: str) -> bool:
    """True for a part of a path that begins with a dot, and for what is written beside data."""
    return name in NO_DATA or (name.startswith(".") and name not in (".", ".."))


def without_hidden(tables: Iterable[pa.Table], inside: int, left_out: LeftOut) -> Iterator[pa.Table]:
    """Column ``uri`` of the sorted ``tables`` without names of which a part is hidden; those are counted in ``left_out``.

    inside: where the names begin in which parts count. A hidden folder counts as one.
    """
    last = ""
    for table in tables:
        names = table["uri"]
        suspects = np.flatnonzero(pc.match_substring_regex(names, "/[._]").to_numpy())
        keep = np.ones(len(names), bool)
        for row, name in zip(suspects, names.take(suspects).to_pylist(), strict=True):
            parts = name[inside:].split("/")
            first = next((position for position, part in enumerate(parts) if is_hidden(part)), None)
            if first is not None:
                keep[row] = False
                hidden = name[:inside] + "/".join(parts[: first + 1])
                if hidden != last:  # what lies in a hidden folder follows each other
                    left_out.add(HIDDEN, hidden)
                    last = hidden
        yield pa.table({"uri": names.filter(pa.array(keep))})


def containers_among(files: Iterable[str], path: str) -> list[str]:
    """The Parquet files, or else the tars, of a folder of them, without what may stand beside; empty when there are none.

    files: the sorted names, iterated over several times; nothing but the containers among them is kept. What img2dataset writes
    beside a tar or a folder of images (``00000.parquet``) counts as its companion. Raises ValueError for a folder that holds
    such files and other data, with those that are in the way.
    """
    tars = [file for file in files if file.lower().endswith(TAR)]
    parquet = [file for file in files if is_parquet(file)]
    if not tars and not parquet:
        return []
    containers = {*tars, *parquet}
    tar_stems = {file[: -len(TAR)] for file in tars}
    stems = {file.rpartition(".")[0] for file in parquet}
    rest = (file for file in files if file not in containers)
    beside = tar_stems | {folder for file in rest if (folder := file.rpartition("/")[0]) in stems}
    parquet = [file for file in parquet if file.rpartition(".")[0] not in beside]
    kinds = {"tars": _few(tars), "Parquet files": _few(parquet), "other files": _others(files, containers, tar_stems)}
    present = sorted((names, count, kind) for kind, (names, count) in kinds.items() if count)
    if len(present) > 1 and (tars or parquet):
        fewest, count, kind = min(present, key=lambda each: each[1])
        counts = " and ".join(f"{count} {name}" for _, count, name in present)
        raise ValueError(
            f"{path} mixes {counts}; in the way are the {kind}: {_shown(fewest, count)}. Keep one kind below one folder"
        )
    return tars or parquet


def _others(files: Iterable[str], containers: set[str], tar_stems: set[str]) -> tuple[list[str], int]:
    """The first few, and how many, of the files that are no containers, nor stand beside them to say what they are."""
    return _few(
        file
        for file in files
        if file not in containers and file.rpartition(".")[0] not in tar_stems and not is_companion(file)
    )


def _few(names: Iterable[str]) -> tuple[list[str], int]:
    first, count = [], 0
    for name in names:
        if count < _SHOWN:
            first.append(name)
        count += 1
    return first, count


def _shown(first: Sequence[str], count: int) -> str:
    return ", ".join(first) + (f" and {count - len(first)} more" if count > len(first) else "")
