"""The function's side: an app's handlers, run for the services that send their journals."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import Executor
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from awakeables.core.ids import Ids
from awakeables.core.texts import message_of, shortened
from awakeables.errors import AwakeablesError, DeclarationError, FunctionLimitExceeded, NotFound
from awakeables.handlers.actions import ActionLimit
from awakeables.handlers.attempt import Broken, Crashed, Progress
from awakeables.handlers.execution import World
from awakeables.handlers.local import LocalAttempts, log_failed_run
from awakeables.handlers.serde import Codec
from awakeables.handlers.service import App, Handler
from awakeables.handlers.stateless import answer
from awakeables.ports import Clock, Entropy
from awakeables.remote.messages import (
    PROTOCOL,
    DescribedHandler,
    DescribedValue,
    Description,
    FunctionAnswer,
    FunctionRequest,
    decode_request,
    encode,
)
from awakeables.world import FollowingClock

if TYPE_CHECKING:
    from collections.abc import Coroutine

GRACE_S = 0.5
"""For what goes on when the actions of a request have had their time."""

CLOSE_S = 1.0
"""How long actions that were cancelled may take to end; what goes on after that is left alone."""


class RequestRefused(AwakeablesError):
    """What was sent is no request of this protocol; the message is for the caller."""


class Function:
    """Answers the requests of a service: rebuilds an attempt, runs it as far as it goes, and drops it.

    It keeps nothing between requests, so any number of processes may answer them.
    """

    def __init__(
        self,
        app: App,
        *,
        clock: Clock,
        entropy: Entropy,
        limit: timedelta,
        max_bytes: int,
        build: str,
        executor: Executor,
    ) -> None:
        """Prepare to answer; nothing is started.

        Args:
            app: Its handlers are run.
            clock: The machine's.
            entropy: Random bytes.
            limit: How long actions may take: one that takes longer has failed, and is executed again only if
                it has a `retry`, because it would take as long again. That is work for an awakeable.
            max_bytes: The most that a request, or an answer, may have.
            build: The version of the code, for people.
            executor: Runs blocking actions.

        Raises:
            DeclarationError: An argument has another form.
        """
        if not isinstance(limit, timedelta) or limit <= timedelta():
            raise DeclarationError(f"limit= is a timedelta above 0, not {limit!r}")
        self.max_bytes = max_bytes
        self._app = app
        self._clock = clock
        self._entropy = entropy
        self._build = build
        self._limit_s = limit.total_seconds()
        self._executor = executor
        self._warned: set[tuple[str, str]] = set()
        self._closing: set[asyncio.Future[None]] = set()

    @cached_property
    def description(self) -> bytes:
        """A `Description`, as JSON."""
        return description_of(self._app, limit_ms=round(self._limit_s * 1000), build=self._build)

    def close(self) -> None:
        """Release the threads; what they execute goes on to its end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def advance(self, body: bytes) -> bytes:
        """Answer a request.

        Args:
            body: A `FunctionRequest`, as JSON.

        Returns:
            A `FunctionAnswer`, as JSON.

        Raises:
            RequestRefused: It is no such request.
        """
        try:
            request = decode_request(body)
        except msgspec.ValidationError as error:
            if "$.advance.history" not in str(error):
                raise RequestRefused(f"it is no request of protocol {PROTOCOL}: {error}") from error
            why = f"the journal has an entry that this deployment of the function does not know: {error}"
            return self._answer(Progress(ended=Broken(kind="UnknownEntry", message=why)))
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise RequestRefused(f"it is not JSON: {error}") from error
        if request.protocol != PROTOCOL:
            raise RequestRefused(
                f"it is of protocol {request.protocol}, and this function speaks {PROTOCOL}: deploy it with "
                "the same release of awakeables as the service"
            )
        answered = self._answer(await self._progress(request))
        return answered if len(answered) <= self.max_bytes else self.too_large(len(answered))

    def too_large(self, size: int) -> bytes:
        """The answer instead of one of this size, which is more than is allowed."""
        why = f"the handler's answer has {size:,} bytes, and {self.max_bytes:,} are allowed"
        return self._answer(Progress(ended=Broken(kind="AnswerTooLarge", message=why)))

    def _answer(self, progress: Progress) -> bytes:
        return encode(FunctionAnswer(progress=progress, build=self._build))

    async def _progress(self, request: FunctionRequest) -> Progress:
        attempts = self._attempts(request)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                # The grace begins once the loop sees that the time is up: in a process that was frozen, all
                # due timers expire together, and this one would cut off an action that is to be repeated.
                grace = loop.call_later(self._limit_s, lambda: limit.reschedule(loop.time() + GRACE_S))
                try:
                    return await answer(attempts, request.advance)
                finally:
                    grace.cancel()
        except NotFound as error:
            # A deployment that has it may answer the next time.
            return Progress(ended=Crashed(kind="NotFound", message=message_of(error)))
        except TimeoutError:
            if not limit.expired():
                raise
            why = (
                f"the handler awaits something of asyncio's own for longer than the function's limit, "
                f"{self._limit_s:g} s: use ctx.sleep to wait, and an awakeable for what others do"
            )
            return Progress(ended=Broken(kind=FunctionLimitExceeded.__name__, message=why))
        finally:
            await self._end(attempts.close())

    def _attempts(self, request: FunctionRequest) -> LocalAttempts:
        clock = FollowingClock(self._clock)  # the service's: the two may differ
        clock.follow(request.advance.news.now_ms, 0.0)
        world = World(
            clock=clock,
            ids=Ids(clock.now_ms, self._entropy.bytes),
            app=request.app,
            reply_to=request.reply_to,
            max_entries=request.max_entries,
            max_actions=request.max_actions,
            revoke_to=request.revoke_to,
        )
        limit = ActionLimit(asyncio.get_running_loop().time() + self._limit_s, self._limit_s)
        return LocalAttempts(
            self._app, world, self._executor, log_failed_run, warned=self._warned, limit=limit
        )

    async def _end(self, closing: Coroutine[Any, Any, None]) -> None:
        """End the actions of a request, but do not wait for those that refuse to."""
        task = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        await asyncio.wait({task}, timeout=CLOSE_S)


def description_of(app: App, *, limit_ms: int = 0, build: str = "") -> bytes:
    """What a function of this app says of itself: a `Description`, as JSON."""
    handlers = tuple(map(_described, app.all_handlers()))
    return encode(Description(handlers=handlers, limit_ms=limit_ms, app=app.name, build=build))


MAX_DOC_CHARACTERS = 10_000


def _described(handler: Handler) -> DescribedHandler:
    return DescribedHandler(
        service=handler.service,
        name=handler.name,
        kind=handler.kind,
        version=handler.version,
        private=handler.private,
        input=_value(handler.input) if handler.takes_input else None,
        output=_value(handler.output),
        default=_default(handler),
        has_default=handler.has_default,
        doc=shortened(inspect.getdoc(handler.function) or "", MAX_DOC_CHARACTERS),
    )


def _value(codec: Codec[Any]) -> DescribedValue:
    written = codec.written
    return DescribedValue(
        kind=codec.kind,
        schema=UNSET if codec.schema is None else Raw(codec.schema),
        written=UNSET if written is None or written == codec.schema else Raw(written),
    )


def _default(handler: Handler) -> Raw | UnsetType:
    if not handler.has_default or handler.input.kind != "json":
        return UNSET
    try:
        return Raw(handler.input.resolution(handler.default).content)
    except Exception:  # a default is not validated, and a user's serializer may raise anything
        return UNSET
