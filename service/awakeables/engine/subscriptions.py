"""Subscriptions: each record of a topic begins an invocation, in the transaction that moves the offset."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Final

import structlog
from msgspec.structs import replace

from awakeables.core.commands import Begin, BeginBatch, PlacePartitions, Queue
from awakeables.core.deadletters import FAILED, INVALID, UNSTORABLE, DeadLetter
from awakeables.core.journal import Input, SourceRecord
from awakeables.core.jsontext import json_fault
from awakeables.core.outcomes import Rejection
from awakeables.core.replies import BatchBegun, Fenced, PartitionsTaken
from awakeables.core.texts import described, excerpt
from awakeables.engine.readtopic import (
    ConsumedRecord,
    ProblemNames,
    Reading,
    ReadMetrics,
    ReadTopic,
    letter_source,
)
from awakeables.engine.sinks import PartitionSink
from awakeables.errors import InvalidInput, OwnershipLost
from awakeables.handlers.invoking import (
    MAX_INPUT_BYTES,
    beginning,
    key_problem,
    run_key,
    workflow_of,
    written_input,
)
from awakeables.handlers.service import App, Handler
from awakeables.handlers.subscription import (
    KafkaRecord,
    Start,
    Subscription,
    record_of,
    undeclared,
    value_of,
)
from awakeables.ports import TopicOffsets, Where
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

PAUSED: Final = "it is paused"

COUNT_S: Final = 5.0
"""How old the count of open invocations may be; other instances begin and end some meanwhile."""

FULL_COUNT_S: Final = 0.4
"""The same while there is no room."""

ROOM_PARTS: Final = 4
"""Reading goes on at once when a fourth of `max_open` is free, and otherwise after a pause."""

TURN_BYTES: Final = 256 * 1024
"""After records of this size the loop gets a turn; to check them takes some milliseconds."""

NEVER_S: Final = float("-inf")


class Unusable(Exception):
    """A record that no invocation can be begun for; the message says why.

    Attributes:
        code: That of its dead letter.
    """

    def __init__(self, message: str, code: str = INVALID) -> None:
        super().__init__(message)
        self.code = code


def where_of(start: Start) -> Where:
    """A place in a topic, as `TopicOffsets` takes it."""
    return round(start.timestamp() * 1000) if isinstance(start, datetime) else start


class SubscribedTopic(ReadTopic):
    """A topic as one subscription reads it.

    Attributes:
        handler: What is called with each record.
        settings: How.
        attached: Counts the records for keys of workflows that had a run.
    """

    def __init__(
        self,
        reading: Reading,
        handler: Handler,
        settings: Subscription,
        *,
        offsets: TopicOffsets | None,
        build: str,
        on_begun: Callable[[], None],
    ) -> None:
        """Begin with no partition read.

        Args:
            reading: What the reading of every topic needs.
            handler: What is called with each record.
            settings: How.
            offsets: Finds out where a topic begins, and ends.
            build: The version of the code.
            on_begun: Called when there are new invocations to run.
        """
        name = settings.name or ""
        metrics = reading.metrics
        super().__init__(
            reading,
            name=settings.topic,
            subscription=name,
            problems=ProblemNames(
                broker=f"subscription {name}: broker",
                topic=f"subscription {name}: topic",
                group=f"subscription {name}: consumer group",
                partition=f"subscription {name}: partition",
            ),
            shown=ReadMetrics(
                lag=lambda partition: metrics.subscription_lag.labels(name, partition),
                behind_s=lambda partition: metrics.subscription_behind_s.labels(name, partition),
                transaction_s=lambda partition: metrics.subscription_transaction_s.labels(name, partition),
                expired=metrics.subscription_expired.labels(name),
            ),
        )
        self.handler = handler
        self.settings = settings
        self.build = build
        self.on_begun = on_begun
        self._offsets = offsets
        self._records = metrics.subscription_records.labels(name)
        self.attached = metrics.subscription_attached.labels(name)
        self._waiting = metrics.subscription_waiting
        self._open = settings.max_open  # until they are counted
        self._counted_s = NEVER_S
        self._unknown = 0  # batches of which it is not known whether they have begun theirs
        self._paused = False
        self._looked_s = NEVER_S
        self._begun = 0
        self._in_flight = 0
        self._waiters: set[Callable[[], None]] = set()

    def sink(self, partition: int) -> SubscriptionSink:
        """As `ReadTopic.sink`."""
        return SubscriptionSink(self, partition)

    def how_to_begin_again(self, partition: int) -> str:
        """As `ReadTopic.how_to_begin_again`."""
        seek = f"`awakeables subscriptions seek {self.subscription} --to earliest --partition {partition}`"
        return f"{seek}, between `pause` and `resume`,"

    async def prepare(self, partitions: Collection[int]) -> None:
        """As `ReadTopic.prepare`: where it begins is found out the first time, and kept."""
        if await self.positions():
            return
        assert self._offsets is not None, "it was not said how to find offsets"
        offsets = await self._offsets.offsets_at(self.name, partitions, where_of(self.settings.start))
        command = PlacePartitions(
            subscription=self.subscription,
            topic=self.name,
            offsets=tuple(sorted(offsets.items())),
            topic_id=self.topic_id,
        )
        await self.committer.commit(command, PartitionsTaken)

    async def is_paused(self, *, older_than_s: float = 0.0) -> bool:
        """Whether an operator has paused it; what was read lately need not be read again."""
        now_s = self.clock.monotonic()
        if now_s - self._looked_s >= older_than_s:
            self._paused = any(each.paused_ms is not None for each in await self.positions())
            self._looked_s = now_s
        return self._paused

    async def count_open(self, *, older_than_s: float) -> None:
        """Count its open invocations again, if they were not counted lately: others begin and end some."""
        now_s = self.clock.monotonic()
        if now_s - self._counted_s < older_than_s:
            return
        begun, unknown = self._begun, self._unknown
        counted = await self._store.count_open(self.subscription, self.settings.max_open)
        if unknown == self._unknown:
            self._counted_s, self._open = now_s, counted + self._begun - begun

    @property
    def has_room(self) -> bool:
        """Whether another invocation may be begun."""
        return self.room > 0

    @property
    def room(self) -> int:
        """How many invocations may be begun, as far as is known."""
        return self.settings.max_open - self._open - self._in_flight

    def reserve(self, count: int) -> int:
        """How many invocations may be begun now, up to `count`; `answered` is next, come what may."""
        granted = max(0, min(count, self.room))
        self._in_flight += granted
        return granted

    def answered(self, reserved: int, begun: int | None) -> None:
        """So many of the invocations that were reserved exist now; None: that is not known."""
        self._in_flight -= reserved
        if begun is None:
            self._open, self._counted_s = self.settings.max_open, NEVER_S  # until they are counted
            self._unknown += 1
        elif begun:
            self._open += begun
            self._begun += begun
            self._records.inc(begun)
        if begun != 0:
            self.on_begun()

    def ended(self) -> None:
        """One of its invocations has ended in this process."""
        if self._counted_s > NEVER_S:
            self._open = max(0, self._open - 1)
        if self._waiters and self.room * ROOM_PARTS >= self.settings.max_open:
            waiters, self._waiters = self._waiters, set()
            for on_room in waiters:
                on_room()

    def call_on_room(self, on_room: Callable[[], None]) -> None:
        """Call this, once, when there is room for more than a few."""
        self._waiters.add(on_room)

    def show_waiting(self, partition: int, *, waits: bool) -> None:
        """Show whether a partition is not read, although nothing is wrong."""
        self._waiting.labels(self.subscription, str(partition)).set(waits)


class SubscriptionSink(PartitionSink):
    """Begins an invocation for each record of one partition."""

    _topic: SubscribedTopic
    _reach = PartitionSink.most

    async def open(self) -> int:
        """As `PartitionSink.open`."""
        next_ = await super().open()
        await self._look(paused_s=0.0)  # what was paused before the claim must be seen
        return next_

    async def look(self) -> None:
        """As `PartitionSink.look`."""
        await self._look(paused_s=FULL_COUNT_S)

    async def _look(self, *, paused_s: float) -> None:
        topic = self._topic
        if await topic.is_paused(older_than_s=paused_s):
            self._wait(PAUSED)
            return
        await topic.count_open(older_than_s=COUNT_S if topic.has_room else FULL_COUNT_S)
        self._wait(None if topic.has_room else self._all_open)

    @property
    def _all_open(self) -> str:
        return f"{self._topic.settings.max_open:,} of its invocations are open"

    def call_on_room(self, on_room: Callable[[], None]) -> None:
        """As `PartitionSink.call_on_room`."""
        if self.full == self._all_open:
            self._topic.call_on_room(on_room)

    def close(self) -> None:
        """As `PartitionSink.close`."""
        self._wait(None)
        super().close()

    async def take(self, records: Sequence[ConsumedRecord]) -> int:
        """As `PartitionSink.take`."""
        topic, partition = self._topic, self._partition
        await topic.count_open(older_than_s=COUNT_S)
        granted = topic.reserve(len(records))
        if not granted:
            await self.look()
            granted = 0 if self.full else topic.reserve(len(records))
        if not granted:
            return records[0].offset
        begins: list[Begin] = []
        offsets: list[int] = []
        letters: list[DeadLetter] = []
        begun, turn = None, 0
        try:
            for record in records[:granted]:
                turn += len(record.value or b"")
                if turn > TURN_BYTES:
                    turn = 0
                    await asyncio.sleep(0)
                try:
                    begins.append(self._begin(record))
                except Unusable as error:
                    kept = replace(record, value=None) if error.code == UNSTORABLE else record
                    letters.append(topic.dead_letter(partition, kept, error.code, str(error)))
                else:
                    offsets.append(record.offset)
            first, next_ = records[0].offset, records[granted - 1].offset + 1
            begun = await self._commit(first, next_, begins, offsets, letters)
        finally:
            topic.answered(granted, None if begun is None else len(begun.ids))
        if begun.full is not None:
            key, length = begun.full
            self._reach = 1  # the next may be for that key, too, and would be read again and again
            self._wait(f"{key} has {length:,} calls in its queue")
            return begun.next
        self._reach = min(2 * self._reach, PartitionSink.most)
        if topic.has_room:
            self._wait(None)
        else:
            await self.look()
        return begun.next

    async def _commit(
        self,
        first: int,
        next_: int,
        begins: Sequence[Begin] = (),
        offsets: Sequence[int] = (),
        letters: Sequence[DeadLetter] = (),
    ) -> BatchBegun:
        topic = self._topic
        command = BeginBatch(
            fence=replace(self._fence, first=first, next=next_),
            begins=tuple(begins),
            offsets=tuple(offsets),
            dead_letters=tuple(letters),
            relay_to=topic.dead_letter_topic,
            folding=self._folding(),
        )
        reply = await topic.committer.submit(command)
        if isinstance(reply, Fenced):
            raise OwnershipLost("the batch's partition has another reader, or it was stored before")
        if not isinstance(reply, BatchBegun):
            raise TypeError(f"BeginBatch got the reply {type(reply).__name__}")
        if reply.joined:
            topic.attached.inc(reply.joined)
        if reply.dead_letters or reply.folded:
            self._report_dead_letters(reply.dead_letters, reply.folded)
        return reply

    def _begin(self, record: ConsumedRecord) -> Begin:
        """The command that creates the invocation for a record.

        Raises:
            Unusable: The record does not fit the handler.
        """
        topic, handler = self._topic, self._topic.handler
        content = _input(handler, record.value)
        value, value_base64 = written_input(handler, content)
        source = SourceRecord(
            subscription=topic.subscription,
            topic=topic.name,
            partition=self._partition,
            offset=record.offset,
            at_ms=record.timestamp_ms,
            key=record.key,
            headers=record.headers,
            tombstone=record.value is None,
            written=None if content == record.value else record.value,
        )
        given = Input(
            service=handler.service,
            handler=handler.name,
            seed=topic.ids.seed(),
            at_ms=topic.clock.now_ms(),
            headers=_as_text(record.headers),
            value=value,
            value_base64=value_base64,
            record=source,
            version=handler.version,
        )
        if handler.keyed:
            given = replace(given, key=object_key(topic.settings, record_of(given, source)))
        workflow = workflow_of(handler, given.key)
        return Begin(
            id=topic.ids.new("inv"),
            service=handler.service,
            handler=handler.name,
            chunk=beginning(given, handler, workflow),
            key=given.key,
            queue=Queue(most=handler.max_queue) if handler.exclusive else None,
            build=topic.build,
            subscription=topic.subscription,
            idempotency=run_key(workflow, given.key, content),
            workflow=workflow,
            versions=handler.versions,
        )

    def _wait(self, why: str | None) -> None:
        self.most = max(1, min(self._topic.room, self._reach))  # what can't be used would be read again
        self.full = why
        self._topic.show_waiting(self._partition, waits=why is not None)


def object_key(settings: Subscription, record: KafkaRecord) -> str:
    """The key of an object that a record is for.

    Raises:
        Unusable: It has none that can be one.
    """
    found: object
    if settings.key is not None:
        try:
            found = settings.key(record)
        except BaseException as error:  # a user's function may raise anything
            raise Unusable(f"the subscription's key function raised {described(error)}") from error
    elif record.key is None:
        raise Unusable("the record has no key, and is for a handler of an object")
    else:
        try:
            found = record.key.decode()
        except UnicodeDecodeError:
            raise Unusable(f"the record's key is not UTF-8: {excerpt(record.key)}") from None
    problem = key_problem(found)
    if problem is not None:
        raise Unusable(f"the record's key can't be one of an object: {problem}")
    return str(found)


def _input(handler: Handler, value: bytes | None) -> bytes | None:
    """The input of a handler as it is journaled.

    Raises:
        Unusable: The value does not fit.
    """
    if value is not None and len(value) > MAX_INPUT_BYTES:
        raise Unusable(f"the value has {len(value):,} bytes; at most {MAX_INPUT_BYTES:,}", UNSTORABLE)
    try:
        if value is not None and handler.input.kind == "json":
            fault = json_fault(value)
            if fault is not None:
                raise Unusable(f"the value is {fault}")
            value = value.strip()
        return handler.accept(value, "value")
    except InvalidInput as error:
        raise Unusable(str(error)) from error


def _as_text(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    """The headers that are text, names in lower case; of those with one name the last."""
    text: dict[str, str] = {}
    for name, value in headers:
        try:
            text[name.lower()] = (value or b"").decode()
        except UnicodeDecodeError:
            continue
    return text


class Subscriptions:
    """All subscriptions of an app.

    Attributes:
        topics: What each reads, by its name.
    """

    def __init__(
        self,
        app: App,
        reading: Reading,
        *,
        offsets: TopicOffsets | None,
        build: str,
        on_begun: Callable[[], None],
    ) -> None:
        """Prepare the subscriptions that the app's handlers declare; the arguments are a topic's."""
        self.topics = {
            name: SubscribedTopic(
                reading, handler, handler.subscription, offsets=offsets, build=build, on_begun=on_begun
            )
            for name, handler in app.subscribed().items()
            if handler.subscription is not None
        }
        self._declared = app.subscriptions
        self._store = reading.store
        self._ids = reading.ids
        self._clock = reading.clock
        self._dead_letter_topic = reading.dead_letter_topic

    async def report_undeclared(self) -> None:
        """Log the subscriptions that the store has and the code has not, before anything is read.

        Raises:
            StoreUnavailable: The store can't be read.
        """
        found = undeclared(self._declared, await self._store.subscribed())
        counts = [len(await self._store.positions(each.topic, each.name)) for each in found]
        for each, count in zip(found, counts, strict=True):
            todo = {"todo": each.advice} if each.followers else {}
            log.warning(
                events.SUBSCRIPTION_UNDECLARED,
                subscription=each.name,
                topic=each.topic,
                partitions=count,
                **todo,
            )

    def ended(self, name: str) -> None:
        """An invocation of this subscription has ended in this process."""
        topic = self.topics.get(name)
        if topic is not None:
            topic.ended()

    def failed(self, invocation_id: str, given: Input, why: Rejection) -> tuple[DeadLetter, str] | None:
        """The dead letter of a record whose invocation has failed, and its topic; None: it gets none."""
        source = given.record
        if source is None:
            return None
        topic = self.topics.get(source.subscription)
        if topic is not None and topic.settings.on_failure == "keep":
            return None
        letter = DeadLetter(
            id=self._ids.new("dlq"),
            source=letter_source(
                source.subscription, source.topic, source.partition, source.offset, source.at_ms
            ),
            topic=source.topic,
            partition=source.partition,
            offset=source.offset,
            timestamp_ms=source.at_ms,
            code=FAILED,
            reason=f"{given.service}/{given.handler} failed, code {why.code}: {why.reason} ({invocation_id})",
            at_ms=self._clock.now_ms(),
            key=source.key,
            value=value_of(given, source),
            headers=source.headers,
        )
        return letter, self._dead_letter_topic
