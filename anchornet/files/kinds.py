"""What a file is by the ending of its name, in upper or lower case, and what a folder holds by its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

PARQUET = (".parquet", ".pq", ".parq")
LISTS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json")
"""Endings of lists that are text; ``.gz`` and its like may follow."""
PACKED = (".gz", ".bz2", ".zst")
"""Endings of compressed text, which Arrow unpacks as it reads."""
TAR = ".tar"
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


def containers_among(files: Sequence[str], path: str) -> list[str]:
    """The Parquet files, or else the tars, of a folder of them, without what may stand beside; empty when there are none.

    What img2dataset writes beside a tar or a folder of images (``00000.parquet``) counts as its companion. Raises ValueError
    for a folder that holds such files and other data, with those that are in the way.
    """
    tars = [file for file in files if file.lower().endswith(TAR)]
    parquet = [file for file in files if is_parquet(file)]
    if not tars and not parquet:
        return []
    containers = {*tars, *parquet}
    stems = {file[: -len(TAR)] for file in tars}
    folders = {file.rpartition("/")[0] for file in files if file not in containers}
    beside = stems | folders
    parquet = [file for file in parquet if file.rpartition(".")[0] not in beside]
    others = [
        file
        for file in files
        if file not in containers and file.rpartition(".")[0] not in stems and not is_companion(file)
    ]
    kinds = {"tars": tars, "Parquet files": parquet, "other files": others}
    present = sorted((names, kind) for kind, names in kinds.items() if names)
    if len(present) > 1 and (tars or parquet):
        fewest, kind = min(present, key=lambda each: len(each[0]))
        counts = " and ".join(f"{len(names)} {name}" for names, name in present)
        raise ValueError(
            f"{path} mixes {counts}; in the way are the {kind}: {_shown(fewest)}. Keep one kind below one folder"
        )
    return tars or parquet


def _shown(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
