"""The relay: publishes effects after their commit, in order per stream, until Kafka has them (K3)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from awakeables.core.deadletters import without_value
from awakeables.core.orders import ClaimedEffects, ClaimEffects, Effect, Noted, Refused, Sent, Wake
from awakeables.core.texts import writable
from awakeables.engine.absences import Absences
from awakeables.engine.committer import Committer
from awakeables.errors import BrokerUnavailable, PublishRefused, StoreUnavailable, TopicMissing
from awakeables.ports import Clock, OutboxReader, Publisher
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics
from awakeables.telemetry.outages import Outages

log = structlog.stdlib.get_logger(__name__)

CLAIM_LIMIT = 500
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0

SWEEPS_PER_CHECK = 10
"""Every so many sweeps the store is asked for effects that a lost hand-off left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """How the relay behaves.

    Attributes:
        publish_timeout: A topic that is missing for this long is taken for one that never comes.
        sweep_interval: How often effects are looked for that no hand-off told of.
        max_waiting: Bound of the effects that are held in memory.
        max_waiting_bytes: Bound of their keys and values together; one that is larger is held alone.
    """

    publish_timeout: timedelta = timedelta(seconds=60)
    sweep_interval: timedelta = timedelta(seconds=1)
    max_waiting: int = 10_000
    max_waiting_bytes: int = 64 * 1024 * 1024


class Relay:
    """One queue per stream; a stream's next effect goes out when its last one is settled.

    Effects come by hand-off, right after their commit. At the start, when there is no room, and
    now and then in case a hand-off was lost, the relay is *behind*: then it takes no hand-off and
    reads what is unsent from the store, in order, until it knows all of it.
    """

    def __init__(
        self,
        committer: Committer,
        reader: OutboxReader,
        publisher: Publisher,
        *,
        owner: str,
        clock: Clock,
        settings: RelaySettings,
        metrics: Metrics | None = None,
    ) -> None:
        self._committer = committer
        self._reader = reader
        self._publisher = publisher
        self._owner = owner
        self._settings = settings
        self._absences = Absences(clock, patience_s=settings.publish_timeout.total_seconds())
        self._outages = Outages(clock.monotonic)
        self._refusals = Outages(clock.monotonic)
        self._published = (metrics or Metrics()).publishes
        self._problems: dict[str, str] = {}
        self._streams: dict[str, deque[Effect]] = {}
        self._known: dict[str, int] = {}
        self._held_bytes = 0
        self._behind = True
        self._gone_while_reading: set[str] | None = None
        self._sweeps = 0
        self._poked = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self.on_wakes: Callable[[Sequence[Wake]], None] = lambda _wakes: None

    def hand_off(self, effects: Sequence[Effect]) -> None:
        """Publish effects that were just committed, claimed by this owner."""
        if self._behind or not self._has_room(len(effects), sum(map(_size, effects))):
            self._behind = True
            self._poked.set()
            return
        for effect in effects:
            self._enqueue(effect)

    def poke(self) -> None:
        """Look for effects that nobody has claimed."""
        self._poked.set()

    async def run(self) -> None:
        """Publish for ever; cancel to stop."""
        interval_s = self._settings.sweep_interval.total_seconds()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while True:
                self._poked.clear()
                await self._sweep()
                await _wait_for(self._poked, interval_s)

    @property
    def idle(self) -> bool:
        """Is everything out that was handed off?"""
        return not self._known and not self._behind and not self._poked.is_set()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until what was handed off is out; False: not in time.

        It does not wait for what is held up by a topic that failed when it was last tried: that is
        a row, and goes out after the next start.
        """
        waited = 0.0
        while self._on_their_way() and waited < timeout_s:
            await asyncio.sleep(0.02)
            waited += 0.02
        return not self._on_their_way()

    def holdup(self, effect: Effect) -> str | None:
        """Why an unsent effect is not out, as far as it was tried since this process started."""
        queue = self._streams.get(effect.stream)
        first = queue[0] if queue else effect
        problem = self._problems.get(first.topic)
        if problem is None or first.event_id == effect.event_id:
            return problem
        return f"it waits behind {first.event_id}: {problem}"

    def _on_their_way(self) -> int:
        queues = self._streams.values()
        held_up = sum(len(queue) for queue in queues if queue and queue[0].topic in self._problems)
        return len(self._known) - held_up

    def _has_room(self, count: int, size: int) -> bool:
        settings = self._settings
        if len(self._known) + count > settings.max_waiting:
            return False
        return not self._known or self._held_bytes + size <= settings.max_waiting_bytes

    def _enqueue(self, effect: Effect) -> None:
        if effect.event_id in self._known or self._tasks is None:
            return
        self._known[effect.event_id] = size = _size(effect)
        self._held_bytes += size
        queue = self._streams.get(effect.stream)
        if queue is not None:
            queue.append(effect)
            return
        self._streams[effect.stream] = deque([effect])
        self._tasks.create_task(self._publish_stream(effect.stream))

    async def _sweep(self) -> None:
        """Claim what is unclaimed or a dead owner's, and what a lost hand-off left behind (O3)."""
        claimed = await self._committer.commit(
            ClaimEffects(owner=self._owner, limit=CLAIM_LIMIT), ClaimedEffects
        )
        if claimed.effects or self._sweeps % SWEEPS_PER_CHECK == 0:
            # Also what was claimed comes by reading: its answer could have been lost.
            self._behind = True
        self._sweeps += 1
        if self._behind:
            await self._catch_up()
        if len(claimed.effects) >= CLAIM_LIMIT:
            self._poked.set()

    async def _catch_up(self) -> None:
        room = self._settings.max_waiting - len(self._known)
        if room <= 0 or self._held_bytes >= self._settings.max_waiting_bytes:
            return
        self._behind = False
        limit = len(self._known) + min(room, CLAIM_LIMIT)
        gone: set[str] = set()
        self._gone_while_reading = gone
        try:
            unsent = await self._reader.effects(self._owner, limit)
        except StoreUnavailable:
            self._behind = True
            return
        finally:
            self._gone_while_reading = None
        for effect in unsent:
            if effect.event_id in gone or effect.event_id in self._known:
                continue
            if not self._has_room(1, _size(effect)):
                self._behind = True
                return
            self._enqueue(effect)
        if len(unsent) >= limit:
            self._behind = True
        if self._behind:
            # There is more, or something was committed meanwhile that was not taken in.
            self._poked.set()

    async def _publish_stream(self, stream: str) -> None:
        queue = self._streams[stream]
        while queue:
            await self._publish(queue[0])
            queue.popleft()
        del self._streams[stream]

    def _settled(self, event_id: str) -> None:
        """The row is gone or failed: a read that is under way may still show it."""
        self._held_bytes -= self._known.pop(event_id, 0)
        if self._gone_while_reading is not None:
            self._gone_while_reading.add(event_id)

    async def _publish(self, effect: Effect) -> None:
        pause_s = FIRST_PAUSE_S
        copy = effect
        while True:
            try:
                await self._try(copy)
            except PublishRefused as error:
                shorter = without_value(copy, str(error))
                if shorter is None:
                    await self._refused(effect, str(error))
                    return
                copy = shorter
            except BrokerUnavailable as error:
                if isinstance(error, TopicMissing) and self._absences.missed(effect.topic):
                    await self._refused(effect, str(error))
                    return
                self._problems[effect.topic] = str(error)
                failures = self._outages.failed(effect.topic)
                if failures is not None:
                    log.warning(events.EFFECT_FAILED, **_facts(effect), failures=failures, error=str(error))
                self._published["retried"].inc()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            except Exception as error:
                # A record that can't even be written must stop no other stream; it can be resent.
                await self._refused(effect, f"{type(error).__name__}: {error}")
                return
            else:
                self._absences.found(effect.topic)
                self._problems.pop(effect.topic, None)
                self._refusals.succeeded(effect.topic)
                failures = self._outages.succeeded(effect.topic)
                if failures is not None:
                    log.info(events.EFFECT_SENT_AGAIN, topic=effect.topic, failures=failures)
                self._published["published"].inc()
                # Known until its row is gone, so that no sweep publishes it again.
                sent = self._committer.submit(Sent(event_ids=(effect.event_id,)), lazily=True)
                sent.add_done_callback(lambda _: self._settled(effect.event_id))
                return

    async def _try(self, effect: Effect) -> None:
        outcomes: list[Exception | None] = []
        await self._publisher.publish([effect], lambda _, outcome: outcomes.append(outcome))
        if outcomes[0] is not None:
            raise outcomes[0]

    async def _refused(self, effect: Effect, reason: str) -> None:
        reason = writable(reason)
        self._problems.pop(effect.topic, None)  # one that still waits for this topic will find it out
        self._published["refused"].inc()
        # A verdict or a copy of a dead letter is nobody's in particular, and may be one of thousands.
        facts = _facts(effect)
        failures = 1 if "invocation_id" in facts else self._refusals.failed(effect.topic)
        if failures is not None:
            log.error(events.EFFECT_REFUSED, **facts, failures=failures, reason=reason)
        noted = await self._committer.commit(Refused(event_id=effect.event_id, reason=reason), Noted)
        self._settled(effect.event_id)
        self.on_wakes(noted.wakes)


def _size(effect: Effect) -> int:
    return len(effect.key or b"") + len(effect.value or b"")


def _facts(effect: Effect) -> dict[str, str]:
    """What a log line says of an effect: its stream is named after an invocation, or an awakeable."""
    facts = {"event_id": effect.event_id, "topic": effect.topic}
    for kind, name in (("inv_", "invocation_id"), ("prom_", "awakeable_id")):
        if effect.stream.startswith(kind):
            facts[name] = effect.stream
    return facts


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
