"""Every file below a local folder, links to folders followed once, and what could not be listed with the reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

HIDDEN = "hidden files and folders are"
BROKEN = "links that lead nowhere are"
ODD = "pipes, sockets and devices are"
UNREADABLE = "folders that may not be read are"
TWICE = "links to folders whose files are listed already are"

LeftOut = dict[str, list[str]]
"""Kind of what was left out -> the paths, sorted."""


def walk(root: str, is_hidden: Callable[[str], bool]) -> tuple[list[str], LeftOut]:
    """Paths of all files below the absolute folder ``root``, sorted, and what was left out.

    A folder is listed under its own name when it lies below ``root``, else under the first link to it, and never twice; so
    links that lead in a circle end. A link to a file is a file. Raises FileNotFoundError when there is no such folder,
    PermissionError when it may not be read, ValueError for a name that is not UTF-8.
    """
    walked = _Walk(is_hidden)
    walked.descend(root, must_be_readable=True)
    while walked.links:
        links, walked.links = sorted(walked.links), []
        for link in links:
            walked.descend(link)
    return sorted(walked.files), {kind: sorted(paths) for kind, paths in walked.left_out.items() if paths}


@dataclass
class _Walk:
    is_hidden: Callable[[str], bool]
    files: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """Links to folders, to be followed when the folders proper are done."""
    seen: set[tuple[int, int]] = field(default_factory=set)
    left_out: LeftOut = field(default_factory=lambda: {kind: [] for kind in (HIDDEN, BROKEN, ODD, UNREADABLE, TWICE)})

    def descend(self, folder: str, must_be_readable: bool = False) -> None:
        """List a folder and all that lies in it, links to folders aside; a link to one that was seen is left out."""
        if self._is_new(folder):
            waiting = [folder]
            while waiting:
                waiting += self._one_folder(waiting.pop(), must_be_readable)
                must_be_readable = False
        else:
            self.left_out[TWICE].append(folder)

    def _is_new(self, folder: str) -> bool:
        """Whether this folder, whatever its name, is met for the first time."""
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        new = identity not in self.seen
        self.seen.add(identity)
        return new

    def _one_folder(self, folder: str, must_be_readable: bool) -> Iterator[str]:
        """Sort the entries of one folder; gives the folders in it."""
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            if must_be_readable:
                raise
            self.left_out[UNREADABLE].append(folder)
            return
        for entry in entries:
            _check_name(entry.name, folder)
            if self.is_hidden(entry.name):
                self.left_out[HIDDEN].append(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                if self._is_new(entry.path):
                    yield entry.path
            else:
                self._file_or_link(entry)

    def _file_or_link(self, entry: os.DirEntry[str]) -> None:
        try:
            mode = entry.stat().st_mode if entry.is_symlink() or not entry.is_file() else stat.S_IFREG
        except OSError:  # leads nowhere, in a circle, or where one may not look
            self.left_out[BROKEN].append(entry.path)
            return
        if stat.S_ISREG(mode):
            self.files.append(entry.path)
        elif stat.S_ISDIR(mode):
            self.links.append(entry.path)
        else:
            self.left_out[ODD].append(entry.path)


def _check_name(name: str, folder: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a file below {folder} has a name that is not UTF-8 ({error}); rename it") from error
