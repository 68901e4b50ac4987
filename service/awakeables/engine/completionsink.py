"""Settles the records of one partition of the completions topic.

A record that is not a completion becomes a dead letter. A batch is one command: its completions, dead
letters and offset are committed together (K1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from msgspec.structs import replace

from awakeables.core.awakeables import Completion, DeadTask, VerdictKind
from awakeables.core.commands import PartitionFence, Settle
from awakeables.core.deadletters import FOLDED, UNREADABLE, UNSTORABLE, UNUSABLE_TASK, DeadLetter
from awakeables.core.replies import SettledAll
from awakeables.core.sources import Source
from awakeables.core.texts import shortened
from awakeables.engine.completionstopic import CompletionsTopic
from awakeables.engine.horizon import Moment
from awakeables.engine.readerstate import ReaderState
from awakeables.engine.recordsink import ConsumedRecord
from awakeables.errors import StoreRefused
from awakeables.telemetry import events
from awakeables.wire.completions import Unreadable, decode_completion
from awakeables.wire.tasks import Address, find_address

log = structlog.stdlib.get_logger(__name__)

MOST_LOGGED = 3
"""How many dead letters of a batch are listed in its line of the log."""


@dataclass(slots=True)
class _DecodedBatch:
    """The completions of a batch, each with its record, and the dead letters of its other records."""

    fence: PartitionFence
    completions: list[Completion] = field(default_factory=list)
    records: list[ConsumedRecord] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)


class CompletionSink:
    """The `RecordSink` of one partition of the completions topic.

    `open` claims the partition with an epoch. Every write is fenced by it: once another reader has
    claimed the partition, it fails with `OwnershipLost`.
    """

    def __init__(self, topic: CompletionsTopic, partition: int) -> None:
        self._topic = topic
        self._partition = partition
        self._epoch = 0
        metrics, label = topic.metrics, str(partition)
        self._lag = metrics.consumer_lag.labels(label)
        self._behind_s = metrics.consumer_behind_s.labels(label)
        self._transaction_s = metrics.consumer_transaction_s.labels(label)

    async def open(self) -> int:
        """As `RecordSink.open`."""
        position = await self._topic.claim(self._partition)
        self._epoch = position.epoch
        return position.next

    async def take(self, records: Sequence[ConsumedRecord]) -> None:
        """As `RecordSink.take`: settle completions, and make dead letters of other records."""
        batch = self._decode(records)
        settled = await self._commit(batch)
        self._count_verdicts(batch, settled)
        self._report_dead_letters(settled)

    async def reject(self, record: ConsumedRecord, reason: str) -> None:
        """As `RecordSink.reject` (K2).

        If the store also refuses the dead letter, it is kept without key, value and headers, which the
        topic still has.
        """
        fence = self._fence(record.offset, record.offset + 1)
        letter = self._topic.dead_letter(self._partition, record, UNSTORABLE, reason)
        try:
            settled = await self._commit(_DecodedBatch(fence, dead_letters=[letter]))
        except StoreRefused:
            bare = replace(letter, key=None, value=None, headers=())
            settled = await self._commit(_DecodedBatch(fence, dead_letters=[bare]))
        self._report_dead_letters(settled)

    async def leave_out(self, first: int, next_: int, reason: str) -> None:
        """As `RecordSink.leave_out` (K2)."""
        lost = ConsumedRecord(offset=first, timestamp_ms=self._topic.clock.now_ms(), key=None, value=None)
        letter = self._topic.dead_letter(self._partition, lost, "invalid", reason)
        letter = replace(letter, last_offset=next_ - 1, count=next_ - first)
        self._report_dead_letters(
            await self._commit(_DecodedBatch(self._fence(first, next_), dead_letters=[letter]))
        )

    async def expire(self, first: int, next_: int) -> None:
        """As `RecordSink.expire`."""
        # A call that is repeated, or the next reader's, reports only what has not been reported.
        topic = self._topic
        count = max(0, next_ - max(first, topic.expired_to.get(self._partition, 0)))
        topic.expired_to[self._partition] = next_
        if count:
            topic.metrics.records_expired.inc(count)
            log.error(
                events.RECORDS_EXPIRED,
                topic=topic.name,
                partition=self._partition,
                first=next_ - count,
                next=next_,
                count=count,
            )
        await self._commit(_DecodedBatch(self._fence(first, next_)))

    def observe(self, state: ReaderState) -> None:
        """As `RecordSink.observe`."""
        self._topic.readers[self._partition] = state
        self._lag.set(state.lag or 0)
        self._behind_s.set(state.behind_s)
        self._transaction_s.set(state.transaction_s)

    def read_up_to(self, moment: Moment) -> None:
        """As `RecordSink.read_up_to`."""
        self._topic.horizon.read_to_end(self._partition, moment)

    def _fence(self, first: int, next_: int) -> PartitionFence:
        return PartitionFence(
            topic=self._topic.name,
            partition=self._partition,
            epoch=self._epoch,
            first=first,
            next=next_,
            owner=self._topic.owner,
        )

    def _decode(self, records: Sequence[ConsumedRecord]) -> _DecodedBatch:
        topic, partition = self._topic, self._partition
        batch = _DecodedBatch(self._fence(records[0].offset, records[-1].offset + 1))
        for record in records:
            source = Source.kafka(topic.name, partition, record.offset, record.timestamp_ms)
            try:
                completion = decode_completion(
                    record.value, headers=record.headers, key=record.key, source=source
                )
            except Unreadable as error:
                letter = topic.dead_letter(partition, record, UNREADABLE, str(error))
                batch.dead_letters.append(letter)
                continue
            if isinstance(completion.body, DeadTask) and not _is_ours(
                completion.body, completion, topic.name
            ):
                refusal = "the record that it reports is not a task of this awakeable, answered to this topic"
                completion = replace(completion, body=None, refusal=refusal)
            batch.completions.append(completion)
            batch.records.append(record)
        return batch

    async def _commit(self, batch: _DecodedBatch) -> SettledAll:
        while True:
            validated = await self._topic.validator.validate(batch.completions)
            settled = await self._topic.settlement.commit(self._order(batch, validated))
            if settled is not None:
                return settled

    def _order(self, batch: _DecodedBatch, validated: Sequence[Completion]) -> Settle:
        topic, partition = self._topic, self._partition
        originals: dict[int, DeadLetter] = {}
        dead_tasks: dict[int, DeadLetter] = {}
        for place, completion in enumerate(validated):
            if completion.checked is not None:
                continue  # it has a row, and its value fits
            code = None
            if isinstance(completion.body, DeadTask):
                code = UNUSABLE_TASK
                dead_tasks[place] = topic.dead_task(completion, completion.body)
            elif completion.refusal is not None or not topic.validator.knows(completion.awakeable_id):
                code = "invalid"
            if code is not None:
                originals[place] = topic.dead_letter(
                    partition,
                    batch.records[place],
                    code,
                    completion.refusal or "",
                    completion.awakeable_id,
                )
        return Settle(
            completions=tuple(validated),
            fence=batch.fence,
            offsets=tuple([record.offset for record in batch.records]),
            originals=originals,
            dead_letters=tuple(batch.dead_letters),
            dead_tasks=dead_tasks,
            relay_to=topic.dead_letter_topic,
            folding=topic.folder.folding(partition, topic.clock.now_ms()),
        )

    def _count_verdicts(self, batch: _DecodedBatch, settled: SettledAll) -> None:
        """Count the verdicts; log it, once a minute, if there are more than are published."""
        counts: dict[VerdictKind | None, int] = {}
        for place, verdict in enumerate(settled.verdicts):
            if place in settled.again:
                continue
            if verdict is not None:
                counts[verdict.kind] = counts.get(verdict.kind, 0) + 1
            elif not isinstance(batch.completions[place].body, DeadTask):
                counts[None] = counts.get(None, 0) + 1
        topic = self._topic
        topic.metrics.settled("kafka", counts)
        topic.metrics.verdicts_unpublished.inc(settled.unpublished)
        others = sum(counts.values()) - counts.get("accepted", 0) - counts.get(None, 0)
        if topic.folder.count_verdicts(self._partition, others) and settled.unpublished:
            log.warning(
                events.VERDICTS_UNPUBLISHED,
                topic=topic.name,
                partition=self._partition,
                first=settled.unpublished,
            )

    def _report_dead_letters(self, settled: SettledAll) -> None:
        """Count and log the dead letters of a batch, including those that were folded."""
        letters = [letter for letter in settled.dead_letters if letter.code != FOLDED]
        counts = Counter(settled.folded)
        for letter in letters:
            counts[letter.code] += letter.count
        if not counts:
            return
        topic = self._topic
        for code, count in counts.items():
            topic.metrics.dead_letters_added(code, count)
        topic.folder.count_dead_letters(self._partition, letters)
        # In a flood there is such a batch every few milliseconds; its beginning has been logged.
        log_line = log.warning if settled.dead_letters else log.debug
        log_line(
            events.DEAD_LETTERS,
            topic=topic.name,
            partition=self._partition,
            count=counts.total(),
            folded=sum(settled.folded.values()),
            first=[_log_fields(letter) for letter in settled.dead_letters[:MOST_LOGGED]],
        )
        topic.on_effects()


def _is_ours(task: DeadTask, completion: Completion, topic: str) -> bool:
    """Is the reported record a task of this awakeable, whose answers go to the report's topic?

    An operator may have it sent to its task topic again; so a report must not be able to have other
    records sent there in the service's name.
    """
    address = find_address(task.value, task.headers) if task.whole else None
    wanted = Address(awakeable_id=completion.awakeable_id, reply_to=topic)
    return not task.whole or address == wanted


def _log_fields(letter: DeadLetter) -> dict[str, str | int]:
    """What the log says about a dead letter; never its value."""
    awakeable = {} if letter.awakeable_id is None else {"awakeable_id": letter.awakeable_id}
    return {**awakeable, "offset": letter.offset, "code": letter.code, "reason": shortened(letter.reason)}
