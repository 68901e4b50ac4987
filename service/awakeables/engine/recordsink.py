"""Where the records of one partition go: the seam between the reader of a topic and what it is read for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from awakeables.core.effects import Header
from awakeables.core.records import Record
from awakeables.engine.horizon import Moment
from awakeables.engine.readerstate import ReaderState


class ConsumedRecord(Record):
    """A record as it was read from a topic."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


class RecordSink(Protocol):
    """Processes the records of one partition, in order.

    Each call that is awaited moves the partition's offset in the transaction of its effect (K1), and
    may raise:

        OwnershipLost: The partition has another reader, or was moved: it must be opened again.
        Overloaded, StoreUnavailable: It may or may not be done; call again.
        StoreRefused: The store will never take it.
    """

    async def open(self) -> int:
        """Become the partition's reader; return the offset to read from."""
        ...

    async def take(self, records: Sequence[ConsumedRecord]) -> None:
        """Process a batch."""
        ...

    async def reject(self, record: ConsumedRecord, reason: str) -> None:
        """Make a dead letter of a record that `take` has refused."""
        ...

    async def leave_out(self, first: int, next_: int, reason: str) -> None:
        """Make one dead letter of the records from `first` up to `next_`, which are not read."""
        ...

    async def expire(self, first: int, next_: int) -> None:
        """Report that the records from `first` up to `next_` were deleted before they were read."""
        ...

    def observe(self, state: ReaderState) -> None:
        """Report how far the partition has been read."""
        ...

    def read_up_to(self, moment: Moment) -> None:
        """Report that everything that was in the partition at that moment has been processed."""
        ...
