"""Finding a type that only a line of a handler's code names: a dry replay of its invocation.

After a restart a process knows the types of the signatures that it has imported, not those that a
handler awaits: they are named by lines that have not run yet. An answer may come first. Then its
invocation is replayed up to the end of its journal: nothing is committed, published or executed,
and the line that asks for the awakeable gives its type.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import msgspec

from awakeables.core.commands import ReplayDry
from awakeables.core.replies import DryReplayed, Reply
from awakeables.engine.committer import Committer
from awakeables.errors import NotFound
from awakeables.handlers.attempt import Attempts, News, Origin
from awakeables.handlers.serde import Codec
from awakeables.handlers.typenames import is_stable
from awakeables.ports import Clock, Expectation, JournalReader

MOST_TRIED = 10_000
"""How many types that were not found are remembered; an app has a few."""


class DryReplays:
    """Replays invocations of one app dry, to learn what type an awakeable of theirs has."""

    def __init__(self, store: JournalReader, committer: Committer, attempts: Attempts, clock: Clock) -> None:
        """Replay handlers along the journals of this store."""
        self._store = store
        self._committer = committer
        self._attempts = attempts
        self._clock = clock
        self._in_vain: set[tuple[str, str, str]] = set()

    async def codec(self, awakeable_id: str, expected: Expectation) -> Codec[Any] | None:
        """The codec of an awakeable whose type this process does not know; None: it can't be found.

        A type with a name is looked for once for each handler. One start is counted while the
        handler runs, so that one that kills its process is not replayed again and again (hard case 11).
        """
        begun = await self._committer.commit(
            ReplayDry(invocation_id=expected.invocation_id, ends=False), DryReplayed
        )
        row = begun.invocation
        if row is None:
            return None
        try:
            place = (row.service, row.handler, expected.type_name or "")
            if place in self._in_vain:
                return None
            codec = await self._replay(row.service, row.handler, awakeable_id, expected)
            if codec is None and expected.type_name is not None and is_stable(expected.type_name):
                if len(self._in_vain) >= MOST_TRIED:
                    self._in_vain.clear()
                self._in_vain.add(place)
            return codec
        finally:
            # Not awaited: a caller who gives up meanwhile must not leave the start counted.
            ended = self._committer.submit(ReplayDry(invocation_id=row.id, ends=True), lazily=True)
            ended.add_done_callback(_noted)

    async def _replay(
        self, service: str, handler_name: str, awakeable_id: str, expected: Expectation
    ) -> Codec[Any] | None:
        invocation_id = expected.invocation_id
        try:
            journal = (await self._store.history([invocation_id])).get(invocation_id)
        except msgspec.MsgspecError:  # entries of another release
            return None
        if not journal:
            return None
        origin = Origin(invocation_id=invocation_id, service=service, handler=handler_name)
        try:
            attempt = self._attempts.open(origin, journal, lambda: None)
        except NotFound:
            return None
        # Nothing is durable, so no action starts.
        progress = attempt.advance(News(now_ms=self._clock.now_ms()))
        if inspect.isawaitable(progress):
            # The handler awaits something of asyncio's own: no replay gets past that dry.
            task = asyncio.ensure_future(progress)
            task.cancel()
            await asyncio.wait({task})
        codec = attempt.codec_of(awakeable_id)
        attempt.close()
        return codec if codec is not None and codec.schema_hash == expected.schema_hash else None


def _noted(ended: asyncio.Future[Reply]) -> None:
    """A start that could not be taken back is forgotten with the owner's next commit."""
    if not ended.cancelled():
        ended.exception()
