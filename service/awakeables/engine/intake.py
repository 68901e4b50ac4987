"""The way in for completions: decode, check at the edge, settle, wake.

Kafka's batches, HTTP's requests and handlers' own completions all come through here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from awakeables.core.awakeables import Completion, Verdict
from awakeables.core.ids import Ids
from awakeables.core.orders import (
    DeadLetter,
    Fenced,
    Header,
    PartitionFence,
    Position,
    Settle,
    SettledAll,
    Taken,
    TakePartitions,
    Unchecked,
    Wake,
)
from awakeables.engine.committer import Committer
from awakeables.engine.edge import Edge
from awakeables.engine.horizon import Horizon
from awakeables.errors import OwnershipLost, StoreRefused
from awakeables.ports import Clock
from awakeables.telemetry import events
from awakeables.wire.completions import Unreadable, decode_completion

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record as it was read from a topic."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


class Intake:
    """Settles completions, from wherever they come."""

    def __init__(
        self,
        committer: Committer,
        edge: Edge,
        horizon: Horizon,
        *,
        clock: Clock,
        ids: Ids,
        dead_letter_topic: str,
    ) -> None:
        self._committer = committer
        self._edge = edge
        self._clock = clock
        self._ids = ids
        self._dead_letter_topic = dead_letter_topic
        self.horizon = horizon
        self.on_wakes: Callable[[Sequence[Wake]], None] = lambda _wakes: None
        self.on_dead_letters: Callable[[], None] = lambda: None

    async def settle(self, completion: Completion) -> Verdict | None:
        """Settle one completion that does not come from Kafka; None: a heartbeat, kept.

        Raises:
            StoreRefused: The store will never take the value.
        """
        settled = await self._settle(
            lambda completions: Settle(
                completions=tuple(completions), held_back_to_ms=self.horizon.held_back_to_ms()
            ),
            [completion],
        )
        return settled.verdicts[0]

    async def take_partitions(
        self, owner: str, topic: str, partitions: tuple[int, ...]
    ) -> tuple[Position, ...]:
        """Become the reader of these partitions; where to read each on."""
        order = TakePartitions(owner=owner, topic=topic, partitions=partitions)
        return (await self._committer.commit(order, Taken)).positions

    async def take(self, topic: str, partition: int, epoch: int, records: Sequence[Record]) -> None:
        """Settle a batch of one partition, and move its offset, in one transaction (K1).

        Raises:
            OwnershipLost: The partition has another reader, or the batch was settled before.
        """
        completions: list[Completion] = []
        readable: list[Record] = []
        unreadable: list[DeadLetter] = []
        for record in records:
            source = f"kafka:{topic}:{partition}:{record.offset}"
            try:
                completion = decode_completion(record.value, source=source)
            except Unreadable as error:
                unreadable.append(self._letter(topic, partition, record, "invalid", str(error), None))
                continue
            completions.append(completion)
            readable.append(record)
        fence = PartitionFence(
            topic=topic,
            partition=partition,
            epoch=epoch,
            first=records[0].offset,
            next=records[-1].offset + 1,
        )
        settled = await self._settle(
            lambda checked: Settle(
                completions=tuple(checked),
                fence=fence,
                held_back_to_ms=self.horizon.held_back_to_ms(),
                originals=self._originals(topic, partition, readable, checked),
                dead_letters=tuple(unreadable),
                relay_to=self._dead_letter_topic,
            ),
            completions,
        )
        if settled.dead_letters:
            log.warning(events.DEAD_LETTERS, topic=topic, partition=partition, count=settled.dead_letters)
            self.on_dead_letters()

    async def bury(self, topic: str, partition: int, epoch: int, record: Record, reason: str) -> None:
        """Make a dead letter of a record that the store refuses, and move the offset past it (K2).

        Its value is left out if it is what the store refuses; the topic still has it.

        Raises:
            OwnershipLost: The partition has another reader, or the record was settled before.
            StoreRefused: The store does not even take the dead letter without its value.
        """
        letter = self._letter(topic, partition, record, "unstorable", reason, None)
        fence = PartitionFence(
            topic=topic, partition=partition, epoch=epoch, first=record.offset, next=record.offset + 1
        )
        for kept in (letter, replace(letter, key=None, value=None, headers=())):
            try:
                await self._settle(
                    lambda _, kept=kept: Settle(  # type: ignore[misc]
                        completions=(), fence=fence, dead_letters=(kept,), relay_to=self._dead_letter_topic
                    ),
                    (),
                )
            except StoreRefused as error:
                refusal = error
                continue
            log.warning(events.DEAD_LETTERS, topic=topic, partition=partition, count=1)
            self.on_dead_letters()
            return
        raise refusal

    async def _settle(
        self, order: Callable[[Sequence[Completion]], Settle], completions: Sequence[Completion]
    ) -> SettledAll:
        while True:
            checked = await self._edge.check(completions)
            answer = await self._committer.submit(order(checked))
            match answer:
                case SettledAll():
                    self.on_wakes(answer.wakes)
                    return answer
                case Fenced():
                    raise OwnershipLost("the batch's partition has another reader, or it was settled before")
                case Unchecked():
                    # The row appeared between the look-up and the commit: look again.
                    continue
                case _:
                    raise TypeError(f"Settle was answered with {type(answer).__name__}")

    def _originals(
        self, topic: str, partition: int, records: Sequence[Record], checked: Sequence[Completion]
    ) -> dict[int, DeadLetter]:
        """The records to keep whose completions will be found unknown or invalid.

        The edge knows the row of every other one, and that its value fits.
        """
        return {
            place: self._letter(
                topic, partition, records[place], "invalid", completion.refusal or "", completion.awakeable_id
            )
            for place, completion in enumerate(checked)
            if completion.refusal is not None or not self._edge.knows(completion.awakeable_id)
        }

    def _letter(
        self, topic: str, partition: int, record: Record, code: str, reason: str, awakeable_id: str | None
    ) -> DeadLetter:
        now_ms = self._clock.now_ms()
        return DeadLetter(
            id=self._ids.new("dlq"),
            source=f"{topic}:{partition}:{record.offset}",
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
