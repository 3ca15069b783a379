"""What a file is by the ending of its name, in upper or lower case, and what a folder holds by its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

PARQUET = (".parquet", ".pq", ".parq")
LISTS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json")
"""Endings of lists that are text; ``.gz`` and its like may follow."""
PACKED = (".gz", ".bz2", ".zst")
"""Endings of compressed text, which Arrow unpacks as it reads."""
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


def parquet_among(files: Sequence[str], path: str) -> list[str]:
    """The Parquet files of a folder of Parquet, without what may stand beside them; empty when there is none.

    Raises ValueError for a folder that holds both Parquet and other data, with those that are in the way.
    """
    parquet = [file for file in files if is_parquet(file)]
    others = [file for file in files if not is_parquet(file) and not is_companion(file)]
    if parquet and others:
        fewer, more = ("Parquet", "other") if len(parquet) <= len(others) else ("other", "Parquet")
        names = sorted((parquet, others), key=len)[0]
        raise ValueError(
            f"{path} mixes {len(parquet)} Parquet files and {len(others)} others; in the way of the {more} files are the "
            f"{fewer} ones: {_shown(names)}. Keep one kind below one folder"
        )
    return parquet


def _shown(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
