"""The relay: publishes committed effects, in order per stream, until Kafka acknowledges them (K3)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog

from awakeables.core.backoff import Backoff
from awakeables.core.commands import ClaimEffects, MarkPublished, MarkRefused
from awakeables.core.deadletters import without_value
from awakeables.core.effects import Effect
from awakeables.core.replies import Acknowledged, ClaimedEffects, Reply, Wake
from awakeables.core.sealed import Unopened
from awakeables.core.texts import writable
from awakeables.engine.committer import Committer
from awakeables.engine.missingtopics import MissingTopics
from awakeables.errors import BrokerUnavailable, PublishRefused, StoreUnavailable, TopicMissing
from awakeables.ports import Clock, OutboxReader, Publisher
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics
from awakeables.telemetry.outages import Outages

if TYPE_CHECKING:
    from awakeables.telemetry.spans import Spans

log = structlog.stdlib.get_logger(__name__)

CLAIM_LIMIT = 500
"""How many effects are claimed, and at most read, at once."""

LEAST_READ = 10
"""How many are read at least, however long that takes."""

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0

SWEEPS_PER_CHECK = 10
"""Every tenth sweep also reads the store for effects whose hand-off was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """How the relay behaves.

    Attributes:
        publish_timeout: Effects for a topic that has been missing for this long are refused.
        sweep_interval: How often the store is searched for effects that were not handed off.
        max_waiting: Bound of the effects that are held in memory.
        max_waiting_bytes: Bound of their keys and values together; an effect above it is held alone.
    """

    publish_timeout: timedelta = timedelta(seconds=60)
    sweep_interval: timedelta = timedelta(seconds=1)
    max_waiting: int = 10_000
    max_waiting_bytes: int = 64 * 1024 * 1024


class Relay:
    """Publishes effects from one queue per stream.

    Only the first effect of a queue is being published; the next one follows once the first is
    acknowledged or refused. The first effects of all streams that are due in one turn of the event loop,
    such as those of one group commit, are published with one call.

    Effects are handed off right after their commit. At the start, when there is no room, and at
    intervals in case a hand-off was lost, the relay is *behind*: it accepts no hand-off, and reads the
    unsent effects from the store, in order, until it holds all of them.
    """

    def __init__(  # noqa: PLR0913 - all of it is given by name
        self,
        committer: Committer,
        reader: OutboxReader,
        publisher: Publisher,
        *,
        owner: Callable[[], str],
        clock: Clock,
        settings: RelaySettings,
        on_wakes: Callable[[Sequence[Wake]], None],
        may_publish: Callable[[], bool] | None = None,
        metrics: Metrics | None = None,
        spans: Spans | None = None,
    ) -> None:
        """Prepare; `run` does the rest.

        Args:
            committer: Commits what became of effects.
            reader: Reads unsent effects.
            publisher: Publishes them.
            owner: Returns this instance's ID, the owner in their claims.
            clock: The time.
            settings: Bounds and intervals.
            on_wakes: Called with the invocations that a refused task has woken, by rejecting its awakeable.
            may_publish: Whether this instance lives for certain; None: it is the only one. While it may
                be dead, `go_on` is waited for.
            metrics: Where publishes are counted.
            spans: Begins the spans of publishes; None: none are recorded.
        """
        self._committer = committer
        self._reader = reader
        self._publisher = publisher
        self._owner = owner
        self._settings = settings
        self._on_wakes = on_wakes
        self._may_publish = may_publish
        self._missing = MissingTopics(clock, patience_s=settings.publish_timeout.total_seconds())
        self._outages = Outages(clock.monotonic)
        self._refusals = Outages(clock.monotonic)
        self._spans = spans
        self._counts = (metrics or Metrics()).publishes
        self._problems: dict[str, str] = {}
        self._streams: dict[str, deque[Effect]] = {}
        self._held: set[str] = set()
        self._due: list[Effect] = []
        self._backoffs: dict[str, Backoff] = {}
        self._known: dict[str, int] = {}
        self._held_bytes = 0
        self._behind = True
        self._most_read = CLAIM_LIMIT
        self._gone_while_reading: set[str] | None = None
        self._handed_off_while_reading: list[Effect] | None = None
        self._sweeps = 0
        self._poked = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    def hand_off(self, effects: Sequence[Effect]) -> None:
        """Publish effects that this owner has just committed, which claims them."""
        if self._behind:
            self._poked.set()
        elif self._handed_off_while_reading is not None:
            # Earlier effects of their streams may be among those being read, and must go first.
            self._handed_off_while_reading.extend(effects)
        elif not self._enqueue(effects):
            self._poked.set()

    def fall_behind(self) -> None:
        """Read the store before anything else is published: earlier effects were claimed from others."""
        self._behind = True
        self._poked.set()

    def lose_all(self) -> None:
        """Drop every effect: this instance was declared dead, and others publish them.

        What is being published at this moment may be repeated by them (K3).
        """
        self._streams.clear()
        self._held.clear()
        self._due.clear()
        self._backoffs.clear()
        self._known.clear()
        self._held_bytes = 0
        self.fall_behind()

    def go_on(self) -> None:
        """Publish what was put off while this instance may have been declared dead."""
        if self._due and self._tasks is not None:
            self._tasks.create_task(self._publish_due())

    def poke(self) -> None:
        """Sweep now, for effects that were committed unclaimed."""
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
        """Whether all effects that were handed off are published or refused."""
        nothing = len(self._known) == self._held_back()
        return nothing and not self._behind and not self._poked.is_set()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until what was handed off is published; False if it is not within `timeout_s`.

        It does not wait for streams whose topic failed when it was last tried: their effects are rows,
        and are published after the next start.
        """
        waited = 0.0
        while self._under_way() and waited < timeout_s:
            await asyncio.sleep(0.02)
            waited += 0.02
        return not self._under_way()

    def holdup(self, effect: Effect) -> str | None:
        """Return why an effect is still unsent, if publishing has failed since this process started."""
        queue = self._streams.get(effect.stream)
        first = queue[0] if queue else effect
        problem = self._problems.get(first.topic)
        if isinstance(first.value, Unopened):
            problem = str(first.value.error)
        if problem is None or first.event_id == effect.event_id:
            return problem
        return f"it waits behind {first.event_id}: {problem}"

    def _under_way(self) -> int:
        queues = self._streams.values()
        held_up = [
            queue for queue in queues if queue[0].topic in self._problems or queue[0].stream in self._held
        ]
        return len(self._known) - sum(map(len, held_up))

    # Taking in effects. Catching up reads the store while hand-offs and acknowledgements go on. So an effect
    # that is acknowledged meanwhile may still be among those read, and must not be published again
    # (`_gone_while_reading`); and one that is handed off meanwhile must queue behind those of its stream that
    # are read, so it is taken in after them (`_handed_off_while_reading`).

    def _enqueue(self, effects: Sequence[Effect]) -> bool:
        """Take in effects up to the first for which there is no room; False: there is one."""
        known, most, most_bytes = self._known, self._settings.max_waiting, self._settings.max_waiting_bytes
        if self._held:
            most += self._held_back()
        for effect in effects:
            if effect.event_id in known or self._tasks is None:
                continue
            size = len(effect.key or b"") + len(effect.value or b"")
            if isinstance(effect.value, Unopened):
                size = 0  # it must not take the room of others
            if len(known) >= most or (known and self._held_bytes + size > most_bytes):
                self._behind = True
                return False
            known[effect.event_id] = size
            self._held_bytes += size
            queue = self._streams.get(effect.stream)
            if queue is None:
                self._streams[effect.stream] = deque((effect,))
                self._publish_soon(effect)
            else:
                queue.append(effect)
        return True

    def _forget(self, event_ids: Sequence[str]) -> None:
        """Drop effects whose rows are deleted or marked as refused."""
        for event_id in event_ids:
            self._held_bytes -= self._known.pop(event_id, 0)
        if self._gone_while_reading is not None:
            self._gone_while_reading.update(event_ids)

    async def _sweep(self) -> None:
        """Claim what is unclaimed or a dead owner's, and catch up with what was not handed off (O3)."""
        claimed = await self._committer.commit(
            ClaimEffects(owner=self._owner(), limit=CLAIM_LIMIT), ClaimedEffects
        )
        if claimed.effect_ids or self._sweeps % SWEEPS_PER_CHECK == 0:
            # The reply may have been lost before, so claimed effects are read, too, not taken from it.
            self._behind = True
        self._sweeps += 1
        if self._behind:
            await self._catch_up()
        if len(claimed.effect_ids) >= CLAIM_LIMIT:
            self._poked.set()

    async def _catch_up(self) -> None:
        room = self._settings.max_waiting - len(self._known) + self._held_back()
        if room <= 0 or self._held_bytes >= self._settings.max_waiting_bytes:
            return
        self._behind = False
        limit = len(self._known) + min(room, self._most_read)
        gone: set[str] = set()
        handed_off: list[Effect] = []
        self._gone_while_reading, self._handed_off_while_reading = gone, handed_off
        owner = self._owner()
        try:
            unsent = await self._reader.effects(owner, limit)
        except StoreUnavailable:  # or they are too large to be read in time
            self._behind = True
            self._most_read = max(LEAST_READ, self._most_read // 2)
            return
        finally:
            self._gone_while_reading = self._handed_off_while_reading = None
        self._most_read = min(CLAIM_LIMIT, 2 * self._most_read)
        if self._owner() != owner:
            self._behind = True  # declared dead meanwhile: these are not its own any more
            return
        # If there is more to read, a later read returns what was handed off meanwhile.
        found = unsent if len(unsent) >= limit else [*unsent, *handed_off]
        if not self._enqueue([effect for effect in found if effect.event_id not in gone]):
            return
        if len(unsent) >= limit:
            self._behind = True
        if self._behind:
            # There is more to read, or a hand-off was declined meanwhile.
            self._poked.set()

    def _hold(self, effect: Effect, error: Exception) -> None:
        """Leave an effect that can't be opened, and what comes after it in its stream, for a later start.

        This process will not get another key.
        """
        if effect.stream not in self._held:
            self._held.add(effect.stream)
            log.error(events.EFFECT_SEALED, **_log_fields(effect), error=str(error))

    def _held_back(self) -> int:
        """How many effects are known that wait for a later start; they leave the room to others."""
        return sum(len(self._streams.get(stream, ())) for stream in self._held)

    # Publishing.

    def _publish_soon(self, effect: Effect) -> None:
        """Publish the first effect of a stream, with all others due in this turn of the event loop."""
        if self._tasks is None:
            return
        if isinstance(effect.value, Unopened):
            self._hold(effect, effect.value.error)
            return
        if not self._due:
            self._tasks.create_task(self._publish_due())
        self._due.append(effect)

    async def _publish_due(self) -> None:
        if self._may_publish is not None and not self._may_publish():
            return
        effects, self._due = self._due, []
        left = {effect.event_id: effect for effect in effects}
        sending = None if self._spans is None else self._spans.send(effects)

        def report(reported: Sequence[Effect], outcome: Exception | None) -> None:
            for effect in reported:
                del left[effect.event_id]
            if sending is not None:
                sending.reported(reported, outcome)
            if self._tasks is not None:
                self._settle(reported, outcome)

        try:
            await self._publisher.publish(effects, report)
        except Exception as error:
            # A bug in the publisher must not stop any stream: what it has not reported is tried again.
            log.error(events.BACKGROUND_ERROR, exc_info=error)
            report([*left.values()], BrokerUnavailable(f"{type(error).__name__}: {error}"))
        finally:
            if sending is not None:
                sending.abandoned()

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
                    elif self._is_first(effect):
                        self._streams[effect.stream][0] = shorter
                        self._publish_soon(shorter)
            case _:
                # A record that can't even be encoded must not stop the other streams; it can be resent.
                for effect in effects:
                    self._refuse(effect, f"{type(outcome).__name__}: {outcome}")

    def _acknowledged(self, effects: Sequence[Effect]) -> None:
        self._counts["published"].inc(len(effects))
        event_ids = tuple([effect.event_id for effect in effects])
        # Kept until their rows are deleted, so that no sweep publishes them again.
        self._committer.post(
            MarkPublished(event_ids=event_ids), lambda _: self._forget(event_ids), lazily=True
        )
        self._go_on(effects)
        for topic in {effect.topic for effect in effects}:
            self._missing.found(topic)
            self._problems.pop(topic, None)
            self._refusals.succeeded(topic)
            failures = self._outages.succeeded(topic)
            if failures is not None:
                log.info(events.EFFECT_SENT_AGAIN, topic=topic, failures=failures)

    def _go_on(self, effects: Sequence[Effect]) -> None:
        """Publish the next effect of each stream; its first, one of these, is published or refused."""
        for effect in effects:
            queue = self._streams.get(effect.stream)
            if queue is None or queue[0] is not effect:
                continue  # it was dropped while it was being published
            self._backoffs.pop(effect.stream, None)
            queue.popleft()
            if queue:
                self._publish_soon(queue[0])
            else:
                del self._streams[effect.stream]

    def _failed(self, effects: Sequence[Effect], error: BrokerUnavailable) -> None:
        """Try again after a pause; refuse records to a topic that has been missing for too long."""
        pauses: dict[float, list[Effect]] = {}
        for effect in effects:
            if isinstance(error, TopicMissing) and self._missing.is_overdue(effect.topic):
                self._refuse(effect, str(error))
                continue
            self._problems[effect.topic] = str(error)
            failures = self._outages.failed(effect.topic)
            if failures is not None:
                log.warning(events.EFFECT_FAILED, **_log_fields(effect), failures=failures, error=str(error))
            self._counts["retried"].inc()
            backoff = self._backoffs.setdefault(effect.stream, Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S))
            pauses.setdefault(backoff.next_s(), []).append(effect)
        for pause_s, some in pauses.items():
            if self._tasks is not None:
                self._tasks.create_task(self._retry_later(some, pause_s))

    async def _retry_later(self, effects: Sequence[Effect], pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        for effect in effects:
            if self._is_first(effect):
                self._publish_soon(effect)

    def _is_first(self, effect: Effect) -> bool:
        """Whether it is the one of its stream that is being published; not if it was dropped meanwhile."""
        queue = self._streams.get(effect.stream)
        return queue is not None and queue[0] is effect

    def _refuse(self, effect: Effect, reason: str) -> None:
        reason = writable(reason)
        self._problems.pop(effect.topic, None)  # the next effect for this topic will find out
        self._counts["refused"].inc()
        # Verdicts and copies of dead letters may be refused by the thousand, so not each is logged.
        fields = _log_fields(effect)
        failures = 1 if "invocation_id" in fields else self._refusals.failed(effect.topic)
        if failures is not None:
            log.error(events.EFFECT_REFUSED, **fields, failures=failures, reason=reason)
        self._committer.post(
            MarkRefused(event_id=effect.event_id, reason=reason), partial(self._on_marked_refused, effect)
        )

    def _on_marked_refused(self, effect: Effect, reply: Reply | Exception) -> None:
        self._forget((effect.event_id,))
        self._go_on((effect,))
        # If the store refuses the command, the committer has logged that, and a sweep finds the effect again.
        if isinstance(reply, Acknowledged):
            self._on_wakes(reply.wakes)


def _log_fields(effect: Effect) -> dict[str, str]:
    """What the log says about an effect, with the invocation or awakeable that its stream is named after."""
    fields = {"event_id": effect.event_id, "topic": effect.topic}
    match effect.kind:
        case "task" | "event":
            fields["invocation_id"] = effect.stream
        case "verdict":
            fields["awakeable_id"] = effect.stream
        case _:
            pass
    return fields


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
