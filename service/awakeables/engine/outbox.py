"""The relay: publishes effects after their commit, in order per stream, until Kafka has them (K3)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from awakeables.core.backoff import Backoff
from awakeables.core.commands import ClaimEffects, MarkPublished, MarkRefused
from awakeables.core.deadletters import without_value
from awakeables.core.effects import Effect
from awakeables.core.replies import Acknowledged, ClaimedEffects, Reply, Wake
from awakeables.core.texts import writable
from awakeables.engine.committer import Committer
from awakeables.engine.missingtopics import MissingTopics
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
"""Every tenth sweep asks the store for effects that a lost hand-off left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """How the relay behaves.

    Attributes:
        publish_timeout: A topic that is missing for this long is taken for one that never comes.
        sweep_interval: How often the store is asked for effects that were not handed off.
        max_waiting: Bound of the effects that are held in memory.
        max_waiting_bytes: Bound of their keys and values together; one that is larger is held alone.
    """

    publish_timeout: timedelta = timedelta(seconds=60)
    sweep_interval: timedelta = timedelta(seconds=1)
    max_waiting: int = 10_000
    max_waiting_bytes: int = 64 * 1024 * 1024


class Relay:
    """Holds the effects that are to be published, in one queue per stream.

    Only the first effect of a queue is under way; the next one follows once the first is published
    or refused. The first ones of all streams that are due in one turn of the loop, such as the
    effects of one group commit, are published with one call.

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
        on_wakes: Callable[[Sequence[Wake]], None],
        metrics: Metrics | None = None,
    ) -> None:
        """Prepare; `run` does the rest.

        Args:
            committer: Writes what became of effects.
            reader: Where unsent effects are read.
            publisher: Where they go.
            owner: Who claims them.
            clock: Time.
            settings: Bounds and intervals.
            on_wakes: Called with the invocations whose awakeable a refused task has rejected.
            metrics: Where publishes are counted.
        """
        self._committer = committer
        self._reader = reader
        self._publisher = publisher
        self._owner = owner
        self._settings = settings
        self._on_wakes = on_wakes
        self._missing = MissingTopics(clock, patience_s=settings.publish_timeout.total_seconds())
        self._outages = Outages(clock.monotonic)
        self._refusals = Outages(clock.monotonic)
        self._counts = (metrics or Metrics()).publishes
        self._problems: dict[str, str] = {}
        self._streams: dict[str, deque[Effect]] = {}
        self._due: list[Effect] = []
        self._backoffs: dict[str, Backoff] = {}
        self._known: dict[str, int] = {}
        self._held_bytes = 0
        self._behind = True
        self._gone_while_reading: set[str] | None = None
        self._handed_off_while_reading: list[Effect] | None = None
        self._sweeps = 0
        self._poked = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    def hand_off(self, effects: Sequence[Effect]) -> None:
        """Publish effects that were just committed, claimed by this owner."""
        if self._behind or not self._has_room(len(effects), sum(map(_size, effects))):
            self._behind = True
            self._poked.set()
            return
        if self._handed_off_while_reading is not None:
            # Earlier ones of its stream may be among what is being read: they go first.
            self._handed_off_while_reading.extend(effects)
            return
        for effect in effects:
            self._enqueue(effect)

    def poke(self) -> None:
        """Look for effects that nobody has claimed."""
        self._poked.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        interval_s = self._settings.sweep_interval.total_seconds()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                while True:
                    self._poked.clear()
                    await self._sweep()
                    await _wait_for(self._poked, interval_s)
            finally:
                self._tasks = None

    @property
    def idle(self) -> bool:
        """Whether everything is out that was handed off."""
        return not self._known and not self._behind and not self._poked.is_set()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until what was handed off is out; False: not in time.

        It does not wait for what is held up by a topic that failed when it was last tried: that is
        a row, and goes out after the next start.
        """
        waited = 0.0
        while self._under_way() and waited < timeout_s:
            await asyncio.sleep(0.02)
            waited += 0.02
        return not self._under_way()

    def holdup(self, effect: Effect) -> str | None:
        """Why an unsent effect is not out, as far as it was tried since this process started."""
        queue = self._streams.get(effect.stream)
        first = queue[0] if queue else effect
        problem = self._problems.get(first.topic)
        if problem is None or first.event_id == effect.event_id:
            return problem
        return f"it waits behind {first.event_id}: {problem}"

    def _under_way(self) -> int:
        queues = self._streams.values()
        held_up = sum(len(queue) for queue in queues if queue[0].topic in self._problems)
        return len(self._known) - held_up

    # What is held: bounded, read from the store when it was not handed off.

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
        self._publish_soon(effect)

    def _forget(self, event_ids: Sequence[str]) -> None:
        """Their rows are gone or failed; a read that is under way may still show them."""
        for event_id in event_ids:
            self._held_bytes -= self._known.pop(event_id, 0)
        if self._gone_while_reading is not None:
            self._gone_while_reading.update(event_ids)

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
        handed_off: list[Effect] = []
        self._gone_while_reading, self._handed_off_while_reading = gone, handed_off
        try:
            unsent = await self._reader.effects(self._owner, limit)
        except StoreUnavailable:
            self._behind = True
            return
        finally:
            self._gone_while_reading = self._handed_off_while_reading = None
        # Where there is more to read, a later read has what was handed off meanwhile.
        for effect in unsent if len(unsent) >= limit else [*unsent, *handed_off]:
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

    # Publishing: in batches, and what becomes of each effect.

    def _publish_soon(self, effect: Effect) -> None:
        """Publish the first effect of a stream, with all others that are due in this turn of the loop."""
        if self._tasks is None:
            return
        if not self._due:
            self._tasks.create_task(self._publish_due())
        self._due.append(effect)

    async def _publish_due(self) -> None:
        effects, self._due = self._due, []
        left = {effect.event_id: effect for effect in effects}

        def report(reported: Sequence[Effect], outcome: Exception | None) -> None:
            for effect in reported:
                del left[effect.event_id]
            if self._tasks is not None:
                self._settle(reported, outcome)

        try:
            await self._publisher.publish(effects, report)
        except Exception as error:
            # A defect of the publisher must stop no stream: what it left unreported is tried again.
            log.error(events.BACKGROUND_ERROR, exc_info=error)
            report([*left.values()], BrokerUnavailable(f"{type(error).__name__}: {error}"))

    def _settle(self, effects: Sequence[Effect], outcome: Exception | None) -> None:
        match outcome:
            case None:
                self._acknowledged(effects)
            case BrokerUnavailable():
                self._failed(effects, outcome)
            case PublishRefused():
                for effect in effects:
                    shorter = without_value(effect, str(outcome))
                    if shorter is None:
                        self._refuse(effect, str(outcome))
                    else:
                        self._streams[effect.stream][0] = shorter
                        self._publish_soon(shorter)
            case _:
                # A record that can't even be written must stop no other stream; it can be resent.
                for effect in effects:
                    self._refuse(effect, f"{type(outcome).__name__}: {outcome}")

    def _acknowledged(self, effects: Sequence[Effect]) -> None:
        self._counts["published"].inc(len(effects))
        for topic in {effect.topic for effect in effects}:
            self._missing.found(topic)
            self._problems.pop(topic, None)
            self._refusals.succeeded(topic)
            failures = self._outages.succeeded(topic)
            if failures is not None:
                log.info(events.EFFECT_SENT_AGAIN, topic=topic, failures=failures)
        event_ids = tuple(effect.event_id for effect in effects)
        # Known until their rows are gone, so that no sweep publishes them again.
        self._committer.post(
            MarkPublished(event_ids=event_ids), lambda _: self._forget(event_ids), lazily=True
        )
        for effect in effects:
            self._go_on(effect.stream)

    def _go_on(self, stream: str) -> None:
        """The first effect of a stream is published or refused: on with the next."""
        self._backoffs.pop(stream, None)
        queue = self._streams[stream]
        queue.popleft()
        if queue:
            self._publish_soon(queue[0])
        else:
            del self._streams[stream]

    def _failed(self, effects: Sequence[Effect], error: BrokerUnavailable) -> None:
        """Try again after a pause; give up records to a topic that has been missing for too long."""
        pauses: dict[float, list[str]] = {}
        for effect in effects:
            if isinstance(error, TopicMissing) and self._missing.is_overdue(effect.topic):
                self._refuse(effect, str(error))
                continue
            self._problems[effect.topic] = str(error)
            failures = self._outages.failed(effect.topic)
            if failures is not None:
                log.warning(events.EFFECT_FAILED, **_facts(effect), failures=failures, error=str(error))
            self._counts["retried"].inc()
            backoff = self._backoffs.setdefault(effect.stream, Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S))
            pauses.setdefault(backoff.next_s(), []).append(effect.stream)
        for pause_s, streams in pauses.items():
            if self._tasks is not None:
                self._tasks.create_task(self._retry_later(streams, pause_s))

    async def _retry_later(self, streams: Sequence[str], pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        for stream in streams:
            self._publish_soon(self._streams[stream][0])

    def _refuse(self, effect: Effect, reason: str) -> None:
        reason = writable(reason)
        self._problems.pop(effect.topic, None)  # one that still waits for this topic will find it out
        self._counts["refused"].inc()
        # A verdict or a copy of a dead letter is nobody's in particular, and may be one of thousands.
        facts = _facts(effect)
        failures = 1 if "invocation_id" in facts else self._refusals.failed(effect.topic)
        if failures is not None:
            log.error(events.EFFECT_REFUSED, **facts, failures=failures, reason=reason)
        self._committer.post(
            MarkRefused(event_id=effect.event_id, reason=reason), partial(self._refusal_kept, effect)
        )

    def _refusal_kept(self, effect: Effect, answer: Reply | Exception) -> None:
        self._forget((effect.event_id,))
        self._go_on(effect.stream)
        # If the store has refused it, the committer has logged that; a sweep finds the effect again.
        if isinstance(answer, Acknowledged):
            self._on_wakes(answer.wakes)


def _size(effect: Effect) -> int:
    return len(effect.key or b"") + len(effect.value or b"")


def _facts(effect: Effect) -> dict[str, str]:
    """What a log line says of an effect, with the invocation or awakeable that its stream is named after."""
    facts = {"event_id": effect.event_id, "topic": effect.topic}
    match effect.kind:
        case "task" | "event":
            facts["invocation_id"] = effect.stream
        case "verdict":
            facts["awakeable_id"] = effect.stream
        case _:
            pass
    return facts


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
