"""Every file below a local folder in the order of the names, links to folders followed once, and what could not be listed.

Names are never held all together: of a folder at a time, as text in Arrow, and what was found waits in a spool.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from anchornet.files.spool import Spool, SpooledNames

HIDDEN = "hidden files and folders are"
BROKEN = "links that lead nowhere are"
ODD = "pipes, sockets and devices are"
UNREADABLE = "folders that may not be read are"
TWICE = "links to folders whose files are listed already are"
KINDS = (HIDDEN, BROKEN, ODD, UNREADABLE, TWICE)
SHOWN = 3
"""Names of each kind that are remembered, the first ones."""
CHUNK = 65_536
"""Names that are Python's at a time."""


class LeftOut:
    """What a listing has left out: how many of each kind, and the names of the first few."""

    def __init__(self, uncounted: Collection[str] = ()) -> None:
        self.count: Counter[str] = Counter()
        self.names: dict[str, list[str]] = {}
        """Paths by kind, sorted."""
        self._uncounted = uncounted

    def add(self, kind: str, path: str) -> None:
        """Count ``path``, unless its last part is one of those that are left out without a word."""
        if path.rpartition("/")[2] not in self._uncounted:
            self.count[kind] += 1
            self.names[kind] = sorted([*self.names.get(kind, ()), path])[:SHOWN]


def walk(root: str, is_hidden: Callable[[str], bool], left_out: LeftOut) -> Iterator[str]:
    """Paths of all files below the absolute folder ``root``, sorted; what is left out is counted in ``left_out``.

    A folder is listed under its own name when it lies below ``root``, else under the first link to it, and never twice; so
    links that lead in a circle end. A link to a file is a file. Raises FileNotFoundError when there is no such folder,
    PermissionError when it may not be read, ValueError for a name that is not UTF-8.
    """
    walked, runs = _Walk(is_hidden, left_out), 1
    with Spool() as spool:
        _spool_names(spool, walked.descend(root, must_be_readable=True), 0)
        while walked.links:
            links, walked.links = sorted(walked.links), []
            for link in links:
                _spool_names(spool, walked.descend(link), runs)
                runs += 1
        names = [SpooledNames(spool, "uri", number) for number in range(runs)]
        yield from names[0] if runs == 1 else heapq.merge(*names)


def tables_of(names: Iterable[str]) -> Iterator[pa.Table]:
    """``names`` as tables with a column ``uri``, of CHUNK rows or fewer."""
    waiting: list[str] = []
    for name in names:
        waiting.append(name)
        if len(waiting) == CHUNK:
            yield pa.table({"uri": pa.array(waiting, pa.string())})
            waiting = []
    if waiting:
        yield pa.table({"uri": pa.array(waiting, pa.string())})


def _spool_names(spool: Spool, names: Iterable[str], number: int) -> None:
    for table in tables_of(names):
        spool.add(table, number)


@dataclass
class _Walk:
    is_hidden: Callable[[str], bool]
    left_out: LeftOut
    links: list[str] = field(default_factory=list)
    """Links to folders, to be followed when the folders proper are done."""
    seen: set[tuple[int, int]] = field(default_factory=set)

    def descend(self, folder: str, must_be_readable: bool = False) -> Iterator[str]:
        """The files in a folder and all that lies in it, sorted, links to folders aside; a link to one that was seen is left
        out."""
        if not self._is_new(folder):
            self.left_out.add(TWICE, folder)
            return
        open_folders = [self._sorted_entries(folder, must_be_readable)]
        while open_folders:
            for path in open_folders[-1]:
                if not path.endswith("/"):
                    yield path
                elif self._is_new(path[:-1]):
                    open_folders.append(self._sorted_entries(path[:-1]))
                    break
            else:
                open_folders.pop()

    def _is_new(self, folder: str) -> bool:
        """Whether this folder, whatever its name, is met for the first time."""
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        new = identity not in self.seen
        self.seen.add(identity)
        return new

    def _sorted_entries(self, folder: str, must_be_readable: bool = False) -> Iterator[str]:
        """Paths of the files and folders right in a folder, these with a slash at the end: so the order of the entries is that
        of the whole paths below them."""
        chunks: list[pa.Array] = []
        names: list[str] = []
        for name in self._entries(folder, must_be_readable):
            names.append(name)
            if len(names) == CHUNK:
                chunks.append(pa.array(names, pa.large_string()))
                names = []
        if not chunks:
            yield from (os.path.join(folder, name) for name in sorted(names))
            return
        column = pa.concat_arrays([*chunks, pa.array(names, pa.large_string())])
        order = pc.sort_indices(column)  # by the bytes, which is the order of code points
        for start in range(0, len(order), CHUNK):
            for name in column.take(order.slice(start, CHUNK)).to_pylist():
                yield os.path.join(folder, name)

    def _entries(self, folder: str, must_be_readable: bool) -> Iterator[str]:
        """Names in a folder, in no order."""
        try:
            entries = os.scandir(folder)
        except PermissionError:
            if must_be_readable:
                raise
            self.left_out.add(UNREADABLE, folder)
            return
        with entries:
            for entry in entries:
                _check_name(entry.name, folder)
                if self.is_hidden(entry.name):
                    self.left_out.add(HIDDEN, entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    yield entry.name + "/"
                elif self._is_file(entry):
                    yield entry.name

    def _is_file(self, entry: os.DirEntry[str]) -> bool:
        """True for a file or a link to one; a link to a folder is noted, anything else left out."""
        try:
            mode = entry.stat().st_mode if entry.is_symlink() or not entry.is_file() else stat.S_IFREG
        except OSError:  # leads nowhere, in a circle, or where one may not look
            self.left_out.add(BROKEN, entry.path)
            return False
        if stat.S_ISDIR(mode):
            self.links.append(entry.path)
        elif not stat.S_ISREG(mode):
            self.left_out.add(ODD, entry.path)
        return stat.S_ISREG(mode)


def _check_name(name: str, folder: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a file below {folder} has a name that is not UTF-8 ({error}); rename it") from error
