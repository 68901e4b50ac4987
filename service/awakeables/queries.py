"""Looking at invocations, awakeables, dead letters, the outbox: the application service's reading half."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from awakeables.core.awakeables import PROMISE, AwakeableRow, AwakeableState
from awakeables.core.deadletters import DeadLetter
from awakeables.core.decide.calling import ALIAS
from awakeables.core.decide.queueing import object_key_of
from awakeables.core.effects import Effect, EffectState, QueuedEffect
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Entry
from awakeables.core.objects import ObjectRow, StateEntry
from awakeables.core.pauses import PauseRow, pause_of
from awakeables.core.records import text_bytes, text_from
from awakeables.core.versions import VersionUse, versions_in_use
from awakeables.errors import InvalidInput, NotFound, NotPossible
from awakeables.handlers.invoking import idempotency_scope, key_problem
from awakeables.handlers.service import App, VirtualObject
from awakeables.ports import ANY_INVOCATION, Inspection, InvocationFilter, OffsetReader, Page

MOST_SHOWN: Final = 32
"""How many waits, invocations behind a key, and steps from one to the next are shown."""


class QueriedStore(Inspection, OffsetReader, Protocol):
    """What `Queries` reads."""


class WaitingInvocation(NamedTuple):
    """An invocation that has not ended, and what it waits for.

    Attributes:
        waits: Its pending awakeables, and waits for calls, the oldest first; a few of many.
        pause: The pause of its handler or service, if that is why it is not claimed.
    """

    row: Invocation
    waits: Sequence[AwakeableRow]
    pause: PauseRow | None


class KeyStatus(NamedTuple):
    """The queue of one key of a virtual object.

    Attributes:
        queue: None: no exclusive invocation is open, and the key is not paused.
        head: The invocation that holds the key, and what it waits for; then, for as long as that is another
            invocation alone, that one.
        in_line: The invocations behind it, the next one first; a few of many.
    """

    service: str
    key: str
    queue: ObjectRow | None
    head: Sequence[WaitingInvocation]
    in_line: Sequence[Invocation]


class Queries:
    """What is asked of the rows; all of it was committed.

    Attributes:
        app: The app whose rows they are.
    """

    def __init__(self, app: App, store: QueriedStore, holdup: Callable[[Effect], str | None]) -> None:
        """Read from a store; `holdup` says why an effect is not out yet, as far as this process knows it."""
        self.app = app
        self._store = store
        self._holdup = holdup

    async def invocation(self, invocation_id: str) -> Invocation:
        """Return an invocation.

        Raises:
            NotFound: There is no such invocation.
        """
        row = await self._store.invocation(invocation_id)
        if row is None:
            older = await self.alias(invocation_id)
            row = None if older is None else await self._store.invocation(older)
        return existing(row, invocation_id)

    async def alias(self, invocation_id: str) -> str | None:
        """The older invocation that an ID stands for, because the call that asked for it had a known key."""
        found = await self._store.keyed([ALIAS], invocation_id)
        return found[0].id if found else None

    async def invocations(
        self, page: Page, which: InvocationFilter = ANY_INVOCATION, *, topic: str | None = None
    ) -> Sequence[Invocation]:
        """Invocations, newest first.

        What the app no longer has can be named, too, as long as there are invocations of it.

        Args:
            page: Which part of the list.
            which: What all of them have in common.
            topic: Only those of the subscriptions of this topic.

        Raises:
            NotFound: There is none, and the app has no such service, handler or subscription; or nothing has
                subscribed to the topic.
        """
        if topic is None:
            rows: Sequence[Invocation] = await self._store.invocations(page, which)
        else:
            found: list[Invocation] = []
            for name in await self._subscriptions_of(topic):  # an invocation never changes its subscription
                found += await self._store.invocations(page, replace(which, subscription=name))
            rows = sorted(found, key=lambda row: row.id, reverse=True)[: page.limit]
        if not rows and page.before is None and not await self._is_known(which):
            await self._check_names(which)
        return rows

    async def _subscriptions_of(self, topic: str) -> Sequence[str]:
        subscribed = await self._subscribed()
        names = sorted({name for name, read in subscribed if read == topic})
        if not names:
            topics = ", ".join(sorted({read for _, read in subscribed})) or "none"
            raise NotFound(f"nothing has subscribed to topic {topic!r}; topics with subscriptions: {topics}")
        return names

    async def _subscribed(self) -> Sequence[tuple[str, str]]:
        """The names of the app's subscriptions, and of those that only the store knows, each with a topic."""
        declared = [
            (name, handler.subscription.topic)
            for name, handler in self.app.subscribed().items()
            if handler.subscription is not None
        ]
        return [*declared, *await self._store.subscribed()]

    async def _is_known(self, which: InvocationFilter) -> bool:
        """Whether there are invocations of what is named, although they have other states."""
        named = replace(which, status=None)
        return named != which and bool(await self._store.invocations(Page(limit=1), named))

    async def _check_names(self, which: InvocationFilter) -> None:
        if which.service is not None and which.handler is not None:
            self.app.handler(which.service, which.handler)
        elif which.service is not None:
            self.app.service(which.service)
        if which.subscription is not None:
            names = {name for name, _ in await self._subscribed()}
            if which.subscription not in names:
                named = ", ".join(sorted(names)) or "none"
                raise NotFound(f"no subscription {which.subscription!r}; there are: {named}")

    async def invocations_by_key(
        self,
        key: str,
        *,
        service: str | None = None,
        handler: str | None = None,
        object_key: str | None = None,
    ) -> Sequence[Invocation]:
        """The invocations of an idempotency key, newest first: at most one for each handler.

        Looked for in the handlers of the app; and in one that it no longer has, if both names are given. With
        an object's key in those that are called for that key, and without one in those of services.
        """
        scopes = [
            idempotency_scope(each.service, each.name, object_key)
            for of in self.app.services.values()
            for each in of.handlers.values()
            if service in (None, each.service) and handler in (None, each.name)
            if each.keyed == (object_key is not None)
        ]
        if service is not None and handler is not None and not scopes:
            scopes = [idempotency_scope(service, handler, object_key)]
        return await self._store.keyed(scopes, key)

    async def versions(self) -> Sequence[VersionUse]:
        """How many open invocations have which version of a handler, or of a part of its code.

        All open invocations are visited: some seconds per million.
        """
        return versions_in_use(self.app.versions, await self._store.open_by_versions())

    # Virtual objects

    async def key_status(self, name: str, key: str) -> KeyStatus:
        """Who holds a key of an object, what for, and who waits behind.

        Raises:
            NotFound: The app has no such object.
            InvalidInput: The key can't be one.
        """
        self._check_object(name, key)
        object_key = (name, text_bytes(key))
        queue = await self._store.queue(object_key)
        head = [] if queue is None or queue.head is None else await self.why(queue.head)
        in_line = [] if queue is None else await self._store.in_line(object_key, MOST_SHOWN)
        return KeyStatus(name, key, queue, head, in_line)

    async def why(self, invocation_id: str) -> Sequence[WaitingInvocation]:
        """Why an invocation goes on no further: it, what it waits for, and so on along calls and keys.

        Empty if it has ended.

        Raises:
            NotFound: There is no such invocation.
        """
        found: dict[str, WaitingInvocation] = {}
        row: Invocation | None = await self.invocation(invocation_id)
        while row is not None and row.id not in found and row.result is None and len(found) < MOST_SHOWN:
            waits = [
                wait
                for wait in await self._store.waits_of(row.id, MOST_SHOWN)
                if wait.source_utf8 != PROMISE  # which the run itself does not wait for
            ]
            found[row.id] = WaitingInvocation(row, waits, await self._pause_of(row))
            row = await self._ahead_of(row, waits)
        return list(found.values())

    async def _pause_of(self, row: Invocation) -> PauseRow | None:
        """Why an invocation that goes on by itself, now or at an instant, won't: its handler is paused."""
        if row.status not in ("pending", "suspended", "backing-off") or row.due_ms is None:
            return None
        return pause_of(await self.pauses(), row.service, row.handler)

    async def pauses(self) -> Sequence[PauseRow]:
        """The handlers and services that are paused, by name."""
        return await self._store.pauses()

    async def _ahead_of(self, row: Invocation, waits: Sequence[AwakeableRow]) -> Invocation | None:
        """The one invocation that another one waits for."""
        ahead: str | None = None
        if row.status == "queued":
            queue = await self._store.queue(object_key_of(row))
            ahead = None if queue is None else queue.head
        elif len(waits) == 1:
            ahead = waits[0].source
            if ahead is not None and ahead.startswith("prom"):
                promise = await self._store.awakeable(ahead)
                ahead = None if promise is None else promise.invocation_id
        return None if ahead is None else await self._store.invocation(ahead)

    async def queues(self, name: str, limit: int, after: str = "") -> Sequence[ObjectRow]:
        """The keys of an object that have queues or are paused, in order.

        Raises:
            NotFound: The app has no such object.
        """
        self.app.object(name)
        return await self._store.queues(name, limit, text_bytes(after))

    async def keys_with_state(self, name: str, limit: int, after: str = "") -> Sequence[str]:
        """The keys of an object that have state, in order.

        Raises:
            NotFound: The app has no such object.
        """
        self.app.keyed(name)
        return [text_from(key) for key in await self._store.keys_with_state(name, limit, text_bytes(after))]

    async def state(self, name: str, key: str, limit: int, after: str = "") -> Sequence[StateEntry]:
        """The state of a key, by name.

        Raises:
            NotFound: The app has no such object.
            InvalidInput: The key can't be one.
        """
        self.app.keyed(name)
        _check_key(key)
        return await self._store.states((name, text_bytes(key)), limit, after)

    def _check_object(self, name: str, key: str) -> VirtualObject:
        found = self.app.object(name)
        _check_key(key)
        return found

    async def idempotency_key(self, invocation_id: str) -> str | None:
        """The key under which an invocation was begun; None: without one."""
        return await self._store.idempotency_key(invocation_id)

    async def journal(self, invocation_id: str, most_bytes: int) -> tuple[Sequence[Entry], bool]:
        """The beginning of a journal, about `most_bytes` of it; and is that all?

        Raises:
            MsgspecError: A release that this one can't read has written it.
        """
        return await self._store.journal(invocation_id, most_bytes)

    async def with_journal(self, invocation_id: str, most_bytes: int) -> tuple[Invocation, Sequence[Entry]]:
        """An invocation and its whole journal, as both were at one moment.

        Raises:
            NotFound: There is no such invocation.
            NotPossible: The journal is larger than `most_bytes`, or this release can't read it.
        """
        row = await self.invocation(invocation_id)
        while True:
            try:
                journal, whole = await self._store.journal(row.id, most_bytes)
            except msgspec.MsgspecError as error:
                raise NotPossible(
                    f"the journal of {row.id} was written by a release that this one can't read: {error}"
                ) from error
            if not whole:
                raise NotPossible(f"the journal of {row.id} is larger than {most_bytes:,} bytes")
            before, row = row, await self.invocation(row.id)
            if (row.version, row.status) == (before.version, before.status):
                return row, journal

    async def awakeable(self, awakeable_id: str) -> AwakeableRow:
        """Return an awakeable.

        Raises:
            NotFound: There is no such awakeable.
        """
        row = await self._store.awakeable(awakeable_id)
        if row is None:
            raise NotFound(f"no awakeable {awakeable_id}")
        return row

    async def awakeables(self, page: Page, *, state: AwakeableState | None = None) -> Sequence[AwakeableRow]:
        """Awakeables, newest first."""
        return await self._store.awakeables(page, state=state)

    async def dead_letter(self, dead_letter_id: str) -> DeadLetter:
        """Return a dead letter.

        Raises:
            NotFound: There is no such dead letter.
        """
        row = await self._store.dead_letter(dead_letter_id)
        if row is None:
            raise NotFound(f"no dead letter {dead_letter_id}")
        return row

    async def dead_letters(self, page: Page) -> Sequence[DeadLetter]:
        """Dead letters, newest first."""
        return await self._store.dead_letters(page)

    async def queued_effect(self, event_id: str) -> QueuedEffect:
        """A record of the outbox; one that is not out yet with the reason, as far as this process knows it.

        Raises:
            NotFound: There is no such record in the outbox.
        """
        row = await self._store.queued_effect(event_id)
        if row is None:
            raise NotFound(f"no record {event_id} in the outbox")
        return self._with_reason(row)

    async def queued_effects(self, page: Page, *, state: EffectState) -> Sequence[QueuedEffect]:
        """Records of the outbox, newest first, with the reasons as `queued_effect` gives them."""
        return [self._with_reason(row) for row in await self._store.queued_effects(page, state=state)]

    def _with_reason(self, row: QueuedEffect) -> QueuedEffect:
        return row if row.state == "failed" else replace(row, reason=self._holdup(row.effect))

    async def counts(self) -> Mapping[str, int]:
        """How many rows there are: see `ports.Inspection.counts`."""
        return await self._store.counts()


def existing(row: Invocation | None, invocation_id: str) -> Invocation:
    if row is None:
        raise NotFound(f"no invocation {invocation_id}")
    return row


def _check_key(key: str) -> None:
    problem = key_problem(key)
    if problem is not None:
        raise InvalidInput(problem)
