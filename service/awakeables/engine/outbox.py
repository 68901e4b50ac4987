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
from awakeables.engine.committer import Committer
from awakeables.errors import BrokerUnavailable, PublishRefused, TopicMissing
from awakeables.ports import Clock, OutboxReader, Publisher
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

CLAIM_LIMIT = 500
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """How the relay behaves.

    Attributes:
        publish_timeout: A topic that is missing for this long is taken for one that never comes.
        sweep_interval: How often effects are looked for that no hand-off told of.
        max_waiting: Bound of the effects that are held in memory.
    """

    publish_timeout: timedelta = timedelta(seconds=60)
    sweep_interval: timedelta = timedelta(seconds=1)
    max_waiting: int = 10_000


class Relay:
    """One queue per stream; a stream's next effect goes out when its last one is settled."""

    def __init__(
        self,
        committer: Committer,
        reader: OutboxReader,
        publisher: Publisher,
        *,
        owner: str,
        clock: Clock,
        settings: RelaySettings,
    ) -> None:
        self._committer = committer
        self._reader = reader
        self._publisher = publisher
        self._owner = owner
        self._clock = clock
        self._settings = settings
        self._streams: dict[str, deque[Effect]] = {}
        self._known: set[str] = set()
        self._poked = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self.on_wakes: Callable[[Sequence[Wake]], None] = lambda _wakes: None

    def hand_off(self, effects: Sequence[Effect]) -> None:
        """Publish effects that were just committed, claimed by this owner."""
        for effect in effects:
            if effect.event_id not in self._known:
                self._enqueue(effect)

    def poke(self) -> None:
        """Look for effects that nobody has claimed."""
        self._poked.set()

    async def run(self) -> None:
        """Publish for ever; cancel to stop."""
        interval_s = self._settings.sweep_interval.total_seconds()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for stream in list(self._streams):
                tasks.create_task(self._publish_stream(stream))
            while True:
                await self._sweep()
                self._poked.clear()
                await _wait_for(self._poked, interval_s)

    @property
    def idle(self) -> bool:
        """Is everything out that was handed off?"""
        return not self._known and not self._poked.is_set()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until everything that was handed off is out; False: not in time."""
        waited = 0.0
        while self._known and waited < timeout_s:
            await asyncio.sleep(0.02)
            waited += 0.02
        return not self._known

    def _enqueue(self, effect: Effect) -> None:
        self._known.add(effect.event_id)
        queue = self._streams.get(effect.stream)
        if queue is not None:
            queue.append(effect)
            return
        self._streams[effect.stream] = deque([effect])
        if self._tasks is not None:
            self._tasks.create_task(self._publish_stream(effect.stream))

    async def _sweep(self) -> None:
        """Claim what is unclaimed or a dead owner's, and what a lost hand-off left behind (O3)."""
        free = self._settings.max_waiting - len(self._known)
        if free <= 0:
            return
        order = ClaimEffects(owner=self._owner, limit=min(CLAIM_LIMIT, free))
        claimed = await self._committer.commit(order, ClaimedEffects)
        self.hand_off(claimed.effects)
        if len(claimed.effects) == order.limit:
            self._poked.set()
        elif not self._known:
            self.hand_off(await self._reader.effects("unsent", CLAIM_LIMIT))

    async def _publish_stream(self, stream: str) -> None:
        queue = self._streams[stream]
        while queue:
            effect = queue[0]
            await self._publish(effect)
            queue.popleft()
            self._known.discard(effect.event_id)
        del self._streams[stream]

    async def _publish(self, effect: Effect) -> None:
        pause_s = FIRST_PAUSE_S
        began = self._clock.monotonic()
        copy = effect
        while True:
            try:
                await self._publisher.publish(copy)
            except PublishRefused as error:
                shorter = without_value(copy, str(error))
                if shorter is None:
                    await self._refused(effect, str(error))
                    return
                copy = shorter
            except BrokerUnavailable as error:
                missing = isinstance(error, TopicMissing)
                patience_s = self._settings.publish_timeout.total_seconds()
                if missing and self._clock.monotonic() - began >= patience_s:
                    await self._refused(effect, str(error))
                    return
                log.warning(
                    events.EFFECT_FAILED, event_id=effect.event_id, topic=effect.topic, error=str(error)
                )
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                self._committer.submit(Sent(event_ids=(effect.event_id,)), lazily=True)
                return

    async def _refused(self, effect: Effect, reason: str) -> None:
        log.error(events.EFFECT_REFUSED, event_id=effect.event_id, topic=effect.topic, reason=reason)
        noted = await self._committer.commit(Refused(event_id=effect.event_id, reason=reason), Noted)
        self.on_wakes(noted.wakes)


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
