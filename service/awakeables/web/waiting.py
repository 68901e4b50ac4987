"""Waiting on behalf of a client, for the store or for the end of an invocation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

from awakeables.api import Api, WaitingCall
from awakeables.core.outcomes import Outcome
from awakeables.core.replies import NotBegun, QueueFull
from awakeables.errors import QueueIsFull, RunNotBegun
from awakeables.web.deadlines import Deadline, Deadlines
from awakeables.web.problems import Problem, in_doubt
from awakeables.web.request import HttpRequest
from awakeables.web.settings import WebSettings

T = TypeVar("T")

UNWATCHED_S = 1.0
"""For a shorter wait, a task that watches for the client's disconnect costs more than it saves."""


class Waiting:
    """Limits every wait of a request."""

    def __init__(self, api: Api, settings: WebSettings) -> None:
        self._api = api
        self._longest_s = settings.call_timeout.total_seconds()
        self._commit_s = settings.commit_timeout.total_seconds()
        self._deadlines = Deadlines()

    async def store(self, work: Awaitable[T], *, doubt: str = "try again") -> T:
        """Wait for the store, for at most `commit_timeout`.

        Args:
            work: Cancelled when the time is over; that does not undo a commit.
            doubt: What the client should do then.

        Raises:
            Problem: It took too long.
        """
        try:
            with self.for_store():
                return await work
        except TimeoutError:
            raise self.no_answer(doubt) from None

    def for_store(self) -> Deadline:
        """The same as a block; when it raises `TimeoutError`, raise `no_answer`."""
        return self._deadlines.within(self._commit_s)

    def no_answer(self, doubt: str) -> Problem:
        """The problem for a request that the store did not answer in time."""
        return in_doubt(f"no answer from the store within {self._commit_s:g} s; {doubt}")

    async def call(self, request: HttpRequest, call: WaitingCall, *, doubt: str) -> Outcome | None:
        """Wait for the end of a call that was just begun; returns what `result` returns.

        Raises:
            Problem: The store did not confirm in time that the call has begun.
            QueueIsFull: The queue of the object's key is full, so the call has not begun.
            RunNotBegun: The workflow has no run of the key, so the call has not begun.
        """
        longest_s = self._longest_wait_s(request)
        first_s = min(longest_s, UNWATCHED_S)
        try:
            try:
                with self._deadlines.within(first_s):
                    outcome = await call.end
                    if outcome is not None:
                        return outcome
            except TimeoutError:
                pass
            try:
                # Nearly always the beginning was committed long ago. If not, the client can't be
                # answered 202 yet.
                with self._deadlines.within(max(0.0, self._commit_s - first_s)):
                    reply = await call.begun
            except TimeoutError:
                raise self.no_answer(doubt) from None
            # `call.end` raises these, too, but may have been cancelled when its time was over.
            if isinstance(reply, QueueFull):
                raise QueueIsFull("/".join(request.names[:2]), reply.length)
            if isinstance(reply, NotBegun):
                raise RunNotBegun("/".join(request.names[:2]))
        finally:
            self._api.leave(call)
        return await self._wait_on(request, call.id, longest_s)

    async def result(self, request: HttpRequest, invocation_id: str) -> Outcome | None:
        """Wait for an invocation as long as the client asks and `call_timeout` allows.

        Returns:
            None if it has not ended in time or is paused, the client has disconnected, or the service
            is stopping.

        Raises:
            NotFound: There is no such invocation.
        """
        longest_s = self._longest_wait_s(request)
        try:
            with self._deadlines.within(min(longest_s, UNWATCHED_S)):
                outcome = await self._api.result_or_pause(invocation_id)
                if outcome is not None:
                    return outcome
        except TimeoutError:
            pass
        return await self._wait_on(request, invocation_id, longest_s)

    async def _wait_on(self, request: HttpRequest, invocation_id: str, longest_s: float) -> Outcome | None:
        """Wait for the rest of the time, or until the client disconnects."""
        if longest_s <= UNWATCHED_S or self._api.draining:
            return None
        deadline = self._deadlines.within(longest_s - UNWATCHED_S)
        watch: asyncio.Task[None] | None = None
        try:
            with deadline:
                watch = asyncio.get_running_loop().create_task(_watch(request.receive, deadline))
                return await self._api.result_or_pause(invocation_id)
        except TimeoutError:
            return None
        finally:
            if watch is not None:
                watch.cancel()
                await asyncio.wait([watch])

    def _longest_wait_s(self, request: HttpRequest) -> float:
        prefer = request.header(b"prefer")
        return self._longest_s if prefer is None else min(_wanted_s(prefer), self._longest_s)


async def _watch(receive: Receive, deadline: Deadline) -> None:
    """End a wait when its client disconnects, so that abandoned waits don't accumulate."""
    while (await receive())["type"] != "http.disconnect":
        pass
    deadline.end()


def _wanted_s(prefer: str) -> float:
    """`wait=N` of a Prefer header (RFC 7240), which requires that unknown preferences are ignored."""
    for preference in prefer.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        digits = value.strip().strip('"')
        if name.strip().lower() == "wait" and digits.isascii() and digits.isdecimal():
            return float(digits[:9])
    return float("inf")
