"""The functions of an app's remote services: what they have, and whether they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from awakeables.core.backoff import Backoff
from awakeables.core.texts import described, message_of
from awakeables.core.versions import target
from awakeables.handlers.attempt import Progress
from awakeables.handlers.remoteservice import RemoteService
from awakeables.handlers.service import App
from awakeables.remote.client import FunctionClient, FunctionFailed
from awakeables.remote.described import FunctionMisfit, learn
from awakeables.remote.messages import decode_progress
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

START_S = 60.0
"""How long a start waits for a function, which may have to start, too."""

PROBE_S = 1.0
MOST_PROBE_S = 30.0
"""How often a function that is down is asked whether it answers; half as often each time that it describes
itself and then fails again."""

FAILURES = 5
"""How many requests in a row must fail before a function gets no more: a deployment drops one or two."""


class FunctionDown(Exception):
    """Nothing was sent, because requests before this one have failed."""


@dataclass(slots=True)
class _State:
    """What is known of one function.

    Attributes:
        places: For requests that are under way.
        trial: Held by the one request at a time that a function gets once it has failed `FAILURES` times.
        failures: How many requests in a row have failed.
        down: Why it gets no requests; None: it gets them.
        pause_s: How long it is left alone before each probe, while it is down.
        pauses: The pauses of the times that it is down without an answer in between.
    """

    service: RemoteService
    places: asyncio.Semaphore
    trial: asyncio.Lock = field(default_factory=asyncio.Lock)
    failures: int = 0
    down: str | None = None
    pause_s: float = PROBE_S
    pauses: Backoff = field(default_factory=lambda: Backoff(PROBE_S, MOST_PROBE_S))


class Functions:
    """Sends requests to the functions of remote services; not to one that has failed again and again.

    While a function is down, its handlers are not claimed, so that their invocations wait as rows instead of
    using up their attempts. It is asked what it has until it answers; then it gets requests again.
    """

    def __init__(self, app: App, client: FunctionClient) -> None:
        """Know the remote services of an app; nothing is asked before `learn_all`."""
        self._client = client
        self._states: Mapping[str, _State] = {
            service.name: _State(service, asyncio.Semaphore(service.max_concurrent))
            for service in app.services.values()
            if isinstance(service, RemoteService)
        }

    async def learn_all(self, *, patience_s: float = START_S) -> None:
        """Ask all functions what they have, and again while one does not answer.

        Raises:
            FunctionMisfit: One does not answer in time, refuses our requests, or has what can't be served.
            MissingDependency: What sends requests is not installed.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for state in self._states.values():
                    tasks.create_task(self._learn(state.service, patience_s))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def unavailable(self) -> Sequence[str]:
        """The handlers whose functions are down, as `versions.target` names them."""
        return [
            target(handler.service, handler.name, handler.version)
            for state in self._states.values()
            if state.down is not None
            for handler in state.service.all_handlers()
        ]

    async def advance(self, service: RemoteService, body: bytes) -> Progress:
        """Invoke the function of a service.

        Raises:
            FunctionDown: It is down; nothing was sent.
            FunctionFailed: It did not answer as it must, or the request is too large for it.
        """
        state = self._states[service.name]
        async with state.places:
            if state.failures < FAILURES:
                return await self._advance(state, body)
            async with state.trial:
                if state.failures >= FAILURES:
                    return await self._advance(state, body)
            return await self._advance(state, body)  # the trial has succeeded

    async def run(self, problems: MutableMapping[str, str]) -> None:
        """Ask functions that are down whether they answer, until cancelled.

        Args:
            problems: The board on which they are shown.
        """
        async with asyncio.TaskGroup() as tasks:
            for state in self._states.values():
                tasks.create_task(self._watch(state, problems))

    async def _advance(self, state: _State, body: bytes) -> Progress:
        if state.down is not None:
            raise FunctionDown
        try:
            content = await self._client.advance(state.service, body)
            progress = _progress(state.service, content)
        except FunctionFailed as failure:
            if not failure.lasting:
                self._failed(state, failure)
            raise
        state.failures = 0
        state.pauses.reset()
        return progress

    async def _watch(self, state: _State, problems: MutableMapping[str, str]) -> None:
        name = f"function {state.service.name}"
        while True:
            if state.down is None:
                problems.pop(name, None)
                await asyncio.sleep(PROBE_S)
                continue
            problems[name] = state.down
            await asyncio.sleep(state.pause_s)
            await self._probe(state)

    def _failed(self, state: _State, failure: FunctionFailed) -> None:
        state.failures += 1
        if state.failures >= FAILURES and state.down is None:
            state.down, state.pause_s = message_of(failure), state.pauses.next_s()
            log.warning(events.FUNCTION_DOWN, service=state.service.name, reason=state.down)

    async def _probe(self, state: _State) -> None:
        try:
            learn(state.service, await self._client.describe(state.service), keeps=True)
        except (FunctionFailed, FunctionMisfit) as failure:
            state.down = message_of(failure)
            return
        except Exception as error:  # whatever it is, the others are to be looked after
            state.down = f"what {state.service.url} says of itself can't be read: {described(error)}"
            return
        # It still has its failures: if the first request fails, too, it is down again, and no other was sent.
        state.down = None
        log.info(events.FUNCTION_BACK, service=state.service.name)

    async def _learn(self, service: RemoteService, patience_s: float) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + patience_s
        while True:
            try:
                content = await self._client.describe(service)
                break
            except FunctionFailed as failure:
                if failure.kind == "FunctionUnauthorized" or clock() + PROBE_S > until:
                    raise FunctionMisfit(message_of(failure)) from failure
                log.warning(events.FUNCTION_NOT_READ, service=service.name, reason=message_of(failure))
            await asyncio.sleep(PROBE_S)
        description = learn(service, content)
        log.info(
            events.FUNCTION_READ,
            service=service.name,
            url=service.url,
            build=description.build,
            handlers=sorted(service.handlers),
        )


def _progress(service: RemoteService, content: bytes) -> Progress:
    try:
        return decode_progress(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        why = f"what answers at {service.url} is not a function of this release: {message_of(error)}"
        raise FunctionFailed("FunctionMisunderstood", why) from error
