"""Publishes the service's effects: encodes them as records, and limits each wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from awakeables.core.effects import Effect
from awakeables.errors import BrokerRefused, BrokerUnavailable, PublishRefused
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.producer import Producer, ProducerRecord
from awakeables.kafka.topics import no_topic
from awakeables.ports import PublishReport
from awakeables.wire.tasks import encode_effect

MOST_LATE = 10_000
"""How many outcomes are kept that came after the time-out, for the next call."""


@dataclass(slots=True, eq=False)
class _Call:
    """One call of `publish`, and how many of its effects are not reported yet."""

    report: PublishReport
    left: int
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, effects: Sequence[Effect], outcome: Exception | None) -> None:
        self.report(effects, outcome)
        self.left -= len(effects)
        if not self.left:
            self.done.set()


@dataclass(slots=True, eq=False, kw_only=True)
class _EffectRecord(ProducerRecord):
    """The record of an effect, until its outcome was reported.

    Attributes:
        effect: As it was last handed over.
        call: The call that waits for it; None after a time-out, until the effect is published again.
    """

    effect: Effect
    call: _Call | None


class KafkaPublisher:
    """`ports.Publisher` on Kafka.

    The producer keeps a record for as long as the broker is down; a call waits for `timeout`. The next
    call with the same effect then waits for the record in flight, and does not send a second one; if the
    outcome has come meanwhile, that is its outcome.
    """

    def __init__(
        self, producer: Producer, connection: KafkaConnection, *, timeout: timedelta = timedelta(seconds=10)
    ) -> None:
        """Publish through a producer, which the caller runs."""
        self._producer = producer
        self._connection = connection
        self._timeout = timeout
        self._held: dict[str, _EffectRecord] = {}
        # Others may publish an effect by then, so that no call ever asks for its outcome.
        self._late: OrderedDict[str, PublishRefused | None] = OrderedDict()
        self._on_outcome = self._settle

    async def publish(self, effects: Sequence[Effect], report: PublishReport) -> None:
        """As `ports.Publisher.publish`."""
        if not effects:
            return
        call = _Call(report, len(effects))
        fresh: list[_EffectRecord] = []
        for effect in effects:
            if effect.event_id in self._late:
                call.settle([effect], self._late.pop(effect.event_id))
                continue
            held = self._held.get(effect.event_id)
            if held is not None:
                held.effect, held.call = effect, call
                continue
            try:
                value, headers = encode_effect(effect)
            except Exception as error:
                # One that can't be encoded must not hold up the others.
                call.settle([effect], error)
                continue
            # A task that the handler gave no key has its awakeable's ID, which is random: any partition
            # will do.
            has_default_key = effect.task is not None and effect.key == effect.task.awakeable_id.encode()
            record = self._held[effect.event_id] = _EffectRecord(
                topic=effect.topic,
                key=effect.key,
                value=value,
                headers=headers,
                report=self._on_outcome,
                partitioned=not has_default_key,
                effect=effect,
                call=call,
            )
            fresh.append(record)
        self._producer.send(fresh)
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                await call.done.wait()
        except TimeoutError:
            await self._report_late(self._give_up(call), call)
        finally:
            self._give_up(call)

    def _settle(self, records: Sequence[ProducerRecord], outcome: Exception | None) -> None:
        if isinstance(outcome, BrokerRefused):
            outcome = PublishRefused(str(outcome))
        settled: dict[_Call, list[Effect]] = {}
        for record in records:
            assert isinstance(record, _EffectRecord)
            event_id = record.effect.event_id
            del self._held[event_id]
            if record.call is not None:
                settled.setdefault(record.call, []).append(record.effect)
            elif outcome is None or isinstance(outcome, PublishRefused):
                self._late[event_id] = outcome
                if len(self._late) > MOST_LATE:
                    self._late.popitem(last=False)
        for call, effects in settled.items():
            call.settle(effects, outcome)

    def _give_up(self, call: _Call) -> list[Effect]:
        """Give up a call's effects that are not reported yet, and return them."""
        if not call.left:
            return []
        late = [record for record in self._held.values() if record.call is call]
        for record in late:
            record.call = None
        return [record.effect for record in late]

    async def _report_late(self, effects: Iterable[Effect], call: _Call) -> None:
        by_topic: dict[str, list[Effect]] = {}
        for effect in effects:
            by_topic.setdefault(effect.topic, []).append(effect)
        for topic, late in by_topic.items():
            # A topic that was deleted meanwhile looks like a broker that is down.
            missing = await self._producer.is_missing(topic)
            call.settle(late, no_topic(topic, self._connection) if missing else self._no_answer())

    def _no_answer(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"no acknowledgement from {self._connection.bootstrap} within {self._timeout}"
        )
