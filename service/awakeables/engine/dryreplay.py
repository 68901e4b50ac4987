"""Dry replays: finding the type of an awakeable that only a line of its handler's code names.

After a restart a process knows the types in the signatures that it has imported, but not those that
handlers await, which are named in lines that have not run yet. If an answer arrives before that, its
invocation is replayed to the end of its journal. Nothing is committed, published or executed, and the
line that creates the awakeable gives its type.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import msgspec

from awakeables.core.commands import ReplayDry
from awakeables.core.invocations import Invocation
from awakeables.core.replies import DryReplayed, Reply
from awakeables.engine.committer import Committer
from awakeables.errors import NotFound
from awakeables.handlers.attempt import Attempts, News, Origin
from awakeables.handlers.serde import Codec
from awakeables.handlers.typenames import is_stable
from awakeables.ports import Clock, Expectation, JournalReader

MOST_TRIED = 10_000
"""How many types that could not be found are remembered; an app has a few."""


class DryReplays:
    """Replays invocations dry, to find out which type an awakeable of theirs has."""

    def __init__(self, store: JournalReader, committer: Committer, attempts: Attempts, clock: Clock) -> None:
        """Replay handlers along the journals of this store."""
        self._store = store
        self._committer = committer
        self._attempts = attempts
        self._clock = clock
        self._not_found: set[tuple[str, str, str]] = set()

    async def codec(self, awakeable_id: str, expected: Expectation) -> Codec[Any] | None:
        """Find the codec of an awakeable whose type this process does not know; None: it was not found.

        A named type is looked for once per handler. While the handler runs, the invocation counts one
        start more, so that a handler that kills its process is not replayed again and again (hard case 11).
        """
        begun = await self._committer.commit(
            ReplayDry(invocation_id=expected.invocation_id, ends=False), DryReplayed
        )
        row = begun.invocation
        if row is None:
            return None
        try:
            place = (row.service, row.handler, expected.type_name or "")
            if place in self._not_found:
                return None
            codec = await self._replay(row, awakeable_id, expected)
            if codec is None and expected.type_name is not None and is_stable(expected.type_name):
                if len(self._not_found) >= MOST_TRIED:
                    self._not_found.clear()
                self._not_found.add(place)
            return codec
        finally:
            # Not awaited: if the caller is cancelled meanwhile, the start must still be uncounted.
            ended = self._committer.submit(ReplayDry(invocation_id=row.id, ends=True), lazily=True)
            ended.add_done_callback(_retrieve_error)

    async def _replay(self, row: Invocation, awakeable_id: str, expected: Expectation) -> Codec[Any] | None:
        invocation_id = expected.invocation_id
        try:
            journal = (await self._store.history([invocation_id])).get(invocation_id)
        except msgspec.MsgspecError:  # it has entries of another release
            return None
        if not journal:
            return None
        exclusive = row.ticket is not None
        origin = Origin(
            invocation_id=invocation_id, service=row.service, handler=row.handler, exclusive=exclusive
        )
        try:
            attempt = self._attempts.open(origin, journal, lambda: None)
        except NotFound:
            return None
        # No entry is reported as durable, so no action starts.
        progress = attempt.advance(News(now_ms=self._clock.now_ms()))
        if inspect.isawaitable(progress):
            # The handler awaits something other than the context, beyond which a dry replay can't go.
            task = asyncio.ensure_future(progress)
            task.cancel()
            await asyncio.wait({task})
        codec = attempt.codec_of(awakeable_id)
        attempt.close()
        return codec if codec is not None and codec.schema_hash == expected.schema_hash else None


def _retrieve_error(ended: asyncio.Future[Reply]) -> None:
    """Retrieve an error that nobody awaits: the start is uncounted by the owner's next commit anyway."""
    if not ended.cancelled():
        ended.exception()
