"""Attempts whose handlers run in this process: coroutines that are stepped by hand (ADR 4)."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor
from contextvars import Context as Variables
from contextvars import copy_context
from operator import attrgetter
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog
from msgspec.structs import replace

from awakeables.core.commands import NewCall
from awakeables.core.journal import Entry, Input, RunAttemptFailed
from awakeables.core.objects import StateWrite
from awakeables.core.outcomes import Cancellation, Rejection, Resolution
from awakeables.core.replay import Replay
from awakeables.core.texts import loggable, message_of, stack_of, type_of
from awakeables.errors import (
    AuthorError,
    Cancelled,
    HandlerMisuse,
    ReplayMismatch,
    ResultMisfit,
    Suspended,
    TerminalError,
)
from awakeables.handlers.actions import ActionLimit, execute
from awakeables.handlers.attempt import (
    MAX_TRACEBACK_CHARACTERS,
    AwakeableWait,
    Broken,
    Crashed,
    Ending,
    Finished,
    Left,
    News,
    Origin,
    Progress,
    Ready,
    RunWait,
    Wait,
)
from awakeables.handlers.calls import Raised, close, close_all_unbegun
from awakeables.handlers.current import current
from awakeables.handlers.execution import BLOCK, Execution, RunCall, World, acting
from awakeables.handlers.rejections import rejection_of
from awakeables.handlers.serde import Codec, result_of
from awakeables.handlers.service import App, Handler
from awakeables.handlers.standin import INSTEAD, HandlerTask
from awakeables.telemetry import events
from awakeables.telemetry.vocabulary import FAILED_ENDS, AttemptEnd
from awakeables.wire.traces import TRACEPARENT, TRACESTATE, known_traceparent, trace_of

if TYPE_CHECKING:
    from awakeables.telemetry.spans import AttemptSpan, Spans

log = structlog.stdlib.get_logger(__name__)

Acted: TypeAlias = Resolution | Rejection | RunAttemptFailed | Crashed | Broken
"""How an action ended."""

RunFailed: TypeAlias = Callable[[Origin, str, BaseException, int, int | None], None]
"""Called with each failed attempt of an action: the invocation's attempt, the run's name, the error, the
number of failures, and the milliseconds to the next attempt (None: there is none)."""


def log_failed_run(
    origin: Origin, name: str, error: BaseException, failures: int, retry_in_ms: int | None
) -> None:
    """Log a failed try of an action, with its stack: a `RunFailed`."""
    log.warning(
        events.RUN_FAILED,
        invocation_id=origin.invocation_id,
        service=origin.service,
        handler=origin.handler,
        run=name,
        failures=failures,
        retry_in_ms=retry_in_ms,
        exc_info=error,
    )


ActionOf: TypeAlias = Callable[[RunCall], Callable[..., Any]]
"""Chooses what a call of `ctx.run` executes."""

MAX_CLEAN_UPS = 100
"""How often a handler, and each of its branches, may await something from asyncio once its attempt is over or
the process stops. That is enough to clean up, and a loop that swallows the cancellation ends."""


class LocalAttempts:
    """Runs the handlers of one app in this process."""

    def __init__(
        self,
        app: App,
        world: World,
        executor: Executor,
        run_failed: RunFailed = lambda *_: None,
        *,
        action_of: ActionOf = attrgetter("action"),
        warned: set[tuple[str, str]] | None = None,
        limit: ActionLimit | None = None,
    ) -> None:
        """Prepare to run the handlers of an app.

        Args:
            app: Its handlers are run.
            world: What they share.
            executor: Runs blocking actions.
            run_failed: Called with each failed attempt of an action.
            action_of: What a call of `ctx.run` executes; tests replace some.
            warned: The handlers of which it was said that they await asyncio; added to. None: none yet.
            limit: How long actions may take; None: as long as they like.
        """
        self.world = world
        self.action_of = action_of
        self.executor = executor
        self.run_failed = run_failed
        self.limit = limit
        self.find = app.find
        self._app = app
        self._tasks: set[asyncio.Task[Any]] = set()
        self._warned = set() if warned is None else warned

    def open(self, origin: Origin, history: Sequence[Entry], ready: Ready) -> LocalAttempt:
        """As the port says."""
        given = history[0]
        assert isinstance(given, Input)
        handler = self._app.handler(origin.service, origin.handler, given.version)
        return LocalAttempt(self, handler, origin, history, ready)

    def unavailable(self) -> Sequence[str]:
        """As the port says: none."""
        return ()

    def spawn(
        self, work: Coroutine[Any, Any, Any], name: str, variables: Variables | None = None
    ) -> asyncio.Task[Any]:
        """Run an action, or a handler that awaits something from asyncio, in a task that `close` cancels.

        Args:
            work: What is run.
            name: The ID of its invocation.
            variables: The user's; none: `work` is not the user's code, and has a copy of the caller's.
        """
        # The name identifies the handler to monitors of the loop.
        task = asyncio.get_running_loop().create_task(work, name=name, context=variables)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def warn_of_asyncio(self, origin: Origin) -> None:
        """Warn that a handler awaits something of asyncio's own, once per handler."""
        name = (origin.service, origin.handler)
        if name not in self._warned:
            self._warned.add(name)
            log.warning(
                events.HANDLER_AWAITS_ASYNCIO,
                invocation_id=origin.invocation_id,
                service=origin.service,
                handler=origin.handler,
                todo="use ctx.sleep to wait, and put other code that awaits asyncio into ctx.run: what the "
                "handler awaits itself is awaited again by each replay, keeps it in memory, and doesn't "
                "survive a restart",
            )

    async def close(self) -> None:
        """Cancel the tasks of handlers and actions, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(set(self._tasks))


class LocalAttempt:
    """One attempt: a handler's coroutine, its execution, and the actions that it started."""

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
            history,
            invocation_id=origin.invocation_id,
            world=attempts.world,
            find=attempts.find,
            on_misuse=ready,
            exclusive=origin.exclusive,
        )
        self._stand_in = HandlerTask(self._execution)
        self._taken = len(history)
        self._changed: list[int] = []  # actions that have begun or failed since
        self._told: dict[int, None] | None = None  # what the last progress said that the handler waits for
        self._cancelled = len(history) > 1 and self._execution.replay.cancelled
        self._variables = copy_context()
        if acting.get() is not None:  # an action in this process began the invocation
            self._variables.run(acting.set, None)
        self._coroutine: Any = None
        self._begun = False
        self._owes = False
        self._left = False
        self._failure: TerminalError | None = None
        self._because: Ending | None = None
        self._acting: set[int] = set()
        self._acted: dict[int, Acted] = {}

    @property
    def replay(self) -> Replay:
        """The journal, and how far the handler has repeated it."""
        return self._execution.replay

    def advance(self, news: News) -> Progress | Awaitable[Progress]:
        """As the port says."""
        if news.cancel:
            self._execution.allow_cleanup()
        if self._execution.broken is not None and not self._acting:
            return self._leave()
        if self._because is not None and not self._left:
            return self._give_up(stop=news.stop)
        if not self._begun:
            self._begun = True
            return self._leave() if news.stop else self._step(self._begin, None)
        goes_on, self._owes = self._owes or self._hand_out(news), False
        if goes_on and not news.stop:
            return self._step(self._coroutine.send, None)
        if goes_on or (news.stop and not self._acted):
            self._take_in_unawaited()
            return self._leave()
        return self._attend_to_actions(news)

    @property
    def is_acting(self) -> bool:
        """Whether an action is being executed."""
        return bool(self._acting)

    def codec_of(self, awakeable_id: str) -> Codec[Any] | None:
        """As the port says."""
        return self._execution.codecs.get(awakeable_id)

    def record(self, spans: Spans) -> None:
        """As the port says."""
        execution, origin = self._execution, self._origin
        given = execution.replay.input
        of_caller = known_traceparent(given.headers.get(TRACEPARENT))
        own = trace_of(given.headers, given.seed).traceparent(origin.invocation_id)
        parent = {TRACEPARENT: of_caller or own}
        if of_caller is not None and TRACESTATE in given.headers:
            parent[TRACESTATE] = given.headers[TRACESTATE]
        execution.span = spans.attempt(
            parent,
            invocation_id=origin.invocation_id,
            service=origin.service,
            handler=origin.handler,
            number=origin.number,
            resumed=execution.replay.replaying or origin.number > 1,
        )
        execution.span.enter(self._variables)

    def close(self, end: AttemptEnd = "left") -> None:
        """As the port says; a running action is not interrupted, but its result is dropped."""
        execution = self._execution
        execution.ending = True
        if execution.combinators or execution.target is not None:
            execution.forget()
        if self._acting:
            self._abandon(end)
        if self._coroutine is not None:
            held, self._coroutine = [self._coroutine], None
            self._variables.run(close, held)
        if execution.branches is not None:
            execution.branches.close()
            execution.branches = None
        span, execution.span = execution.span, None
        if span is not None:
            # If an action that nobody waited for has failed, that is not how the attempt ended.
            span.ended(end, error=(self._failure or self.error) if end in FAILED_ENDS else None)
        self.error = self._failure = None  # whose tracebacks refer to this

    def _abandon(self, end: AttemptEnd) -> None:
        """Leave actions to their ends: what they return is not journaled."""
        names = [self._execution.runs[index].name for index in self._acting if index in self._execution.runs]
        self._acting.clear()
        log.info(
            events.RUNS_ABANDONED,
            invocation_id=self._origin.invocation_id,
            service=self._origin.service,
            handler=self._origin.handler,
            runs=names,
            end=end,
        )

    def _hand_out(self, news: News) -> bool:
        """Journal one thing that resumes the handler, if there is one: a cancellation or an outcome."""
        execution = self._execution
        waiting = execution.waiting
        if news.cancel and not self._cancelled and not self._is_shielded():
            self._cancelled = True
            # Awakeables that the handler creates later, to clean up, are not cancelled.
            execution.new_cancels += execution.replay.open_awakeables()
            execution.raise_cancellation()
            return True
        for index, outcome in news.arrived:
            if index in waiting:
                execution.replay.deliver(index, outcome)
                alone = execution.target is None and not execution.listeners and execution.branches is None
                if alone or execution.on_delivered(index):
                    if execution.span is not None:
                        wait = execution.waits.get(index)
                        execution.span.goes_on(wait.awakeable_id if isinstance(wait, AwakeableWait) else None)
                    return True
        return False

    def _is_shielded(self) -> bool:
        """Whether the invocation's cancellation can't be raised now."""
        execution = self._execution
        if execution.shields or self._because is not None:
            return True
        if execution.branches is not None:
            return execution.branches.handler_has_ended  # else each is interrupted when it can be
        return bool(execution.begun) and any(index in execution.waiting for index in execution.begun)

    def _begin(self, given: Any) -> Any:
        execution, handler = self._execution, self._handler
        context = handler.context(execution, attempt=self._origin.number)
        current.set((context, execution))
        if not handler.takes_input or (handler.has_default and execution.replay.input.is_absent):
            self._coroutine = handler.call(context)
        else:
            self._coroutine = handler.call(context, context.decode_input(handler.input))
        return self._coroutine.send(given)

    def _step(self, resume: Callable[[Any], Any], given: Any) -> Progress | Awaitable[Progress]:
        """Step the handler until it waits for an outcome that is not in the history, or ends.

        Args:
            resume: `send` or `throw` of its coroutine.
            given: The argument.

        Returns:
            The progress, or an awaitable of it if the handler awaits something from asyncio. To `_drive`:
            the progress if the handler has ended, otherwise what it yielded.
        """
        execution = self._execution
        stand_in: Any = self._stand_in
        loop, driver = asyncio.get_running_loop(), asyncio.current_task()
        is_driven = stand_in.real is not None
        try:
            if driver is not None:
                _leave_task(loop, driver)
            _enter_task(loop, stand_in)
            execution.thread = get_ident()
            try:
                item = resume(given) if is_driven else self._variables.run(resume, given)
            finally:
                execution.thread = 0
                _leave_task(loop, stand_in)
                if driver is not None:
                    _enter_task(loop, driver)
        except StopIteration as returned:
            self._coroutine = None  # it has ended, so there is nothing to close
            return self._progress(self._returned(returned.value))
        except BaseException as error:
            if is_driven and type(error) is asyncio.CancelledError and stand_in.real.cancelling():
                raise
            self._coroutine = None
            given = None  # it may be the error, whose traceback has this frame
            return self._progress(self._end_of(error))
        branches = execution.branches
        if branches is not None and item is BLOCK and not branches.drives:
            self._coroutine = branches.drive(self._coroutine)
            return self._step(self._coroutine.send, None)
        if is_driven:
            return item  # type: ignore[no-any-return]
        if item is BLOCK:
            fine = execution.broken is None and not execution.ending and execution.waiting
            return self._progress(None if fine else self._why_blocked())
        self._attempts.warn_of_asyncio(self._origin)
        return self._attempts.spawn(self._drive(item), self._origin.invocation_id, self._variables)

    async def _drive(self, item: Any) -> Progress:
        """Step the handler in a task, while it awaits something from asyncio, until it yields `BLOCK`."""
        execution = self._execution
        stand_in, driver = self._stand_in, asyncio.current_task()
        assert driver is not None
        stand_in.real = driver
        clean_ups = 0
        try:
            while item is not BLOCK and clean_ups < MAX_CLEAN_UPS * self._fibers():
                try:
                    sent = await stand_in.awaiting(item)
                except BaseException as error:
                    item = self._step(self._coroutine.throw, error)
                else:
                    item = self._step(self._coroutine.send, sent)
                if isinstance(item, Progress):
                    return item
                clean_ups += driver.cancelling() > 0 or execution.is_over
            if driver.cancelling():
                # The handler swallowed the cancellation and went on.
                raise asyncio.CancelledError
        finally:
            stand_in.real = None
        return self._progress(self._why_blocked())

    def _fibers(self) -> int:
        """How many coroutines may clean up: the handler's, and those of its branches."""
        branches = self._execution.branches
        return 1 if branches is None else branches.count

    def _leave(self) -> Progress | Awaitable[Progress]:
        """Unwind the handler at its await."""
        self._execution.ending = True
        if self._left or self._coroutine is None:
            return self._progress(self._unwound())
        self._left = True
        return self._step(self._coroutine.throw, Suspended())

    def _progress(self, ended: Ending | None) -> Progress:
        """What is new since the last progress."""
        execution = self._execution
        if isinstance(ended, Left) and self._because is not None:
            ended = self._because
        entries = execution.replay.entries
        new, self._taken = entries[self._taken :], len(entries)
        awakeables, execution.new_awakeables = execution.new_awakeables, []
        effects, execution.new_effects = execution.new_effects, []
        calls: tuple[NewCall, ...] = ()
        called_off: tuple[str, ...] = ()
        if execution.new_called_off:
            called_off, execution.new_called_off = tuple(execution.new_called_off), []
        if execution.new_calls:
            calls, execution.new_calls = tuple(execution.new_calls), []
        writes: tuple[StateWrite, ...] = ()
        if execution.new_writes:
            writes, execution.new_writes = tuple(execution.new_writes), []
        schemas: tuple[tuple[str, bytes], ...] = ()
        if execution.new_schemas:
            schemas, execution.new_schemas = tuple(execution.new_schemas.items()), {}
        cancels, execution.new_cancels = tuple(execution.new_cancels), []
        is_held = execution.shields > 0 or len(execution.begun) > 0 or execution.branches is not None
        new_waits = () if execution.branches is None else execution.branches.take_new()
        blocked_on: tuple[Wait, ...] = ()
        waits_on = False
        no_longer: tuple[int, ...] = ()
        if ended is None and self._acted and self._because is None:
            self._ready()  # another call is to journal how these actions ended
        if ended is None and self._because is not None:
            self._told = None
            blocked_on = tuple([self._wait_at(index) for index in self._awaited_actions()])
        elif ended is None and (
            not self._owes or (execution.branches is not None and self._told is execution.waiting)
        ):
            told, self._told = self._told, execution.waiting
            is_told = told is execution.waiting
            waits: Iterable[int] = execution.waiting
            if is_told:
                waits_on = True
                no_longer = tuple(execution.no_longer)
                waits = new_waits
                if self._changed:
                    waits = [*waits, *(index for index in self._changed if index in execution.waiting)]
            wait_at = self._wait_at if execution.runs else execution.waits.__getitem__
            blocked_on = tuple(map(wait_at, waits))
        else:
            self._told = None
        if self._changed:
            self._changed = []
        if execution.no_longer:
            execution.no_longer = []  # told, or not among what is told now
        return Progress(
            entries=tuple(new),
            awakeables=tuple(awakeables),
            schemas=schemas,
            effects=tuple(effects),
            blocked_on=blocked_on,
            owes=self._owes,
            running=len(self._acting) + len(self._acted),
            ended=ended,
            shielded=is_held and self._is_shielded(),
            cancels=cancels,
            open_awakeables=execution.replay.open_awakeables() if ended is not None else (),
            calls=calls,
            called_off=called_off,
            writes=writes,
            waits_on=waits_on,
            no_longer=no_longer,
        )

    def _wait_at(self, index: int) -> Wait:
        run = self._execution.runs.get(index)
        if run is None:
            return self._execution.waits[index]
        last_failure = self._execution.replay.failed_attempts.get(index)
        due_ms = None if last_failure is None else last_failure.retry_at_ms
        return RunWait(index=index, name=run.name, began=index in self._execution.begun, due_ms=due_ms)

    def _end_of(self, error: BaseException) -> Ending:
        """How the attempt ends with what the handler raised."""
        close_all_unbegun(error)
        try:
            raise error  # noqa: TRY301 - an error may fake its `__class__`, which `except` ignores
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
        finally:
            del error  # else it and its traceback refer to each other

    def _why_blocked(self) -> Ending | None:
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

    def _raised(self, error: BaseException) -> Ending:
        if isinstance(error, BaseExceptionGroup) and error.subgroup(Suspended):
            # A TaskGroup wraps Suspended as it passes through: it was not swallowed.
            return self._unwound()
        if isinstance(error, TypeError) and _raised_in(error) == "asyncio.tasks":
            # asyncio.wait refuses coroutines, and takes a durable future for one.
            refused = f"asyncio refused what the handler gave it ({message_of(error)})"
            self._execution.misuse(f"{refused}: {INSTEAD}")
        if isinstance(error, RuntimeError) and str(error) == "cannot reuse already awaited coroutine":
            twice = "a coroutine was awaited twice, or passed to a combinator and awaited as well"
            self._execution.misuse(f"{twice}; await what the combinator returned, or call its function again")
        return self._broke_off() or self._crashed(error)

    def _crashed(self, error: BaseException) -> Crashed:
        self.error = error
        return Crashed(kind=type_of(error), message=message_of(error), traceback=_traceback_of(error))

    def _unwound(self) -> Ending:
        if self._execution.broken is not None:
            return self._broken(self._execution.broken)
        if self._execution.ending:
            return Left()
        return self._broken(HandlerMisuse("the handler raised Suspended itself"))

    def _returned(self, value: Any) -> Ending:
        execution = self._execution
        if execution.broken is not None or execution.ending or execution.replay.replaying:
            broken = self._broke_off() or self._incomplete()
            if broken is not None:
                return broken
        if execution.unawaited:
            names = ", ".join(execution.unawaited.values())
            return self._broken(HandlerMisuse(f"never awaited: {names}; put `await` before it"))
        try:
            return Finished(result=result_of(self._handler.output, value, by=f"handler {self._handler.name}"))
        except ResultMisfit as error:
            return self._broken(error)

    def _failed(self, error: TerminalError) -> Ending:
        incomplete = self._incomplete()
        if incomplete is not None:
            return incomplete
        cancelled = self._execution.cancellation
        if cancelled is not None and isinstance(error, Cancelled) and error.own:  # it may be a branch's
            return Finished(result=Cancellation(reason=cancelled.reason))
        self._failure = error
        return Finished(result=rejection_of(error))

    def _incomplete(self) -> Broken | None:
        try:
            self._execution.replay.finish()
        except ReplayMismatch as error:
            return self._broken(error)
        return None

    def _attend_to_actions(self, news: News) -> Progress | Awaitable[Progress]:
        """Journal an action that has ended, or start those that may start now."""
        waiting = self._execution.waiting
        for index, acted in self._acted.items():
            if isinstance(acted, Crashed | Broken) and index in waiting:
                self._because = acted
                return self._give_up(stop=news.stop)
        for index in self._acted:
            if index in waiting:
                return self._take_in(index, self._acted.pop(index), stop=news.stop)
        self._take_in_unawaited()
        if news.stop:
            return self._leave()
        runs = self._execution.runs
        free = self._attempts.world.max_actions - len(self._awaited_actions()) if runs else 0
        if free > 0:  # else the end of one lets the next begin
            few, many = (runs, waiting) if len(runs) < len(waiting) else (waiting, runs)
            for index in [index for index in few if index in many]:
                free -= self._start(index, news)
                if not free:
                    break
        return self._progress(None)

    def _take_in_unawaited(self) -> None:
        """Journal how actions ended whose outcomes are not handed out: most have lost a race."""
        for index, acted in self._acted.items():
            if isinstance(acted, Resolution | Rejection):
                self._execution.replay.end_run(index, acted)
            elif isinstance(acted, RunAttemptFailed):
                self._execution.replay.retry(acted)
        self._execution.begun.difference_update(self._acted)
        self._acted.clear()

    def _take_in(self, index: int, acted: Acted, *, stop: bool) -> Progress | Awaitable[Progress]:
        """Journal how an action ended, in a commit before the handler goes on (J3)."""
        self._execution.begun.discard(index)
        match acted:
            case RunAttemptFailed():
                self._execution.replay.retry(acted)
                self._changed.append(index)
                branches = self._execution.branches
                self._owes = branches is not None and branches.has_to_interrupt()
            case Resolution() | Rejection():
                self._execution.replay.deliver(index, acted)
                self._owes = self._execution.on_delivered(index)
        if stop:
            self._take_in_unawaited()
            return self._leave()
        return self._progress(None)

    def _awaited_actions(self) -> list[int]:
        """The actions that the handler awaits and that are being executed."""
        return [index for index in self._acting if index in self._execution.waiting]

    def _give_up(self, *, stop: bool) -> Progress | Awaitable[Progress]:
        """End the attempt for an action that has failed, once those beside it have ended: they count.

        One that nobody awaits any more may hang; it is left to its end.
        """
        if self._awaited_actions() and not stop:
            return self._progress(None)
        waiting = self._execution.waiting
        failed = [index for index, acted in self._acted.items() if isinstance(acted, Crashed | Broken)]
        assert isinstance(self._because, Crashed | Broken)
        self._because = replace(self._because, of=tuple(sorted(each for each in failed if each in waiting)))
        self._take_in_unawaited()
        return self._leave()

    def _start(self, index: int, news: News) -> bool:
        """Begin to execute an action, if that may be now; return whether it has begun."""
        run = self._execution.runs.get(index)
        if run is None or index in self._acting or news.durable <= index:
            return False
        last_failure = self._execution.replay.failed_attempts.get(index)
        if last_failure is not None and news.now_ms < last_failure.retry_at_ms:
            return False
        variables = (run.variables or self._variables).copy()
        variables.run(acting.set, run.name)
        # Before its task, which may begin at once (`asyncio.eager_task_factory`).
        self._acting.add(index)
        self._changed.append(index)
        self._execution.begun.add(index)
        action = self._act(index, run, last_failure, self._execution.span)
        self._attempts.spawn(action, self._origin.invocation_id, variables)
        return True

    async def _act(
        self, index: int, run: RunCall, last_failure: RunAttemptFailed | None, parent: AttemptSpan | None
    ) -> None:
        attempts = self._attempts
        acted: Acted | Raised
        errors: list[BaseException] = []
        # Not before its task has begun, which may be cancelled before it does.
        span = None if parent is None else parent.run(run.name)
        try:
            acted = await execute(
                dataclasses.replace(run, action=attempts.action_of(run)),
                index,
                last_failure,
                clock=attempts.world.clock,
                executor=attempts.executor,
                failed=functools.partial(attempts.run_failed, self._origin, run.name),
                raised=errors.append,
                limit=attempts.limit,
            )
        except AuthorError as mistake:
            errors.append(mistake)
            acted = self._broken(mistake)
        except Exception as error:  # it could not be executed, for example because no thread could start
            errors.append(error)
            acted = self._crashed(error)
        except asyncio.CancelledError as stopped:
            errors.append(stopped)
            raise
        finally:
            if span is not None:
                span.ended(error=errors[0] if errors else None)
        if isinstance(acted, Raised):
            acted = self._crashed(acted.error)
        if index in self._acting:
            self._acting.remove(index)
            self._acted[index] = acted
            self._ready()


_SWALLOWED = (
    "the handler caught Suspended, which ends the attempt: catch Exception, not BaseException, "
    "or raise it again"
)


def _traceback_of(error: BaseException) -> str:
    """The stack of an error, without the beginning if it is long: its last frames say most."""
    stack = stack_of(loggable(error))
    if len(stack) <= MAX_TRACEBACK_CHARACTERS:
        return stack
    return "…\n" + stack[2 - MAX_TRACEBACK_CHARACTERS :].partition("\n")[2]


def _raised_in(error: BaseException) -> str | None:
    """The name of the module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame.f_globals.get("__name__")


# Documented for implementers of tasks (asyncio-extending).
_enter_task: Callable[[asyncio.AbstractEventLoop, asyncio.Task[Any]], None] = asyncio.tasks._enter_task
_leave_task: Callable[[asyncio.AbstractEventLoop, asyncio.Task[Any]], None] = asyncio.tasks._leave_task
