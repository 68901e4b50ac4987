"""The functions of an app's remote services: what they have, and whether they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import structlog

from awakeables.core.texts import message_of
from awakeables.core.versions import target
from awakeables.handlers.remoteservice import RemoteService
from awakeables.handlers.service import App
from awakeables.remote.client import FunctionClient, FunctionFailed
from awakeables.remote.described import FunctionMisfit, learn
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

START_S = 60.0
"""How long a start waits for a function, which may have to start, too."""

PROBE_S = 1.0
"""How often a function that does not answer is asked whether it does."""

FAILURES = 5
"""So many requests in a row must fail before a function gets no more: a deployment drops one or two."""


@dataclass(slots=True)
class _State:
    service: RemoteService
    failures: int = 0
    down: str | None = None
    """Why it gets no requests; None: it gets them."""


class Functions:
    """Sends requests to the functions of remote services; not to one that has failed again and again.

    While a function is down, its handlers are not claimed, so that their invocations wait as rows instead of
    using up their attempts. It is asked what it has until it answers; then it gets requests again.
    """

    def __init__(self, app: App, client: FunctionClient) -> None:
        """Know the remote services of an app; nothing is asked before `learn_all`."""
        self._client = client
        self._states: Mapping[str, _State] = {
            service.name: _State(service)
            for service in app.services.values()
            if isinstance(service, RemoteService)
        }

    async def learn_all(self, *, patience_s: float = START_S) -> None:
        """Ask all functions what they have, and again while one does not answer.

        Raises:
            FunctionMisfit: One does not answer in time, or what it has can't be served.
        """
        await asyncio.gather(*(self._learn(state.service, patience_s) for state in self._states.values()))

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

    async def advance(self, service: RemoteService, body: bytes) -> bytes:
        """Invoke the function of a service.

        Raises:
            FunctionFailed: It is down, did not answer as it must, or the request is too large for it.
        """
        state = self._states[service.name]
        if state.down is not None:
            raise FunctionFailed("FunctionDown", state.down)
        try:
            content = await self._client.advance(service, body)
        except FunctionFailed as failure:
            if not failure.lasting:
                self._failed(state, failure)
            raise
        state.failures = 0
        return content

    async def run(self, problems: MutableMapping[str, str]) -> None:
        """Ask functions that are down whether they answer, until cancelled.

        Args:
            problems: The board on which they are shown.
        """
        while True:
            for state in self._states.values():
                if state.down is not None:
                    problems[f"function {state.service.name}"] = state.down
                    await self._probe(state)
                if state.down is None:
                    problems.pop(f"function {state.service.name}", None)
            await asyncio.sleep(PROBE_S)

    def _failed(self, state: _State, failure: FunctionFailed) -> None:
        state.failures += 1
        if state.failures >= FAILURES and state.down is None:
            state.down = message_of(failure)
            log.warning(events.FUNCTION_DOWN, service=state.service.name, reason=state.down)

    async def _probe(self, state: _State) -> None:
        try:
            learn(state.service, await self._client.describe(state.service))
        except (FunctionFailed, FunctionMisfit) as failure:
            state.down = message_of(failure)
            return
        state.failures, state.down = 0, None
        log.info(events.FUNCTION_BACK, service=state.service.name)

    async def _learn(self, service: RemoteService, patience_s: float) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + patience_s
        while True:
            try:
                content = await self._client.describe(service)
                break
            except FunctionFailed as failure:
                if clock() + PROBE_S > until:
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
