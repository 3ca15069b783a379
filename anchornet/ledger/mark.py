"""The ledger's write-ahead mark: how much it may have granted, and which images it had seen, after its own death."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from anchornet.files import storage
from anchornet.ledger.seen import Snapshot

_LEASE = struct.Struct("<qiiqdd")


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


class OpenLease(NamedTuple):
    """An open lease as a mark keeps it."""

    lease_id: int
    stage: int
    num_rows: int
    allowance_macs: int
    expected_macs: float
    position: float

    def pack(self) -> bytes:
        """40 bytes; packed once when the lease is granted, since a mark may name ten thousand of them."""
        return _LEASE.pack(*self)

    @classmethod
    def unpack_all(cls, packed: bytes) -> list[OpenLease]:
        """The leases of a run of packed ones."""
        return [cls(*values) for values in _LEASE.iter_unpack(packed)]


@dataclass
class MarkState:
    """What a mark says."""

    authorised_macs: int = 0
    """No more than this was ever charged: settled work and the allowances of open leases together."""
    owner: str = ""
    """The ledger that wrote it, a number drawn when it was opened; whoever finds another one here stops granting."""
    epoch: int = 0
    """How often the ledger was opened; part of every lease id, so that ids of a dead ledger are known to be old."""
    session: str = ""
    """The driver's run that wrote it; the seen images are valid within one session only."""
    settled_macs: int = 0
    wasted_macs: int = 0
    """Part of it that brought no label: repeated work, and what earlier deaths of the ledger left unaccounted."""
    pending: list[int] = field(default_factory=list)
    """Rows that left each stage for the next and were not leased there yet."""
    first_rows: int = 0
    first_rows_repeated: int = 0
    """Rows leased at the first stage, and those of them that were leased before: batches that were lost."""
    exits_realised: list[int] = field(default_factory=list)
    open_leases: bytes = b""
    """Packed :class:`OpenLease` records: leases that were open when it was written; what they turn out not to need comes back."""
    seen: Snapshot = field(default_factory=dict)
    """Images leased at each stage."""

    def to_bytes(self) -> bytes:
        """JSON; the owner comes first."""
        values = {"owner": self.owner} | vars(self) | {"open_leases": base64.b64encode(self.open_leases).decode()}
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
            packed = base64.b64decode(values.pop("open_leases"), validate=True)
            state = cls(**values, open_leases=packed)
            if state.authorised_macs < 0 or state.epoch < 0:
                raise ValueError(f"authorised_macs {state.authorised_macs}, epoch {state.epoch}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RuntimeError(
                f"the ledger's mark cannot be read ({error}); what was spent is unknown, so start a new run folder"
            ) from error
        return state
