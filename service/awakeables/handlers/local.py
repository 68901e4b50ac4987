"""Attempts whose handlers run in this process: coroutines that are driven by hand (ADR 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextvars import Context as Variables
from contextvars import copy_context
from typing import Any, TypeAlias

from msgspec.structs import replace

from awakeables.core.journal import Entry, RunAttemptFailed
from awakeables.core.outcomes import Cancellation, Rejection, Resolution
from awakeables.core.texts import described, loggable, message_of, type_of
from awakeables.errors import (
    AuthorError,
    HandlerMisuse,
    ReplayMismatch,
    ResultMisfit,
    Suspended,
    TerminalError,
)
from awakeables.handlers.actions import perform
from awakeables.handlers.attempt import (
    Attempt,
    Broken,
    Crashed,
    Ended,
    Finished,
    Left,
    News,
    Origin,
    Progress,
    Ready,
    Wait,
)
from awakeables.handlers.calls import Raised
from awakeables.handlers.context import Context
from awakeables.handlers.execution import Execution, RunCall, World, acting
from awakeables.handlers.rejections import rejection_of
from awakeables.handlers.serde import Codec, result_of
from awakeables.handlers.service import App, Handler
from awakeables.handlers.stepping import BLOCK, INSTEAD, Returned, close

Acted: TypeAlias = Resolution | Rejection | RunAttemptFailed | Crashed | Broken
"""How an action ended."""

RunFailed: TypeAlias = Callable[[Origin, str, BaseException, int, int | None], None]
"""Called with each failed attempt of an action: the invocation's attempt, the run's name, the error, the
number of failures, and the milliseconds to the next attempt (None: there is none)."""


class LocalAttempts:
    """Runs the handlers of one app in this process."""

    def __init__(
        self, app: App, world: World, executor: Executor, run_failed: RunFailed = lambda *_: None
    ) -> None:
        """Run blocking actions on `executor`, and report their failed tries to `run_failed`."""
        self.world = world
        self.executor = executor
        self.run_failed = run_failed
        self._app = app
        self._tasks: set[asyncio.Task[Any]] = set()

    def open(self, origin: Origin, history: Sequence[Entry], ready: Ready) -> Attempt:
        """As the port says."""
        handler = self._app.handler(origin.service, origin.handler)
        return LocalAttempt(self, handler, origin, history, ready)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str, variables: Variables) -> asyncio.Task[Any]:
        """Run an action, or what a handler awaits from asyncio, in a task that `close` cancels."""
        # The name identifies the handler to monitors of the loop.
        task = asyncio.get_running_loop().create_task(work, name=name, context=variables)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancel the tasks of handlers and actions, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(set(self._tasks))


class LocalAttempt:
    """One attempt: a coroutine that runs along a journal, and the actions that it started."""

    def __init__(
        self,
        attempts: LocalAttempts,
        handler: Handler,
        origin: Origin,
        history: Sequence[Entry],
        ready: Ready,
    ) -> None:
        self.error: BaseException | None = None
        self._attempts = attempts
        self._handler = handler
        self._origin = origin
        self._ready = ready
        self._execution = Execution(
            history, invocation_id=origin.invocation_id, world=attempts.world, on_misuse=ready
        )
        self._cancelled = len(history) > 1 and self._execution.replay.cancelled
        self._variables = copy_context()
        if acting.get() is not None:  # an action in this process began the invocation
            self._variables.run(acting.set, None)
        self._coroutine: Any = None
        self._begun = False
        self._owes = False
        self._calls_off: tuple[str, ...] = ()
        self._left = False
        self._because: Ended | None = None
        self._acting: set[int] = set()
        self._acted: dict[int, Acted] = {}

    # ── the port ───────────────────────────────────────────────────────────────────────────

    def advance(self, news: News) -> Progress | Awaitable[Progress]:
        """As the port says."""
        if news.cancel:
            self._execution.let_clean_up()
        if self._execution.broken is not None and not self._acting:
            return self._leave()
        if not self._begun:
            self._begun = True
            return self._leave() if news.stop else self._step(self._begin, None)
        goes_on, self._owes = self._owes or self._hand_out(news), False
        if goes_on and not news.stop:
            return self._step(self._coroutine.send, None)
        if goes_on or (news.stop and not self._acted):
            return self._leave()
        return self._attend_to_actions(news)

    def codec_of(self, awakeable_id: str) -> Codec[Any] | None:
        """As the port says."""
        return self._execution.codecs.get(awakeable_id)

    def close(self) -> None:
        """As the port says; a running action is not interrupted, but its result is dropped."""
        self._execution.ending = True
        self._acting.clear()
        if self._coroutine is not None:
            held, self._coroutine = [self._coroutine], None
            self._variables.run(close, held)

    # ── what is delivered to the handler ───────────────────────────────────────────────────

    def _hand_out(self, news: News) -> bool:
        """Journal one thing that resumes the handler, if there is one: a cancellation or an outcome."""
        execution = self._execution
        waiting = execution.waiting
        if news.cancel and not self._cancelled and not any(map(self._has_begun, waiting)):
            self._cancelled = True
            # Awakeables that are created from now on, to clean up, are not cancelled.
            self._calls_off = execution.replay.open_awakeables()
            execution.raise_cancellation()
            return True
        for index, outcome in news.arrived:
            if index in waiting:
                execution.replay.deliver(index, outcome)
                return True
        return False

    # ── driving the handler ────────────────────────────────────────────────────────────────

    def _begin(self, given: Any) -> Any:
        execution, handler = self._execution, self._handler
        context = Context(execution, attempt=self._origin.number)
        if not handler.takes_input or (handler.has_default and execution.replay.input.is_absent):
            self._coroutine = handler.call(context)
        else:
            self._coroutine = handler.call(context, context.decode_input(handler.input))
        return self._coroutine.send(given)

    def _step(self, resume: Callable[[Any], Any], given: Any) -> Progress | Awaitable[Progress]:
        """Step the handler until it waits for an outcome that is not in the history, or ends."""
        try:
            item = self._variables.run(self._execution.task.step, resume, given)
        except BaseException as error:
            self._coroutine = None  # it has ended, so there is nothing to close
            return self._progress(self._end_of(error))
        if item is BLOCK:
            execution = self._execution
            fine = execution.broken is None and not execution.ending and execution.waiting
            return self._progress(None if fine else self._why_blocked())
        return self._attempts.spawn(self._drive(item), self._origin.invocation_id, self._variables)

    async def _drive(self, item: Any) -> Progress:
        """As `_step`, in a task, while the handler awaits something from asyncio."""
        try:
            await self._execution.task.pass_on(self._coroutine, item)
        except BaseException as error:
            driver = asyncio.current_task()
            if type(error) is asyncio.CancelledError and driver is not None and driver.cancelling():
                raise
            return self._progress(self._end_of(error))
        return self._progress(self._why_blocked())

    def _leave(self) -> Progress | Awaitable[Progress]:
        """Unwind the handler at its await."""
        self._execution.ending = True
        if self._left or self._coroutine is None:
            return self._progress(self._unwound())
        self._left = True
        return self._step(self._coroutine.throw, Suspended())

    def _progress(self, ended: Ended | None) -> Progress:
        execution = self._execution
        if isinstance(ended, Left) and self._because is not None:
            ended = self._because
        awakeables, execution.new_awakeables = execution.new_awakeables, []
        effects, execution.new_effects = execution.new_effects, []
        cancels, self._calls_off = self._calls_off, ()
        schemas: dict[str, bytes] = {}
        for row in awakeables:
            codec = execution.codecs[row.id]
            if codec.schema_hash is not None and codec.schema is not None:
                schemas[codec.schema_hash] = codec.schema
        return Progress(
            entries=tuple(execution.replay.take_new()),
            awakeables=tuple(awakeables),
            schemas=tuple(schemas.items()),
            effects=tuple(effects),
            blocked_on=() if ended is not None or self._owes else self._blocked_on(),
            running=len(self._acting),
            ended=ended,
            cancels=cancels,
            open_awakeables=execution.replay.open_awakeables() if ended is not None else (),
        )

    def _blocked_on(self) -> tuple[Wait, ...]:
        execution = self._execution
        if not execution.runs:
            return tuple([execution.waits[index] for index in execution.waiting])
        waits = execution.blocked_on()
        return tuple(replace(wait, began=True) if self._has_begun(wait.index) else wait for wait in waits)

    # ── how it ends ────────────────────────────────────────────────────────────────────────

    def _end_of(self, error: BaseException) -> Ended:
        """How the attempt ends, given what the handler raised (`StopIteration`: it returned)."""
        try:
            raise error  # noqa: TRY301 - told apart by its class alone: an error may lie about itself
        except (StopIteration, Returned) as returned:
            return self._returned(returned.value)
        except Suspended:
            return self._unwound()
        except TerminalError as failure:
            return self._broke_off() or self._failed(failure)
        except AuthorError as mistake:
            return self._broke_off() or self._broken(mistake)
        except asyncio.CancelledError:
            return self._broke_off() or self._crashed(asyncio.CancelledError("the handler cancelled itself"))
        except BaseException as other:
            return self._raised(loggable(other))

    def _why_blocked(self) -> Ended | None:
        """Why a handler that yielded can't go on; None: it waits for something durable."""
        execution = self._execution
        if execution.broken is not None or execution.ending:
            return self._broke_off()
        if not execution.waiting:
            return self._broken(HandlerMisuse("the handler yielded without a durable future to wait for"))
        return None

    def _broken(self, error: AuthorError) -> Broken:
        self.error = error
        return Broken(kind=type_of(error), message=message_of(error))

    def _broke_off(self) -> Broken | None:
        """Why the attempt is over regardless of what the handler or action returned or raised."""
        if self._execution.broken is not None:
            return self._broken(self._execution.broken)
        return self._broken(HandlerMisuse(_SWALLOWED)) if self._execution.ending else None

    def _raised(self, error: BaseException) -> Ended:
        if isinstance(error, BaseExceptionGroup) and error.subgroup(Suspended):
            # A TaskGroup wraps Suspended as it passes through: it was not swallowed.
            return self._unwound()
        if isinstance(error, TypeError) and _raised_in(error) == "asyncio.tasks":
            # asyncio.wait refuses coroutines, and takes a durable future for one.
            refused = f"asyncio refused what the handler gave it ({message_of(error)})"
            self._execution.misuse(f"{refused}: {INSTEAD}")
        return self._broke_off() or self._crashed(error)

    def _crashed(self, error: BaseException) -> Crashed:
        self.error = error
        return Crashed(kind=type_of(error), message=message_of(error))

    def _unwound(self) -> Ended:
        if self._execution.broken is not None:
            return self._broken(self._execution.broken)
        if self._execution.ending:
            return Left()
        return self._broken(HandlerMisuse("the handler raised Suspended itself"))

    def _returned(self, value: Any) -> Ended:
        broken = self._broke_off() or self._incomplete()
        if broken is not None:
            return broken
        names = self._execution.unawaited()
        if names:
            return self._broken(HandlerMisuse(f"never awaited: {names}; put `await` before it"))
        try:
            return Finished(result=result_of(self._handler.output, value, by=f"handler {self._handler.name}"))
        except ResultMisfit as error:
            return self._broken(error)

    def _failed(self, error: TerminalError) -> Ended:
        incomplete = self._incomplete()
        if incomplete is not None:
            return incomplete
        if error is self._execution.cancellation:
            return Finished(result=Cancellation(reason=error.reason))
        return Finished(result=rejection_of(error))

    def _incomplete(self) -> Broken | None:
        try:
            self._execution.replay.finish()
        except ReplayMismatch as error:
            return self._broken(error)
        return None

    # ── actions ────────────────────────────────────────────────────────────────────────────

    def _has_begun(self, index: int) -> bool:
        return index in self._acting or index in self._acted

    def _attend_to_actions(self, news: News) -> Progress | Awaitable[Progress]:
        """Journal an action that has ended, or start those that may start now."""
        waiting = self._execution.waiting
        for index in waiting:
            if index in self._acted:
                return self._take_in(index, self._acted.pop(index), stop=news.stop)
        for index in waiting:
            self._start(index, news)
        return self._progress(None)

    def _take_in(self, index: int, acted: Acted, *, stop: bool) -> Progress | Awaitable[Progress]:
        """Journal how an action ended, in a commit before the handler goes on (J3)."""
        match acted:
            case RunAttemptFailed():
                self._execution.replay.retry(acted)
            case Crashed() | Broken():
                self._because = acted
                return self._leave()
            case _:
                self._execution.replay.deliver(index, acted)
                self._owes = True
        return self._leave() if stop else self._progress(None)

    def _start(self, index: int, news: News) -> None:
        run = self._execution.runs.get(index)
        if run is None or index in self._acting or news.durable <= index:
            return
        tried = self._execution.replay.failed_attempts.get(index)
        if tried is not None and news.now_ms < tried.retry_at_ms:
            return
        variables = self._variables.copy()
        variables.run(acting.set, run.name)
        # Before its task, which may begin at once (`asyncio.eager_task_factory`).
        self._acting.add(index)
        self._attempts.spawn(self._act(index, run, tried), self._origin.invocation_id, variables)

    async def _act(self, index: int, run: RunCall, tried: RunAttemptFailed | None) -> None:
        try:
            acted = await self._execute(index, run, tried)
        except Exception as error:  # it could not be executed, for example for want of a thread
            acted = self._crashed(error)
        if index in self._acting:
            self._acting.remove(index)
            self._acted[index] = acted
            self._ready()

    async def _execute(self, index: int, run: RunCall, tried: RunAttemptFailed | None) -> Acted:
        clock = self._attempts.world.clock
        began_ms = tried.began_ms if tried else clock.now_ms()
        try:
            result = await perform(run, self._attempts.executor)
        except ResultMisfit as misfit:
            return self._broken(misfit)
        if not isinstance(result, Raised):
            return result
        error = result.error
        if run.retry is None:
            return self._crashed(error)
        attempt = (tried.attempt if tried else 0) + 1
        pause_ms = run.retry.pause_ms(attempt)
        retry_at_ms = clock.now_ms() + (pause_ms or 0)
        if run.retry.is_over(began_ms, retry_at_ms):
            pause_ms = None
        self._attempts.run_failed(self._origin, run.name, error, attempt, pause_ms)
        if pause_ms is None:
            return Rejection(reason=f"run {run.name!r} failed {attempt} times, last with {described(error)}")
        return RunAttemptFailed(
            of=index, attempt=attempt, began_ms=began_ms, error=described(error), retry_at_ms=retry_at_ms
        )


_SWALLOWED = (
    "the handler caught Suspended, which ends the attempt: catch Exception, not BaseException, "
    "or raise it again"
)


def _raised_in(error: BaseException) -> str | None:
    """The name of the module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame.f_globals.get("__name__")
