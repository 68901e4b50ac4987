"""Checks of what is in Kafka's topics: A2 of completions, A3 of tasks."""

from __future__ import annotations

from collections.abc import Iterator

from awakeables.core.awakeables import KEPT_AT_EACH_END, AwakeableRow, Completion, DeadTask, Heartbeat
from awakeables.core.deadletters import SKIPPED, DeadLetter
from awakeables.core.invariants.findings import Violation
from awakeables.core.records import Record
from awakeables.core.sources import same_source


class Unjudged(Record):
    """A completion before its partition's position, without a verdict in its awakeable's row."""

    awakeable_id: str
    state: str
    topic: str
    partition: int
    offset: int

    @property
    def violation(self) -> Violation:
        place = f"offset {self.offset} of partition {self.partition} of {self.topic}"
        text = f"is {self.state}, and the completion at {place}, which was read, has no verdict"
        return Violation(invariant="A2", id=self.awakeable_id, text=text)

    def is_explained_by(self, letter: DeadLetter) -> bool:
        """Is the record a dead letter, or was it skipped, so that it has no verdict?"""
        if (letter.topic, letter.partition) != (self.topic, self.partition) or letter.offset > self.offset:
            return False
        # Where an operator moved to is not in the row.
        return letter.code == SKIPPED or self.offset <= (letter.last_offset or letter.offset)


def lacks_verdict(row: AwakeableRow, completion: Completion) -> bool:
    """Should a completion that was read have a verdict in this row, and has none?

    A history that is longer than what is kept of it may have had it.
    """
    if isinstance(completion.body, Heartbeat | DeadTask):
        return False
    history = row.verdicts
    if sum(history.counts.values()) > 2 * KEPT_AT_EACH_END:
        return False
    kept = (entry.source for entry in (*history.first, *history.last))
    return not any(same_source(source, completion.source) for source in kept)


def task_record_violations(awakeable_id: str, place: str, *, exists: bool, gone: bool) -> Iterator[Violation]:
    """Does a task in a topic name an awakeable that has a row, or that may have been deleted (A3)?"""
    if not exists and not gone:
        text = f"is the awakeable of the task at {place}, and has no row"
        yield Violation(invariant="A3", id=awakeable_id, text=text)
