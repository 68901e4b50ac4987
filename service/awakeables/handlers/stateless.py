"""Attempts without state between calls: each call rebuilds the attempt from JSON.

Both halves of the protocol are here, without a transport: `answer` is the handler's side,
`StatelessAttempt` the owner's; `remote/` connects them over HTTP, `StatelessAttempts` in this process.
Each request contains the whole history, with entries that are not durable yet; `News.durable` says which are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from msgspec.structs import replace

from awakeables.core.journal import Entry, Input, OutcomeDelivered
from awakeables.core.records import Record
from awakeables.core.replay import open_awakeables
from awakeables.handlers.attempt import (
    Attempt,
    AwakeableWait,
    Broken,
    Left,
    News,
    Origin,
    Progress,
    Ready,
    TimerWait,
    Wait,
    joined,
)
from awakeables.handlers.execution import World
from awakeables.handlers.local import ActionOf, LocalAttempt, LocalAttempts, RunFailed
from awakeables.handlers.serde import Codec
from awakeables.handlers.service import App
from awakeables.telemetry.vocabulary import AttemptEnd

if TYPE_CHECKING:
    from awakeables.telemetry.spans import Spans


class AdvanceRequest(Record):
    """A request of the owner: one call of `advance`.

    Attributes:
        history: All entries so far, durable or not.
        begins: Whether this is the first request of the attempt. If so, the handler only replays its
            journal; nothing else is delivered to it.
    """

    origin: Origin
    history: tuple[Entry, ...]
    news: News
    begins: bool


_encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(AdvanceRequest).decode
_decode_progress = msgspec.json.Decoder(Progress).decode


async def answer(attempts: LocalAttempts, wanted: AdvanceRequest) -> Progress:
    """Rebuild an attempt, run it as far as it goes, and drop it; actions are executed within the request.

    Args:
        attempts: Where handlers run.
        wanted: The request.

    Raises:
        NotFound: There is no such handler, or none of the version in the journal's input.
    """
    acted = asyncio.Event()
    attempt = attempts.open(wanted.origin, wanted.history, acted.set)
    try:
        return await _advanced(attempt, wanted, acted)
    finally:
        attempt.close()


async def _advanced(attempt: LocalAttempt, wanted: AdvanceRequest, acted: asyncio.Event) -> Progress:
    news = wanted.news
    progress = await _answered(attempt.advance(replace(news, arrived=(), stop=False)))
    if not wanted.begins and not progress.entries and progress.ended is None:
        parts = [await _answered(attempt.advance(news))]
        # Actions can't outlive the request: all of them are executed to their ends.
        while _has_actions(parts[-1]):
            while attempt.is_acting:
                await acted.wait()
                acted.clear()
            parts.append(await _answered(attempt.advance(replace(news, arrived=()))))
        progress = _in_full(joined(parts), [progress, *parts])
    if progress.ended is None:
        left = await _answered(attempt.advance(replace(news, arrived=(), cancel=False, stop=True)))
        if isinstance(left.ended, Broken):
            progress = left
        elif left.entries:  # of actions that ended beside one that lets the handler go on
            progress = replace(progress, entries=progress.entries + left.entries)
    return progress


def _has_actions(progress: Progress) -> bool:
    """Whether it waits for actions that are being executed, and not for what it was given to be journaled."""
    return progress.ended is None and progress.running > 0 and not progress.owes


def _in_full(progress: Progress, parts: Sequence[Progress]) -> Progress:
    """The progress with all that it waits for: the next attempt knows of no call before it."""
    if progress.owes:
        return replace(progress, blocked_on=(), waits_on=False, no_longer=())
    if not progress.waits_on:
        return progress
    waits: dict[int, Wait] = {}
    for part in parts:
        if not part.waits_on:
            waits.clear()
        for index in part.no_longer:
            waits.pop(index, None)
        for entry in part.entries:
            if isinstance(entry, OutcomeDelivered):
                waits.pop(entry.of, None)
        waits.update({wait.index: wait for wait in part.blocked_on})
    return replace(progress, blocked_on=tuple(waits.values()), waits_on=False, no_longer=())


async def _answered(progress: Progress | Awaitable[Progress]) -> Progress:
    return progress if isinstance(progress, Progress) else await progress


class StatelessAttempts:
    """Sends each call of an attempt to `answer`, in this process."""

    def __init__(
        self,
        app: App,
        world: World,
        executor: Executor,
        run_failed: RunFailed = lambda *_: None,
        *,
        action_of: ActionOf = attrgetter("action"),
    ) -> None:
        """As `LocalAttempts`."""
        self._local = LocalAttempts(app, world, executor, run_failed, action_of=action_of)
        self._app = app
        self._suspended = SuspendedWaits()

    def open(self, origin: Origin, history: Sequence[Entry], ready: Ready) -> Attempt:
        """As the port says; `ready` is never called, because a reply is complete."""
        given = history[0]
        assert isinstance(given, Input)
        self._app.handler(origin.service, origin.handler, given.version)
        return StatelessAttempt(
            origin, history, post=self._post, spawn=self._local.spawn, suspended=self._suspended
        )

    async def _post(self, request: AdvanceRequest) -> Progress:
        progress = await answer(self._local, _decode_request(_encode(request)))
        return _decode_progress(_encode(progress))

    def unavailable(self) -> Sequence[str]:
        """As the port says: none."""
        return ()

    async def close(self) -> None:
        """As the port says."""
        await self._local.close()


Post: TypeAlias = Callable[[AdvanceRequest], Awaitable[Progress]]
"""Sends a request to where the handler's code is."""

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, Progress], str], Awaitable[Progress]]
"""Runs a request in a task of this name, which ends with the `Attempts`."""


MOST_SUSPENDED = 20_000
MOST_WAITS = 16


class SuspendedWaits:
    """What suspended invocations wait for, so that an answer takes one request instead of two.

    Without it, the first request of an attempt finds out what the handler waits for. A cache: of the last
    `MOST_SUSPENDED` invocations with at most `MOST_WAITS` waits, in this process.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, tuple[Wait, ...]]] = {}

    def keep(self, invocation_id: str, entries: int, progress: Progress) -> None:
        """Keep what an invocation waits for whose journal has this many entries, all of them durable."""
        waits = progress.blocked_on
        if progress.owes or progress.running or progress.shielded or not 0 < len(waits) <= MOST_WAITS:
            return
        if all(isinstance(wait, AwakeableWait | TimerWait) for wait in waits):
            self._kept[invocation_id] = (entries, waits)
            if len(self._kept) > MOST_SUSPENDED:
                del self._kept[next(iter(self._kept))]

    def take(self, invocation_id: str, entries: int) -> Progress | None:
        """What an invocation waits for, unless its journal has grown since; it is not kept any longer."""
        length, waits = self._kept.pop(invocation_id, (-1, ()))
        return Progress(blocked_on=waits) if length == entries else None


class StatelessAttempt:
    """The owner's half: it keeps the history and the last progress."""

    def __init__(
        self,
        origin: Origin,
        history: Sequence[Entry],
        *,
        post: Post,
        spawn: Spawn,
        suspended: SuspendedWaits,
    ) -> None:
        self._post = post
        self._spawn = spawn
        self._suspended = suspended
        self._last = Progress()
        self._origin = origin
        self._history = tuple(history)
        self._variables = copy_context()
        self._begins = True

    def advance(self, news: News) -> Progress | Awaitable[Progress]:
        """As the port says."""
        if not news.arrived and not news.cancel:
            invocation_id, entries = self._origin.invocation_id, len(self._history)
            if news.stop:
                # The handler was dropped with the last reply.
                if news.durable == entries:
                    self._suspended.keep(invocation_id, entries, self._last)
                return Progress(ended=Left(), open_awakeables=open_awakeables(self._history))
            if self._begins and (last := self._suspended.take(invocation_id, entries)) is not None:
                self._begins, self._last = False, last
                return last
        return self._variables.run(self._spawn, self._send(news), self._origin.invocation_id)

    async def _send(self, news: News) -> Progress:
        request = AdvanceRequest(origin=self._origin, history=self._history, news=news, begins=self._begins)
        self._begins = False
        self._last = progress = await self._post(request)
        self._history += progress.entries
        return progress

    @property
    def error(self) -> None:
        """None: an exception doesn't survive JSON; a reply has its kind, its message and its stack."""
        return

    def codec_of(self, awakeable_id: str) -> Codec[Any] | None:
        """None: the code is elsewhere."""
        return None

    def record(self, spans: Spans) -> None:
        """Nothing is recorded: the code is elsewhere."""

    def close(self, end: AttemptEnd = "left") -> None:
        """Nothing to release."""
