"""Waiting on behalf of a client: for the store, and for the end of an invocation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

from awakeables.api import Api
from awakeables.core.outcomes import Outcome
from awakeables.errors import Overloaded
from awakeables.web.problems import in_doubt
from awakeables.web.request import Request
from awakeables.web.settings import WebSettings

T = TypeVar("T")

UNWATCHED_S = 1.0
"""A wait this short is not worth a task that watches whether the client is still there."""


class Waiting:
    """Bounds every wait of a request; waits that a drain ends early are known here."""

    def __init__(self, api: Api, settings: WebSettings) -> None:
        self._api = api
        self._longest_s = settings.call_timeout.total_seconds()
        self._commit_s = settings.commit_timeout.total_seconds()
        self._open: set[asyncio.Timeout] = set()

    def drain(self) -> None:
        """Refuse calls from now on; answer those that wait, now."""
        self._api.drain()
        now_s = asyncio.get_running_loop().time()
        for patience in self._open:
            _end(patience, now_s)

    def admit(self) -> None:
        """Let a request in that begins an invocation.

        Raises:
            Overloaded: The service is stopping.
        """
        if self._api.draining:
            raise Overloaded("the service is stopping; try again")

    async def store(self, work: Awaitable[T], *, doubt: str = "try again") -> T:
        """Wait for the store, but not for ever.

        Args:
            work: Cancelled when the time is over, which undoes nothing.
            doubt: What a client is told then.

        Raises:
            Problem: It took too long.
        """
        try:
            async with asyncio.timeout(self._commit_s):
                return await work
        except TimeoutError:
            raise in_doubt(f"no answer from the store within {self._commit_s:g} s; {doubt}") from None

    async def result(self, request: Request, invocation_id: str) -> Outcome | None:
        """Wait for an invocation as long as the client wants and we allow.

        Returns:
            None: it has not ended in time or is paused, the client has gone, or the service is stopping.

        Raises:
            NotFound: There is no such invocation.
        """
        prefer = request.header(b"prefer")
        longest_s = self._longest_s if prefer is None else min(_wanted_s(prefer), self._longest_s)
        outcome = await self._patiently(invocation_id, min(longest_s, UNWATCHED_S))
        if outcome is not None or longest_s <= UNWATCHED_S or self._api.draining:
            return outcome
        return await self._patiently(invocation_id, longest_s - UNWATCHED_S, watched=request.receive)

    async def _patiently(
        self, invocation_id: str, longest_s: float, *, watched: Receive | None = None
    ) -> Outcome | None:
        watch: asyncio.Task[None] | None = None
        patience = asyncio.timeout(longest_s)
        try:
            async with patience:
                self._open.add(patience)
                if watched is not None:
                    watch = asyncio.get_running_loop().create_task(_watch(watched, patience))
                return await self._api.result_or_pause(invocation_id)
        except TimeoutError:
            return None
        finally:
            self._open.discard(patience)
            if watch is not None:
                watch.cancel()
                await asyncio.wait([watch])


async def _watch(receive: Receive, patience: asyncio.Timeout) -> None:
    """End a wait when its client goes away, so that waits of nobody don't pile up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    _end(patience, asyncio.get_running_loop().time())


def _end(patience: asyncio.Timeout, now_s: float) -> None:
    if not patience.expired():
        patience.reschedule(now_s)


def _wanted_s(prefer: str) -> float:
    """`wait=N` of a Prefer header (RFC 7240); what can't be read there is to be ignored."""
    for preference in prefer.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        digits = value.strip().strip('"')
        if name.strip().lower() == "wait" and digits.isascii() and digits.isdecimal():
            return float(digits[:9])
    return float("inf")
