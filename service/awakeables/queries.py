"""Looking at invocations, awakeables, dead letters, the outbox: the application service's reading half."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from awakeables.core.awakeables import AwakeableRow, State
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, EffectState, QueuedEffect
from awakeables.core.invocations import Invocation, Status
from awakeables.core.journal import Entry
from awakeables.errors import NotFound
from awakeables.handlers.service import App
from awakeables.ports import Inspection, Page


class Queries:
    """What is asked of the rows; all of it was committed.

    Attributes:
        app: The app whose rows they are.
    """

    def __init__(self, app: App, store: Inspection, holdup: Callable[[Effect], str | None]) -> None:
        """Read from a store; `holdup` says why an effect is not out yet, as far as this process knows it."""
        self.app = app
        self._store = store
        self._holdup = holdup

    async def invocation(self, invocation_id: str) -> Invocation:
        """Return an invocation.

        Raises:
            NotFound: There is no such invocation.
        """
        return existing(await self._store.invocation(invocation_id), invocation_id)

    async def invocations(
        self, page: Page, *, status: Status | None = None, service: str | None = None
    ) -> Sequence[Invocation]:
        """Invocations, newest first."""
        return await self._store.invocations(page, status=status, service=service)

    async def invocations_by_key(
        self, key: str, *, service: str | None = None, handler: str | None = None
    ) -> Sequence[Invocation]:
        """The invocations of an idempotency key, newest first: at most one for each handler.

        Looked for in the handlers of the app; and in one that it no longer has, if both names are given.
        """
        scopes = [
            idempotency_scope(each.service, each.name)
            for of in self.app.services.values()
            for each in of.handlers.values()
            if service in (None, each.service) and handler in (None, each.name)
        ]
        if service is not None and handler is not None and not scopes:
            scopes = [idempotency_scope(service, handler)]
        return await self._store.keyed(scopes, key)

    async def idempotency_key(self, invocation_id: str) -> str | None:
        """The key under which an invocation was begun; None: without one."""
        return await self._store.idempotency_key(invocation_id)

    async def journal(self, invocation_id: str, most_bytes: int) -> tuple[Sequence[Entry], bool]:
        """The beginning of a journal, about `most_bytes` of it; and is that all?

        Raises:
            MsgspecError: A release that this one can't read has written it.
        """
        return await self._store.journal(invocation_id, most_bytes)

    async def awakeable(self, awakeable_id: str) -> AwakeableRow:
        """Return an awakeable.

        Raises:
            NotFound: There is no such awakeable.
        """
        row = await self._store.awakeable(awakeable_id)
        if row is None:
            raise NotFound(f"no awakeable {awakeable_id}")
        return row

    async def awakeables(self, page: Page, *, state: State | None = None) -> Sequence[AwakeableRow]:
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


def idempotency_scope(service: str, handler: str) -> str:
    """The scope in which an idempotency key identifies one invocation."""
    return f"{service}/{handler}"


def existing(row: Invocation | None, invocation_id: str) -> Invocation:
    if row is None:
        raise NotFound(f"no invocation {invocation_id}")
    return row
