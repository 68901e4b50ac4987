"""The state of a partition's reader, beyond the offset, which is in the store."""

from __future__ import annotations

from dataclasses import dataclass

HELD_S = 1.0
"""A transaction that is open for longer is taken to hold records back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckBatch:
    """A batch that can't be decoded: its offset, and that of the next batch if it is known."""

    offset: int
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderState:
    """A partition as its reader last saw it.

    Attributes:
        end: Its end offset; None before the first report.
        lag: How many records are unread; None while it has no reader. Transaction markers are not
            records, so it can be 0 before the end.
        behind_s: The age of the record that was settled last, while others are unread.
        transaction_s: For how long an open transaction has kept records from being read.
        stuck: The batch that keeps it from being read.
        ahead: It is not read because its topic was truncated or recreated: its end is, or was for a
            while, before the next offset.
        waits: Why it is not read for now, although nothing is wrong: a subscription may be paused.
    """

    end: int | None = None
    lag: int | None = None
    behind_s: float = 0.0
    transaction_s: float = 0.0
    stuck: StuckBatch | None = None
    ahead: bool = False
    waits: str | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether what is unread can't be read for now."""
        return self.stuck is not None or self.ahead or self.transaction_s > HELD_S
