"""The functions of an app's remote services: what they have, and whether they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from awakeables.core.backoff import Backoff
from awakeables.core.texts import described, excerpt, message_of
from awakeables.core.versions import target
from awakeables.errors import NotFound
from awakeables.handlers.attempt import Progress
from awakeables.handlers.remoteservice import RemoteService
from awakeables.handlers.service import App
from awakeables.ports import FunctionStatus
from awakeables.remote.client import FunctionClient, FunctionFailed
from awakeables.remote.described import FunctionMisfit, learn
from awakeables.remote.messages import FunctionAnswer, decode_answer
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics

log = structlog.stdlib.get_logger(__name__)

START_S = 60.0
"""How long a start waits for a function, which may have to start, too."""

PROBE_S = 1.0
MOST_PROBE_S = 30.0
"""How often a function that is down is asked whether it answers; half as often each time that it describes
itself and then fails again."""

ANSWERED = "answered"
"""The result of a request that did not fail, in metrics."""

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
        build: The version of its code when it was read last.
        answers: The version of the code that answered last.
        requests: How many requests are under way.
        pause_s: How long it is left alone before each probe, while it is down.
        pauses: The pauses of the times that it is down without an answer in between.
    """

    service: RemoteService
    places: asyncio.Semaphore
    trial: asyncio.Lock = field(default_factory=asyncio.Lock)
    failures: int = 0
    down: str | None = None
    build: str = ""
    answers: str = ""
    requests: int = 0
    pause_s: float = PROBE_S
    pauses: Backoff = field(default_factory=lambda: Backoff(PROBE_S, MOST_PROBE_S))


class Functions:
    """Sends requests to the functions of remote services; not to one that has failed again and again.

    While a function is down, its handlers are not claimed, so that their invocations wait as rows instead of
    using up their attempts. It is asked what it has until it answers; then it gets requests again.
    """

    def __init__(self, app: App, client: FunctionClient, metrics: Metrics | None = None) -> None:
        """Know the remote services of an app; nothing is asked before `learn_all`.

        Args:
            app: The app.
            client: Sends the requests.
            metrics: Where they are counted; by default a registry of its own.
        """
        self._client = client
        self._metrics = metrics or Metrics()
        self._states: Mapping[str, _State] = {
            service.name: _State(service, asyncio.Semaphore(service.max_concurrent))
            for service in app.services.values()
            if isinstance(service, RemoteService)
        }
        for name in self._states:  # an alarm can't see a series appear
            self._metrics.function_down.labels(name).set(0)
            self._metrics.function_requests.labels(name, ANSWERED)

    async def learn_all(self, *, patience_s: float = START_S) -> None:
        """Ask all functions what they have, and again while one does not answer.

        Raises:
            FunctionMisfit: One does not answer in time, refuses our requests, or has what can't be served.
            MissingDependency: What sends requests is not installed.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for state in self._states.values():
                    tasks.create_task(self._learn(state, patience_s))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def statuses(self) -> Sequence[FunctionStatus]:
        """As the port says."""
        return [_status(state) for state in self._states.values()]

    async def refresh(self, service: str) -> FunctionStatus:
        """As the port says."""
        state = self._states.get(service)
        if state is None:
            known = ", ".join(sorted(self._states)) or "none"
            raise NotFound(f"no remote service {excerpt(service)}; there are: {known}")
        try:
            await self._read_again(state)
        except FunctionFailed as failure:
            raise FunctionMisfit(message_of(failure)) from failure
        return _status(state)

    def unavailable(self) -> Sequence[str]:
        """The handlers whose functions are down, as `versions.target` names them."""
        down = [state.service for state in self._states.values() if state.down is not None]
        return [name for service in down for name in _targets(service)]

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
        state.requests += 1
        try:
            answer = _answer(state.service, await self._client.advance(state.service, body))
        except FunctionFailed as failure:
            self._metrics.function_requests.labels(state.service.name, failure.kind).inc()
            if not failure.lasting:
                self._failed(state, failure)
            raise
        finally:
            state.requests -= 1
        self._metrics.function_requests.labels(state.service.name, ANSWERED).inc()
        state.failures = 0
        state.pauses.reset()
        state.answers = answer.build
        return answer.progress

    async def _watch(self, state: _State, problems: MutableMapping[str, str]) -> None:
        name = f"function {state.service.name}"
        while True:
            if state.down is not None:
                problems[name] = state.down
                await asyncio.sleep(state.pause_s)
                await self._probe(state)
                continue
            problems.pop(name, None)
            await asyncio.sleep(PROBE_S)
            if state.down is None and state.answers != state.build:
                await self._follow(state)

    def _failed(self, state: _State, failure: FunctionFailed) -> None:
        state.failures += 1
        if state.failures >= FAILURES and state.down is None:
            state.down, state.pause_s = message_of(failure), state.pauses.next_s()
            self._metrics.function_down.labels(state.service.name).set(1)
            log.warning(events.FUNCTION_DOWN, service=state.service.name, reason=state.down)

    async def _probe(self, state: _State) -> None:
        state.down = await self._why_not_read(state)
        if state.down is not None:
            return
        # It still has its failures: if the first request fails, too, it is down again, and no other was sent.
        self._metrics.function_down.labels(state.service.name).set(0)
        log.info(events.FUNCTION_BACK, service=state.service.name)

    async def _follow(self, state: _State) -> None:
        """Read what a new deployment has, once one of its processes has answered."""
        answers = state.answers
        why = await self._why_not_read(state)
        if why is not None:
            log.warning(events.FUNCTION_NOT_READ, service=state.service.name, reason=why)
            state.build = answers  # not again before yet another answers

    async def _why_not_read(self, state: _State) -> str | None:
        """Read again what a function has; why that can't be done, or None: it is done."""
        try:
            await self._read_again(state)
        except (FunctionFailed, FunctionMisfit) as failure:
            return message_of(failure)
        except Exception as error:  # whatever it is, the others are to be looked after
            return f"what {state.service.url} says of itself can't be read: {described(error)}"
        return None

    async def _read_again(self, state: _State) -> None:
        self._learned(state, await self._client.describe(state.service), keeps=True)

    def _learned(self, state: _State, content: bytes, *, keeps: bool = False) -> None:
        service = state.service
        state.build = state.answers = learn(service, content, keeps=keeps).build
        log.info(
            events.FUNCTION_READ,
            service=service.name,
            url=service.url,
            build=state.build,
            handlers=sorted(service.handlers),
        )

    async def _learn(self, state: _State, patience_s: float) -> None:
        service = state.service
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
        self._learned(state, content)


def _status(state: _State) -> FunctionStatus:
    service = state.service
    return FunctionStatus(
        service=service.name,
        url=service.url,
        build=state.build,
        handlers=tuple(_targets(service)),
        requests=state.requests,
        problem=state.down,
    )


def _targets(service: RemoteService) -> list[str]:
    return [target(handler.service, handler.name, handler.version) for handler in service.all_handlers()]


def _answer(service: RemoteService, content: bytes) -> FunctionAnswer:
    try:
        return decode_answer(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        why = f"what answers at {service.url} is not a function of this release: {message_of(error)}"
        raise FunctionFailed("FunctionMisunderstood", why) from error
