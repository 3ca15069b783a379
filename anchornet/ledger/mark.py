"""The ledger's write-ahead mark: how much it may have granted, and what it had counted, after its own death."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from anchornet.files import storage

_PURSE = struct.Struct("<16sqiiqqiqdd")


class Mark(Protocol):
    """Where the mark lies; ``write`` returns only when the content would survive the death of the process."""

    def read(self) -> bytes | None:
        """The last content written, None when there is none."""
        ...

    def write(self, content: bytes) -> None:
        """Replace the content in one step."""
        ...


class FileMark:
    """A mark in one file, local or ``s3://``."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def read(self) -> bytes | None:
        """The file's content, None when there is no file."""
        return storage.read_bytes(self.uri) if storage.exists(self.uri) else None

    def write(self, content: bytes) -> None:
        """Replace the file in one step."""
        storage.write_bytes(self.uri, content)


class MemoryMark:
    """A mark for simulations and tests: outlives a ledger, not the process."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def read(self) -> bytes | None:
        """The last content written, None when there is none."""
        return self.content

    def write(self, content: bytes) -> None:
        """Replace the content."""
        self.content = content


class OpenPurse(NamedTuple):
    """A worker's purse as the ledger and its mark know it; macs 0 once everything came back."""

    worker: bytes
    number: int
    """Of the last statement that counted."""
    stage: int
    num_rows: int
    granted_macs: int
    """The answer to that statement, with ``num_rows`` and ``position``: given again when the statement comes again."""
    room_macs: int
    """Part of it beyond what is expected to be used."""
    kept_rows: int
    kept_macs: int
    """What was computing when the statement was made."""
    position: float

    @property
    def open_macs(self) -> int:
        """What the worker may still compute, as far as the ledger knows."""
        return self.granted_macs + self.kept_macs

    @property
    def open_rows(self) -> int:
        """Rows that this is for."""
        return self.num_rows + self.kept_rows


def pack_purses(purses: Iterable[tuple[OpenPurse, float]]) -> bytes:
    """Purses, and for how many seconds each worker had not been heard: 76 bytes each, a mark may name ten thousand."""
    return b"".join([_PURSE.pack(*purse, silent_s) for purse, silent_s in purses])


def unpack_purses(packed: bytes) -> list[tuple[OpenPurse, float]]:
    """What was packed."""
    return [(OpenPurse(*values), silent_s) for *values, silent_s in _PURSE.iter_unpack(packed)]


@dataclass
class MarkState:
    """What a mark says."""

    authorised_macs: int = 0
    """No more than this was ever charged: everything computed and everything permitted together."""
    owner: str = ""
    """The ledger that wrote it, a number drawn when it was opened; whoever finds another one here stops granting."""
    epoch: int = 0
    """How often a ledger was opened on it; 0 is the empty mark that a driver writes before any was."""
    session: str = ""
    """The driver's run that wrote it; counts and purses are valid within one session only."""
    settled_macs: int = 0
    """Part of it that workers stated as computed."""
    gone_on: list[int] = field(default_factory=list)
    """Rows that left each stage for the next."""
    longest_silence_s: float = 0.0
    """That a worker broke so far."""
    exits_realised: list[int] = field(default_factory=list)
    purses: bytes = b""
    """See :func:`pack_purses`."""
    seen: list[int] = field(default_factory=list)
    """Images stated at each stage: how many, not which."""

    def to_bytes(self) -> bytes:
        """JSON; the owner comes first."""
        values = {"owner": self.owner} | vars(self) | {"purses": base64.b64encode(self.purses).decode()}
        return json.dumps(values).encode()

    @staticmethod
    def owner_of(content: bytes) -> str:
        """The owner alone, without reading the rest."""
        head, _, _ = content.partition(b",")
        return head.partition(b":")[2].strip().strip(b'"').decode()

    @classmethod
    def from_bytes(cls, content: bytes) -> MarkState:
        """Read what :meth:`to_bytes` wrote.

        Raises RuntimeError when the content is damaged: a ledger that guesses would break its promise.
        """
        try:
            values = json.loads(content)
            packed = base64.b64decode(values.pop("purses"), validate=True)
            state = cls(**values, purses=packed)
            if state.authorised_macs < 0 or state.epoch < 0:
                raise ValueError(f"authorised_macs {state.authorised_macs}, epoch {state.epoch}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RuntimeError(
                f"the ledger's mark cannot be read ({error}); what was spent is unknown, so start a new run folder"
            ) from error
        return state
