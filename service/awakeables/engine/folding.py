"""How much of what settles nothing is kept: a limit per partition and minute; the rest is counted.

A producer of garbage writes a million records a minute. Each as a row with a copy would fill the
disk of a service that does nothing wrong. So the first of each minute are kept as they are, and one
row stands for the others: how many, and between which offsets they lie, where they can be read
again while the topic has them. Of verdicts that settle nothing the first of each minute are published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from awakeables.core.deadletters import DeadLetter, Folding
from awakeables.core.ids import Ids

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldingSettings:
    """What is kept of one partition in a minute.

    Attributes:
        letters: How many dead letters are kept.
        bytes: Of so much key, value and headers.
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
    """Knows what each partition has used up of its minute.

    That is lost with the process: after a start a partition may use up another minute's.
    """

    def __init__(self, ids: Ids, settings: FoldingSettings) -> None:
        self._ids = ids
        self._settings = settings
        self._minutes: dict[tuple[str, int], _Minute] = {}

    def folding(self, topic: str, partition: int, now_ms: int) -> Folding:
        """How the dead letters of the partition's next batch are kept."""
        minute = self._minutes.get((topic, partition))
        if minute is None or not 0 <= now_ms - minute.began_ms < MINUTE_MS:
            minute = self._minutes[topic, partition] = _Minute(now_ms, self._ids.new("dlq"))
        most = self._settings
        return Folding(
            into=minute.fold_id,
            keep=max(0, most.letters - minute.letters),
            keep_bytes=max(0, most.bytes - minute.bytes),
            max_verdicts=max(0, most.verdicts - minute.verdicts),
            reason=(
                "more records could not be used than are kept of a partition in a minute "
                f"({most.letters:,}, of {most.bytes:,} bytes): from this offset on they are only counted; "
                "while the topic has them, they are read again if you move the partition back to it"
            ),
        )

    def kept(self, topic: str, partition: int, letters: Sequence[DeadLetter]) -> None:
        """These were kept one by one."""
        minute = self._minutes[topic, partition]
        minute.letters += len(letters)
        minute.bytes += sum(letter.size for letter in letters)

    def told(self, topic: str, partition: int, verdicts: int) -> bool:
        """So many verdicts other than `accepted` came; were there more than there was room for, just now?"""
        minute = self._minutes[topic, partition]
        before, minute.verdicts = minute.verdicts, minute.verdicts + verdicts
        return before <= self._settings.verdicts < minute.verdicts
