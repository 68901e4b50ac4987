"""The way in for completions: decode, check at the edge, settle, wake.

Kafka's batches, HTTP's requests and handlers' own completions all come through here.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from awakeables.core.acts import with_act
from awakeables.core.awakeables import Completion, DeadTask, Verdict
from awakeables.core.commands import PartitionFence, Settle, Skip, TakePartitions
from awakeables.core.deadletters import (
    FOLDED,
    SKIPPED,
    UNREADABLE,
    UNSTORABLE,
    UNUSABLE_TASK,
    DeadLetter,
    dead_letter_of_task,
)
from awakeables.core.effects import Header
from awakeables.core.ids import Ids
from awakeables.core.replies import Fenced, PartitionsTaken, Position, SettledAll, Skipped, Unchecked, Wake
from awakeables.core.sources import Source
from awakeables.core.texts import shortened
from awakeables.engine.committer import Committer
from awakeables.engine.edge import Edge
from awakeables.engine.folding import Folder, FoldingSettings
from awakeables.engine.horizon import Horizon
from awakeables.engine.readerstate import ReaderState
from awakeables.errors import OwnershipLost, StoreRefused
from awakeables.ports import Clock
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics
from awakeables.wire.completions import Unreadable, decode_completion
from awakeables.wire.tasks import Address, find_address

log = structlog.stdlib.get_logger(__name__)

MOST_TOLD = 3
"""So many dead letters of a batch one line of the log gives reasons for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumedRecord:
    """A record as it was read from a topic."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


class Intake:
    """Settles completions, from wherever they come.

    Attributes:
        metrics: What was counted; the partitions' readers count there, too.
        readers: What the reader of each partition has last seen.
    """

    def __init__(  # noqa: PLR0913 - all of it is told apart by name
        self,
        committer: Committer,
        edge: Edge,
        horizon: Horizon,
        *,
        owner: str,
        clock: Clock,
        ids: Ids,
        dead_letter_topic: str,
        verdicts_topic: str = "",
        folding: FoldingSettings | None = None,
        metrics: Metrics | None = None,
        on_wakes: Callable[[Sequence[Wake]], None] = lambda _wakes: None,
        on_effects: Callable[[], None] = lambda: None,
    ) -> None:
        """Settle through a committer.

        Args:
            committer: Where members are committed.
            edge: Checks values.
            horizon: What deadlines are held against.
            owner: Whose partitions batches come from.
            clock: The store's clock.
            ids: Issues IDs of dead letters and effects.
            dead_letter_topic: Where copies of dead letters are relayed to.
            verdicts_topic: Where verdicts are told; empty: nowhere.
            folding: How many dead letters of a minute are kept one by one.
            metrics: Where verdicts and dead letters are counted.
            on_wakes: Called with the invocations that a settlement has woken.
            on_effects: Called when a commit has queued effects that nobody has claimed.
        """
        self.metrics = metrics or Metrics()
        self._committer = committer
        self._owner = owner
        self._edge = edge
        self._clock = clock
        self._ids = ids
        self._dead_letter_topic = dead_letter_topic
        self._verdicts_topic = verdicts_topic
        self._folder = Folder(ids, folding or FoldingSettings())
        self.readers: dict[int, ReaderState] = {}
        self._expired_to: dict[int, int] = {}
        self._skip_listeners: list[Callable[[int], None]] = []
        self.horizon = horizon
        self._on_wakes = on_wakes
        self._on_effects = on_effects

    @property
    def lag(self) -> int:
        """How many records wait to be read, of all partitions."""
        return sum(seen.lag or 0 for seen in self.readers.values())

    async def settle(self, completion: Completion) -> Verdict | None:
        """Settle one completion that does not come from Kafka; None: a heartbeat, kept.

        Raises:
            StoreRefused: The store will never take the value.
        """
        settled = await self._settle(
            lambda completions: Settle(
                completions=tuple(completions),
                held_back_to_ms=self.horizon.held_back_to_ms(),
                verdicts_to=self._verdicts_topic,
                verdict_ids=self._verdict_ids(len(completions)),
            ),
            [completion],
        )
        if not settled.again:
            kind = completion.source.kind
            self.metrics.settled("handler" if kind == "handler" else "http", settled.verdicts)
        return settled.verdicts[0]

    async def take_partitions(
        self, owner: str, topic: str, partitions: tuple[int, ...]
    ) -> tuple[Position, ...]:
        """Become the reader of these partitions; where to read each on."""
        order = TakePartitions(owner=owner, topic=topic, partitions=partitions)
        return (await self._committer.commit(order, PartitionsTaken)).positions

    async def take(self, topic: str, partition: int, epoch: int, records: Sequence[ConsumedRecord]) -> None:
        """Settle a batch of one partition, and move its offset, in one transaction (K1).

        Raises:
            OwnershipLost: The partition has another reader, or the batch was settled before.
        """
        completions: list[Completion] = []
        readable: list[ConsumedRecord] = []
        unreadable: list[DeadLetter] = []
        for record in records:
            source = Source.kafka(topic, partition, record.offset, record.timestamp_ms)
            try:
                completion = decode_completion(
                    record.value, headers=record.headers, key=record.key, source=source
                )
            except Unreadable as error:
                unreadable.append(self._letter(topic, partition, record, UNREADABLE, str(error), None))
                continue
            if isinstance(completion.body, DeadTask) and not _is_ours(completion.body, completion, topic):
                refusal = "the record that it reports is not a task of this awakeable, answered to this topic"
                completion = replace(completion, body=None, refusal=refusal)
            completions.append(completion)
            readable.append(record)
        fence = PartitionFence(
            topic=topic,
            partition=partition,
            epoch=epoch,
            first=records[0].offset,
            next=records[-1].offset + 1,
            owner=self._owner,
        )
        settled = await self._settle(
            lambda checked: Settle(
                completions=tuple(checked),
                fence=fence,
                offsets=tuple(record.offset for record in readable),
                held_back_to_ms=self.horizon.held_back_to_ms(),
                originals=self._originals(topic, partition, readable, checked),
                dead_letters=tuple(unreadable),
                dead_tasks=self._dead_tasks(checked),
                relay_to=self._dead_letter_topic,
                folding=self._folder.folding(topic, partition, self._clock.now_ms()),
                verdicts_to=self._verdicts_topic,
                verdict_ids=self._verdict_ids(len(checked)),
            ),
            completions,
        )
        self.metrics.settled(
            "kafka",
            (
                verdict
                for place, verdict in enumerate(settled.verdicts)
                if place not in settled.again
                and (verdict is not None or not isinstance(completions[place].body, DeadTask))
            ),
        )
        self._buried(topic, partition, settled)
        self._told(topic, partition, settled)

    async def bury(self, topic: str, partition: int, epoch: int, record: ConsumedRecord, reason: str) -> None:
        """Make a dead letter of a record that the store refuses, and move the offset past it (K2).

        Its value is left out if it is what the store refuses; the topic still has it.

        Raises:
            OwnershipLost: The partition has another reader, or the record was settled before.
            StoreRefused: The store does not even take the dead letter without its value.
        """
        letter = self._letter(topic, partition, record, UNSTORABLE, reason, None)
        fence = PartitionFence(
            topic=topic,
            partition=partition,
            epoch=epoch,
            first=record.offset,
            next=record.offset + 1,
            owner=self._owner,
        )
        for kept in (letter, replace(letter, key=None, value=None, headers=())):
            try:
                settled = await self._settle(
                    lambda _, kept=kept: Settle(  # type: ignore[misc]
                        completions=(),
                        fence=fence,
                        dead_letters=(kept,),
                        relay_to=self._dead_letter_topic,
                        folding=self._folder.folding(topic, partition, self._clock.now_ms()),
                    ),
                    (),
                )
            except StoreRefused as error:
                refusal = error
                continue
            self._buried(topic, partition, settled)
            return
        raise refusal

    async def leave_out(
        self, topic: str, partition: int, epoch: int, first: int, next_: int, reason: str
    ) -> None:
        """Make one dead letter of a batch that is not opened, and move the offset past it (K2).

        Raises:
            OwnershipLost: The partition has another reader, or the batch was settled before.
        """
        lost = ConsumedRecord(offset=first, timestamp_ms=self._clock.now_ms(), key=None, value=None)
        letter = self._letter(topic, partition, lost, "invalid", reason, None)
        order = Settle(
            completions=(),
            fence=PartitionFence(
                topic=topic, partition=partition, epoch=epoch, first=first, next=next_, owner=self._owner
            ),
            dead_letters=(replace(letter, last_offset=next_ - 1, count=next_ - first),),
            relay_to=self._dead_letter_topic,
            folding=self._folder.folding(topic, partition, self._clock.now_ms()),
        )
        self._buried(topic, partition, await self._settle(lambda _: order, ()))

    def _buried(self, topic: str, partition: int, settled: SettledAll) -> None:
        """Count and log the dead letters of a batch: each record by its code, also those that were folded."""
        letters = [letter for letter in settled.dead_letters if letter.code != FOLDED]
        counts = Counter(settled.folded)
        for letter in letters:
            counts[letter.code] += letter.count
        if not counts:
            return
        for code, count in counts.items():
            self.metrics.buried(code, count)
        self._folder.kept(topic, partition, letters)
        told = [_facts(letter) for letter in settled.dead_letters[:MOST_TOLD]]
        # Of a flood there is a batch each few milliseconds; that it has begun was said.
        say = log.warning if settled.dead_letters else log.debug
        say(
            events.DEAD_LETTERS,
            topic=topic,
            partition=partition,
            count=counts.total(),
            folded=sum(settled.folded.values()),
            first=told,
        )
        self._on_effects()

    def _told(self, topic: str, partition: int, settled: SettledAll) -> None:
        """Count the verdicts that are not published, and say so once a minute."""
        self.metrics.verdicts_unpublished.inc(settled.unpublished)
        others = sum(
            verdict is not None and verdict.kind != "accepted" and place not in settled.again
            for place, verdict in enumerate(settled.verdicts)
        )
        if self._folder.told(topic, partition, others) and settled.unpublished:
            log.warning(
                events.VERDICTS_UNPUBLISHED, topic=topic, partition=partition, first=settled.unpublished
            )

    async def expire(self, topic: str, partition: int, epoch: int, first: int, next_: int) -> None:
        """Note that records were deleted before they were read: the partition is read on behind them.

        Raises:
            OwnershipLost: The partition has another reader, or was moved.
        """
        news = max(0, next_ - max(first, self._expired_to.get(partition, 0)))
        self._expired_to[partition] = next_
        if news:
            self.metrics.records_expired.inc(news)
            log.error(
                events.RECORDS_EXPIRED,
                topic=topic,
                partition=partition,
                first=next_ - news,
                next=next_,
                count=news,
            )
        fence = PartitionFence(
            topic=topic, partition=partition, epoch=epoch, first=first, next=next_, owner=self._owner
        )
        await self._settle(lambda _: Settle(completions=(), fence=fence), ())

    async def skip(
        self,
        topic: str,
        partition: int,
        before: int,
        next_: int,
        *,
        by: str | None = None,
        recreated: bool = False,
    ) -> bool:
        """Read a partition on from `next_` rather than `before`; a dead letter tells of it.

        Args:
            topic: The topic.
            partition: Its partition.
            before: Where it stands.
            next_: Where it is to stand.
            by: Who asks for it.
            recreated: The topic was deleted and created again: nothing of it has been read.

        Returns:
            Was it done? Not if the partition has been read on meanwhile.
        """
        lost = ConsumedRecord(offset=before, timestamp_ms=self._clock.now_ms(), key=None, value=None)
        reason = f"an operator has moved the partition from offset {before} to {next_}"
        letter = self._letter(topic, partition, lost, SKIPPED, reason, None)
        order = Skip(
            topic=topic,
            partition=partition,
            before=before,
            next=next_,
            dead_letter=replace(letter, acts=with_act((), "skip", by, letter.at_ms)),
            relay_to=self._dead_letter_topic,
            recreated=recreated,
        )
        done = (await self._committer.commit(order, Skipped)).done
        if done:
            log.warning(events.SKIPPED, topic=topic, partition=partition, before=before, next=next_)
            known = self.readers.get(partition, ReaderState())
            self.readers[partition] = dataclasses.replace(known, stuck=None, lag=None)
            self.metrics.buried("skipped")
            self._on_effects()
            for moved in self._skip_listeners:
                moved(partition)
        return done

    @contextmanager
    def skips(self, moved: Callable[[int], None]) -> Iterator[None]:
        """Within the block, `moved` is called with each partition that is to be read on from elsewhere."""
        self._skip_listeners.append(moved)
        try:
            yield
        finally:
            self._skip_listeners.remove(moved)

    def _verdict_ids(self, count: int) -> tuple[str, ...]:
        return tuple(self._ids.new("evt") for _ in range(count)) if self._verdicts_topic else ()

    async def _settle(
        self, order: Callable[[Sequence[Completion]], Settle], completions: Sequence[Completion]
    ) -> SettledAll:
        while True:
            checked = await self._edge.check(completions)
            answer = await self._committer.submit(order(checked))
            match answer:
                case SettledAll():
                    self._on_wakes(answer.wakes)
                    if self._verdicts_topic:
                        self._on_effects()
                    return answer
                case Fenced():
                    raise OwnershipLost("the batch's partition has another reader, or it was settled before")
                case Unchecked():
                    # The row appeared between the look-up and the commit: look again.
                    continue
                case _:
                    raise TypeError(f"Settle was answered with {type(answer).__name__}")

    def _originals(
        self, topic: str, partition: int, records: Sequence[ConsumedRecord], checked: Sequence[Completion]
    ) -> dict[int, DeadLetter]:
        """The records to keep whose completions will be found unknown or invalid, and reports of tasks.

        The edge knows the row of every other one, and that its value fits.
        """
        reports = {place for place, each in enumerate(checked) if isinstance(each.body, DeadTask)}
        return {
            place: self._letter(
                topic,
                partition,
                records[place],
                UNUSABLE_TASK if place in reports else "invalid",
                completion.refusal or "",
                completion.awakeable_id,
            )
            for place, completion in enumerate(checked)
            if place in reports
            or completion.refusal is not None
            or not self._edge.knows(completion.awakeable_id)
        }

    def _dead_tasks(self, completions: Sequence[Completion]) -> dict[int, DeadLetter]:
        """The dead letters to file for what these report."""
        return {
            place: dead_letter_of_task(
                completion.body,
                letter_id=self._ids.new("dlq"),
                awakeable_id=completion.awakeable_id,
                worker=shortened(completion.worker or "unnamed"),
                now_ms=self._clock.now_ms(),
            )
            for place, completion in enumerate(completions)
            if isinstance(completion.body, DeadTask)
        }

    def _letter(
        self,
        topic: str,
        partition: int,
        record: ConsumedRecord,
        code: str,
        reason: str,
        awakeable_id: str | None,
    ) -> DeadLetter:
        now_ms = self._clock.now_ms()
        return DeadLetter(
            id=self._ids.new("dlq"),
            # The timestamp tells it from a record at the same offset of a topic that was recreated.
            source=f"{topic}:{partition}:{record.offset}@{record.timestamp_ms}",
            topic=topic,
            partition=partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            code=code,
            reason=reason,
            at_ms=now_ms,
            key=record.key,
            value=record.value,
            headers=record.headers,
            awakeable_id=awakeable_id,
        )


def _is_ours(task: DeadTask, completion: Completion, topic: str) -> bool:
    """Is the record that is reported a task of this awakeable, answered to where the report came from?

    It may be sent to the task topic again: nobody may have another task sent there in our name.
    """
    address = find_address(task.value, task.headers) if task.whole else None
    wanted = Address(awakeable_id=completion.awakeable_id, reply_to=topic)
    return not task.whole or address == wanted


def _facts(letter: DeadLetter) -> dict[str, str | int]:
    """What the log says of a dead letter: never its value."""
    awakeable = {} if letter.awakeable_id is None else {"awakeable_id": letter.awakeable_id}
    return {**awakeable, "offset": letter.offset, "code": letter.code, "reason": shortened(letter.reason)}
