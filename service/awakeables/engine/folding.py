"""Limits what is kept of records that settle nothing, per partition and minute; the rest is counted.

A producer of garbage can write a million records a minute. A row and a copy of each would fill the
service's disk. So the first of each minute are kept as they are, and one row stands for the others: it
has their number and the offsets between which they can be read again, while the topic has them. Of the
verdicts that settle nothing, too, only the first of each minute are published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from awakeables.core.deadletters import DeadLetter, Folding
from awakeables.core.ids import Ids

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldingSettings:
    """The limits of one partition and minute.

    Attributes:
        letters: How many dead letters are kept.
        bytes: The size of their keys, values and headers together.
        verdicts: How many verdicts other than `accepted` are published.
    """

    letters: int = 1000
    bytes: int = 32 * 1024 * 1024
    verdicts: int = 1000


@dataclass(slots=True)
class _Minute:
    began_ms: int
    fold_id: str
    letters: int = 0
    bytes: int = 0
    verdicts: int = 0


class Folder:
    """Counts what each partition has used of its limits in the current minute.

    The counts are lost with the process: after a restart a partition begins another minute.
    """

    def __init__(self, ids: Ids, settings: FoldingSettings) -> None:
        self._ids = ids
        self._settings = settings
        self._minutes: dict[int, _Minute] = {}

    def folding(self, partition: int, now_ms: int) -> Folding:
        """Return what is left of the limits for the partition's next batch."""
        minute = self._minutes.get(partition)
        if minute is None or not 0 <= now_ms - minute.began_ms < MINUTE_MS:
            minute = self._minutes[partition] = _Minute(now_ms, self._ids.new("dlq"))
        limits = self._settings
        return Folding(
            into=minute.fold_id,
            keep=max(0, limits.letters - minute.letters),
            keep_bytes=max(0, limits.bytes - minute.bytes),
            max_verdicts=max(0, limits.verdicts - minute.verdicts),
            reason=(
                "more records of this partition were unusable within a minute than are kept "
                f"({limits.letters:,}, of {limits.bytes:,} bytes): from this offset on they are only "
                "counted; while the topic has them, move the partition back to this offset to read them again"
            ),
        )

    def count_dead_letters(self, partition: int, letters: Sequence[DeadLetter]) -> None:
        """Count dead letters that were kept one by one."""
        minute = self._minutes[partition]
        minute.letters += len(letters)
        minute.bytes += sum(letter.size for letter in letters)

    def count_verdicts(self, partition: int, verdicts: int) -> bool:
        """Count verdicts other than `accepted`; True if these are the first of the minute above the limit."""
        minute = self._minutes[partition]
        before, minute.verdicts = minute.verdicts, minute.verdicts + verdicts
        return before <= self._settings.verdicts < minute.verdicts
