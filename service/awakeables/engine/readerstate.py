"""What the reader of a partition sees, beyond the row that says where it is read on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckBatch:
    """A batch that can't be opened: where it begins, and where the next one does, if that is known."""

    offset: int
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderState:
    """A partition as its reader has last seen it.

    Attributes:
        end: Where it ends; None: not known yet.
        lag: How many records wait to be read; None: nobody reads it now. Markers of transactions are
            no records, so it can be 0 before the end.
        behind_s: How old the last record is that was settled, while others wait.
        transaction_s: For how long an open transaction has held what lies behind its first record.
        stuck: The batch that it waits before.
        ahead: It waits because its topic was cut short, or created anew: it ends, or ended for a
            while, before the offset to be read next.
    """

    end: int | None = None
    lag: int | None = None
    behind_s: float = 0.0
    transaction_s: float = 0.0
    stuck: StuckBatch | None = None
    ahead: bool = False
