"""Take the records of one partition: what every sink does, and the sink of completions.

A record that can't be used becomes a dead letter. A batch is one command: what it changes, dead letters and
the offset are committed together (K1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from awakeables.core.awakeables import Completion, DeadTask, Heartbeat, VerdictKind
from awakeables.core.commands import PartitionFence, Settle
from awakeables.core.deadletters import (
    FOLDED,
    INVALID,
    LATE,
    UNREADABLE,
    UNSTORABLE,
    UNUSABLE_TASK,
    DeadLetter,
    Folding,
)
from awakeables.core.replies import SettledAll
from awakeables.core.sources import partition_sources
from awakeables.core.texts import shortened
from awakeables.engine.horizon import Moment
from awakeables.engine.readerstate import ReaderState
from awakeables.engine.readtopic import ConsumedRecord, Minute, ReadTopic
from awakeables.errors import StoreRefused
from awakeables.telemetry import events
from awakeables.wire.completions import Unreadable, decode_completion
from awakeables.wire.tasks import Address, find_address

if TYPE_CHECKING:
    from awakeables.engine.completionstopic import CompletionsTopic
    from awakeables.telemetry.spans import Spans

log = structlog.stdlib.get_logger(__name__)

MINUTE_S = 60.0
MOST_LOGGED = 3
"""How many dead letters of a batch are listed in its line of the log."""


class PartitionSink(ABC):
    """Takes the records of one partition of a topic, in order.

    `open` claims the partition with an epoch. Each call that is awaited moves the partition's offset in the
    transaction of its effect (K1), fenced by that epoch, and may raise:

        OwnershipLost: The partition has another reader, or was moved: it must be opened again.
        Overloaded, StoreUnavailable: It may or may not be done; call again.
        StoreRefused: The store will never accept it.

    Attributes:
        full: Why it takes nothing for now; `look` finds out whether that has changed. None: it does.
    """

    full: str | None = None

    most = 1_000_000
    """How many records it may take at once."""

    def __init__(self, topic: ReadTopic, partition: int) -> None:
        self._topic = topic
        self._partition = partition
        self._fence = PartitionFence(
            topic=topic.name,
            partition=partition,
            epoch=0,
            first=0,
            next=0,
            owner="",
            subscription=topic.subscription,
        )
        self._topic_id: str | None = None
        self._closed = False
        shown, label = topic.shown, str(partition)
        self._lag = shown.lag(label)
        self._behind_s = shown.behind_s(label)
        self._transaction_s = shown.transaction_s(label)

    @abstractmethod
    async def take(self, records: Sequence[ConsumedRecord]) -> int:
        """Use records, or some of the first; return the offset of the first one that was not used."""

    @abstractmethod
    async def _commit(self, first: int, next_: int, *, letters: Sequence[DeadLetter] = ()) -> object:
        """Commit dead letters, and move from `first` to `next_`."""

    async def look(self) -> None:
        """Find out whether it is still `full`."""
        return

    def call_on_room(self, on_room: Callable[[], None]) -> None:
        """While it is `full`: call this when it may not be any more, if that is noticed."""
        return

    async def open(self) -> int:
        """Become the partition's reader; return the offset to read from."""
        position = await self._topic.claim(self._partition)
        self._fence = replace(self._fence, epoch=position.epoch, owner=position.owner or "")
        self._topic_id = position.topic_id
        return position.next

    @property
    def how_to_begin_again(self) -> str:
        """The command that has the partition read from its beginning."""
        return self._topic.how_to_begin_again(self._partition)

    @property
    def is_topic_recreated(self) -> bool:
        """Whether the topic was recreated since the offset that `open` returned was stored."""
        return self._topic.is_recreated_since(self._topic_id)

    async def reject(self, record: ConsumedRecord, reason: str) -> None:
        """Make a dead letter of a record that `take` has refused (K2).

        If the store also refuses the dead letter, it is kept without key, value and headers, which the
        topic still has.
        """
        first, next_ = record.offset, record.offset + 1
        letter = self._topic.dead_letter(self._partition, record, UNSTORABLE, reason)
        try:
            await self._commit(first, next_, letters=[letter])
        except StoreRefused:
            await self._commit(first, next_, letters=[replace(letter, key=None, value=None, headers=())])

    async def leave_out(self, first: int, next_: int, reason: str) -> None:
        """Make one dead letter of the records from `first` up to `next_`, which are not read (K2)."""
        lost = ConsumedRecord(offset=first, timestamp_ms=self._topic.clock.now_ms(), key=None, value=None)
        letter = self._topic.dead_letter(self._partition, lost, INVALID, reason)
        letter = replace(letter, last_offset=next_ - 1, count=next_ - first)
        await self._commit(first, next_, letters=[letter])

    async def expire(self, first: int, next_: int) -> None:
        """Report that the records from `first` up to `next_` were deleted before they were read."""
        # A call that is repeated, or the next reader's, reports only what has not been reported.
        topic = self._topic
        count = max(0, next_ - max(first, topic.expired_to.get(self._partition, 0)))
        topic.expired_to[self._partition] = next_
        if count:
            topic.shown.expired.inc(count)
            log.error(
                events.RECORDS_EXPIRED,
                partition=self._partition,
                first=next_ - count,
                next=next_,
                count=count,
                **topic.facts,
            )
        await self._commit(first, next_)

    def close(self) -> None:
        """The partition is no longer read by this process: what is reported from now on is ignored."""
        self.observe(ReaderState())
        self._closed = True
        self._topic.readers.pop(self._partition, None)

    def observe(self, state: ReaderState) -> None:
        """Report how far the partition has been read."""
        if self._closed:
            return
        self._topic.readers[self._partition] = state
        self._lag.set(state.lag or 0)
        self._behind_s.set(state.behind_s)
        self._transaction_s.set(state.transaction_s)

    def read_up_to(self, moment: Moment) -> None:
        """Report that everything that was in the partition at that moment has been taken."""
        return

    def _folding(self) -> Folding:
        """What is left of the partition's limits in this minute."""
        topic, now_s = self._topic, self._topic.clock.monotonic()
        minute = topic.minutes.get(self._partition)
        if minute is None or now_s - minute.began_s >= MINUTE_S:
            minute = topic.minutes[self._partition] = Minute(now_s, topic.ids.new("dlq"))
        limits = topic.folding
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

    def _report_dead_letters(self, added: Sequence[DeadLetter], folded: Mapping[str, int]) -> None:
        """Count and log the dead letters of a batch, including those that were folded."""
        letters = [letter for letter in added if letter.code != FOLDED]
        counts = Counter(folded)
        for letter in letters:
            counts[letter.code] += letter.count
        topic = self._topic
        for code, count in counts.items():
            topic.metrics.dead_letters_added(code, count)
        minute = topic.minutes[self._partition]
        minute.letters += len(letters)
        minute.bytes += sum(letter.size for letter in letters)
        # In a flood there is such a batch every few milliseconds; its beginning has been logged.
        log_line = log.warning if added else log.debug
        log_line(
            events.DEAD_LETTERS,
            partition=self._partition,
            count=counts.total(),
            folded=sum(folded.values()),
            first=[_log_fields(letter) for letter in added[:MOST_LOGGED]],
            **topic.facts,
        )
        topic.on_effects()


class CompletionSink(PartitionSink):
    """Settles the completions of one partition."""

    _topic: CompletionsTopic

    def __init__(self, topic: CompletionsTopic, partition: int) -> None:
        super().__init__(topic, partition)
        self._source_at = partition_sources(topic.name, partition)

    async def take(self, records: Sequence[ConsumedRecord]) -> int:
        """Settle the completions of a batch, and make dead letters of its other records."""
        topic, partition = self._topic, self._partition
        completions: list[Completion] = []
        completing: list[ConsumedRecord] = []
        letters: list[DeadLetter] = []
        for record in records:
            source = self._source_at(record.offset, record.timestamp_ms)
            try:
                completion = decode_completion(
                    record.value, headers=record.headers, key=record.key, source=source
                )
            except Unreadable as error:
                letters.append(topic.dead_letter(partition, record, UNREADABLE, str(error)))
                continue
            if isinstance(completion.body, DeadTask) and not _is_ours(
                completion.body, completion, topic.name
            ):
                refusal = "the record that it reports is not a task of this awakeable, answered to this topic"
                completion = replace(completion, body=None, refusal=refusal)
            completions.append(completion)
            completing.append(record)
        next_ = records[-1].offset + 1
        committing = self._commit(records[0].offset, next_, completions, completing, letters)
        spans = topic.settlement.spans
        settled = await (
            committing if spans is None else self._recorded(spans, completions, completing, committing)
        )
        self._count_verdicts(completions, settled)
        return next_

    async def _recorded(
        self,
        spans: Spans,
        completions: Sequence[Completion],
        records: Sequence[ConsumedRecord],
        committing: Awaitable[SettledAll],
    ) -> SettledAll:
        """Commit completions, each in a span of its own; heartbeats have none."""
        begun = {
            place: spans.settle_record(each, self._topic.name, self._partition, records[place].offset)
            for place, each in enumerate(completions)
            if not isinstance(each.body, Heartbeat)
        }
        try:
            settled = await committing
        except BaseException as error:
            for span in begun.values():
                span.ended(error=error)
            raise
        for place, span in begun.items():
            verdict = settled.verdicts[place]
            span.ended(verdict=None if verdict is None else verdict.kind)
        return settled

    def close(self) -> None:
        """As `PartitionSink.close`: it counts as unread."""
        super().close()
        self._topic.horizon.drop(self._partition)

    def read_up_to(self, moment: Moment) -> None:
        """As `PartitionSink.read_up_to`: deadlines before that moment have passed."""
        if not self._closed:
            self._topic.horizon.read_to_end(self._partition, moment, self._fence.epoch)

    async def _commit(
        self,
        first: int,
        next_: int,
        completions: Sequence[Completion] = (),
        records: Sequence[ConsumedRecord] = (),
        letters: Sequence[DeadLetter] = (),
    ) -> SettledAll:
        """Commit completions, each with its record, and dead letters; then move from `first` to `next_`."""
        topic, partition = self._topic, self._partition
        settled = None
        while settled is None:
            validated = await topic.validator.validate(completions)
            originals: dict[int, DeadLetter] = {}
            dead_tasks: dict[int, DeadLetter] = {}
            offsets: list[int] = []
            for place, completion in enumerate(validated):
                offsets.append(records[place].offset)
                keeps_late = completion.awakeable_id in topic.validator.keeping_late
                if completion.checked is not None and not keeps_late:
                    continue  # it has a row, and its value fits
                code = LATE if keeps_late else None
                if isinstance(completion.body, DeadTask):
                    code = UNUSABLE_TASK
                    dead_tasks[place] = topic.dead_task(completion, completion.body)
                elif completion.refusal is not None or not topic.validator.knows(completion.awakeable_id):
                    code = INVALID
                if code is not None:
                    reason = completion.refusal or ""
                    originals[place] = topic.dead_letter(
                        partition, records[place], code, reason, completion.awakeable_id
                    )
            settled = await topic.settlement.commit(
                Settle(
                    completions=tuple(validated),
                    fence=replace(self._fence, first=first, next=next_),
                    offsets=tuple(offsets),
                    originals=originals,
                    dead_letters=tuple(letters),
                    dead_tasks=dead_tasks,
                    relay_to=topic.dead_letter_topic,
                    folding=self._folding(),
                )
            )
        if settled.dead_letters or settled.folded:
            self._report_dead_letters(settled.dead_letters, settled.folded)
        return settled

    def _count_verdicts(self, completions: Sequence[Completion], settled: SettledAll) -> None:
        """Count the verdicts; log it, once a minute, if there are more than are published."""
        counts: dict[VerdictKind | None, int] = {}
        for place, verdict in enumerate(settled.verdicts):
            if place in settled.again:
                continue
            if verdict is not None:
                counts[verdict.kind] = counts.get(verdict.kind, 0) + 1
            elif not isinstance(completions[place].body, DeadTask):
                counts[None] = counts.get(None, 0) + 1
        topic = self._topic
        topic.metrics.settled("kafka", counts)
        minute, most = topic.minutes[self._partition], topic.folding.verdicts
        before = minute.verdicts
        minute.verdicts += sum(counts.values()) - counts.get("accepted", 0) - counts.get(None, 0)
        if settled.unpublished:
            topic.metrics.verdicts_unpublished.inc(settled.unpublished)
            if before <= most < minute.verdicts:
                log.warning(
                    events.VERDICTS_UNPUBLISHED,
                    topic=topic.name,
                    partition=self._partition,
                    first=settled.unpublished,
                )


def _is_ours(task: DeadTask, completion: Completion, topic: str) -> bool:
    """Whether the reported record is a task of this awakeable, whose answers go to the report's topic.

    An operator can resend it to its task topic, and a report must not make the service send other records
    there.
    """
    address = find_address(task.value, task.headers) if task.whole else None
    wanted = Address(awakeable_id=completion.awakeable_id, reply_to=topic)
    return not task.whole or address == wanted


def _log_fields(letter: DeadLetter) -> dict[str, str | int]:
    """What the log says about a dead letter; never its value."""
    awakeable = {} if letter.awakeable_id is None else {"awakeable_id": letter.awakeable_id}
    return {**awakeable, "offset": letter.offset, "code": letter.code, "reason": shortened(letter.reason)}
