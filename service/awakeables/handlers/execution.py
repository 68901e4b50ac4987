"""One attempt of a handler: driven along its journal until it ends or must wait.

The execution sees no store and no network. Its owner calls `step()`; the answer says what the
handler waits for, or how it ended. What came new on the way (`take()`) is the owner's to commit;
an outcome is handed in with `deliver()`. The same three verbs can be spoken over a wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from awakeables.core.awakeables import Completion
from awakeables.core.ids import Ids
from awakeables.core.invocations import CANCELLED
from awakeables.core.journal import CancelRaised, Entry, Tried, encode_chunk
from awakeables.core.orders import Effect, NewAwakeable
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, Resolution
from awakeables.core.replay import Replay
from awakeables.core.texts import loggable, message_of
from awakeables.errors import (
    AuthorError,
    Cancelled,
    HandlerMisuse,
    ReplayMismatch,
    ResultMisfit,
    Suspended,
    TerminalError,
)
from awakeables.handlers.rejections import rejection_of
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import Codec, result_of
from awakeables.handlers.stepping import BLOCK, INSTEAD, HandlerTask, Returned, close
from awakeables.ports import Clock

NOWHERE = -1
"""The index of what is asked for when the attempt is over: it is in no journal, and has no outcome."""

MOST_REMINDERS = 10
"""How often an attempt that is over raises `Suspended` again: once for each `finally` that it passes. A loop
that swallows it reaches this number, too."""


@dataclass(frozen=True, slots=True)
class AwakeableWait:
    """The handler waits for the answer to an awakeable, which its codec reads."""

    index: int
    awakeable_id: str
    codec: Codec[Any] = field(compare=False)


@dataclass(frozen=True, slots=True)
class SleepWait:
    """The handler sleeps until an instant."""

    index: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class RunWait:
    """The handler waits for a side effect, which its owner is to execute (`actions.perform`)."""

    index: int
    name: str
    action: Callable[[], Any]
    codec: Codec[Any]
    retry: RetryPolicy | None
    tried: Tried | None


@dataclass(frozen=True, slots=True)
class SettleWait:
    """The handler waits for the verdict over a completion of its own."""

    index: int
    completion: Completion


Wait: TypeAlias = AwakeableWait | SleepWait | RunWait | SettleWait


@dataclass(frozen=True, slots=True)
class Finished:
    """It returned, or raised a `TerminalError`."""

    result: Resolution | Rejection | Cancellation


@dataclass(frozen=True, slots=True)
class Crashed:
    """It raised something else: the attempt failed and can be tried again."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Broken:
    """It can't go on with this code: park it."""

    error: AuthorError


@dataclass(frozen=True, slots=True)
class Left:
    """It was told to let go at its await, and did."""


Step: TypeAlias = Wait | Finished | Crashed | Broken | Left


@dataclass(frozen=True, slots=True)
class Taken:
    """What is to be committed: entries, and the rows and records that they speak of.

    Attributes:
        codecs: How the answers to the new awakeables are read, by their IDs.
    """

    entries: list[Entry]
    awakeables: list[NewAwakeable]
    effects: list[Effect]
    codecs: dict[str, Codec[Any]]

    @property
    def schemas(self) -> dict[str, bytes]:
        """The JSON Schemas that the new awakeables name, by their hashes."""
        known = self.codecs.values()
        return {codec.schema_hash: codec.schema for codec in known if codec.schema_hash and codec.schema}

    def __bool__(self) -> bool:
        return bool(self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What an execution is given of the world.

    Attributes:
        max_entries: A journal that is this long takes no more operations.
    """

    clock: Clock
    ids: Ids
    app: str
    reply_to: str
    max_entries: int = 100_000


class Execution:
    """A coroutine on its way along a journal.

    Attributes:
        cancelled: Was the invocation's cancellation raised, or does history tell that it will be?
        acting: The name of the run whose action is under way: nobody may use the context.
        on_misuse: Called when something is misused, maybe while the handler waits.
    """

    def __init__(
        self,
        begin: Callable[[Execution], Awaitable[Any]],
        history: Sequence[Entry],
        *,
        invocation_id: str,
        output: Codec[Any],
        world: World,
    ) -> None:
        """Prepare an attempt; `begin` makes the handler's coroutine."""
        self.invocation_id = invocation_id
        self.replay = Replay(history)
        self.world = world
        self._output = output
        self._max_entries = world.max_entries
        self._coroutine: Any = begin(self)
        self._started = False
        self._ending = False
        self._left = False
        self._broken: AuthorError | None = None
        self.cancelled = self.replay.cancelled
        self.acting: str | None = None
        self.on_misuse: Callable[[], object] = lambda: None
        self._cancelling: CancelRaised | None = None
        self._cancellation: Cancelled | None = None
        self._task = HandlerTask(self)
        self._reminders = 0
        self._waits: dict[int, Wait] = {}
        self._unawaited: dict[int, str] = {}
        self._waiting: int | None = None
        self._awakeables: list[NewAwakeable] = []
        self._effects: list[Effect] = []
        self._codecs: dict[str, Codec[Any]] = {}

    # ── for the owner ──────────────────────────────────────────────────────────────────────

    async def step(self) -> Step:
        """Drive the handler until it waits for something that history does not tell, or ends."""
        return await self._drive(self._resume)

    async def leave(self) -> Step:
        """Unwind the handler at its await; `Left`, or `Broken` if it would not go."""
        if self._left:
            return Left()
        self._left = True
        self._ending = True
        return await self._drive(lambda: self._coroutine.throw(Suspended()))

    def close(self) -> None:
        """The attempt is over, however it ended: free what is left of the handler."""
        self._ending = True
        coroutine, self._coroutine = self._coroutine, None
        close(coroutine)

    def deliver(self, index: int, outcome: Outcome) -> None:
        """Hand in the outcome that the handler waits for; the next `step` goes on from it."""
        self.replay.deliver(index, outcome)

    def cancel(self) -> None:
        """Raise `Cancelled` at the await that the handler is at; once in an invocation's life."""
        self.cancelled = True
        self._cancelling = CancelRaised(reason=CANCELLED)
        self.replay.cancel(self._cancelling)

    def let_clean_up(self) -> None:
        """The invocation was cancelled: its journal may grow by a tenth more, to be told and to undo."""
        self._max_entries = self.world.max_entries * 11 // 10

    def retry_later(self, tried: Tried) -> None:
        """Note that a run failed and is to be tried again; the next `step` asks for it again."""
        self.replay.retry(tried)

    def take(self) -> Taken:
        """What is new since the last call, to be committed."""
        taken = Taken(self.replay.take_new(), self._awakeables, self._effects, self._codecs)
        self._awakeables, self._effects, self._codecs = [], [], {}
        return taken

    def open_awakeables(self) -> tuple[str, ...]:
        """The awakeables of this invocation whose outcome the handler was not given."""
        return self.replay.open_awakeables()

    def codec_of(self, awakeable_id: str) -> Codec[Any] | None:
        """How the answer to an awakeable is read, if the handler has come by the line that asks for it."""
        for wait in self._waits.values():
            if isinstance(wait, AwakeableWait) and wait.awakeable_id == awakeable_id:
                return wait.codec
        return None

    # ── for the context ────────────────────────────────────────────────────────────────────

    @property
    def is_over(self) -> bool:
        """Has the attempt ended, so that nothing that the handler does counts?"""
        return self._ending or self._broken is not None

    def check(self) -> None:
        """Refuse to do anything in an action, for a handler that should have ended, or from another task."""
        if self.acting is not None:
            # First, and whatever else is wrong: an action must never meet Suspended.
            raise self._in_action(self.acting)
        if self.is_over:
            if self._is_to_be_reminded():
                raise Suspended
        elif self._started and _current_task() is not self._task:
            raise self.misuse(f"the context was used from another asyncio task or thread: {INSTEAD}")

    def _is_to_be_reminded(self) -> bool:
        """Shall `Suspended` be raised in a handler that goes on although its attempt is over?

        For a bounded number of times: a loop that swallows it would never let go of the event loop.
        After that calls have no effect, so that the loop reaches an await, and stays there.
        """
        self._reminders += 1
        return self._reminders <= MOST_REMINDERS

    def _in_action(self, name: str) -> HandlerMisuse:
        return self.misuse(
            f"the context was used inside an action of ctx.run({name!r:.80}), which is journaled "
            "as a whole: ask for it before ctx.run and hand it in as an argument, or do it afterwards; "
            "only ctx.request and ctx.log may be used inside"
        )

    def handed_to_asyncio(self) -> BaseException:
        """A durable future became a task, or was to be: an error to raise there."""
        if self.acting is not None:
            return self._in_action(self.acting)
        if self.is_over:
            return asyncio.CancelledError()  # of which asyncio does not complain if nobody looks
        return self.misuse(f"a durable future was handed to asyncio: {INSTEAD}")

    def misuse(self, message: str) -> HandlerMisuse:
        """An error to raise in the handler; even if it is swallowed there, the invocation is parked."""
        error = HandlerMisuse(message)
        self._broken = self._broken or error
        self.on_misuse()
        return error

    def break_off(self, error: AuthorError) -> Suspended:
        """End the attempt for an error that the handler must not see; raise what is returned."""
        self._broken = self._broken or error
        return Suspended()

    def ask(self, op: Any) -> tuple[int, Any]:
        """Match an operation with history; its index, and the operation as first asked for."""
        self.check()
        if self.is_over:
            return NOWHERE, op
        if not self.replaying:
            try:
                encode_chunk([op])
            except UnicodeEncodeError as error:
                raise self.misuse(f"a name that is no UTF-8 can't be kept in the journal: {error}") from None
            if len(self.replay) >= self._max_entries:
                raise self.misuse(
                    f"the journal has {len(self.replay):,} entries, the most that one invocation may have "
                    "(AWAKEABLES_MAX_JOURNAL_ENTRIES): split its work into several invocations"
                )
        try:
            return self.replay.ask(op)
        except ReplayMismatch as error:
            raise self.break_off(error) from None

    @property
    def replaying(self) -> bool:
        return self.replay.replaying

    def add_awakeable(self, row: NewAwakeable, codec: Codec[Any]) -> None:
        if self.is_over:
            return
        self._awakeables.append(row)
        self._codecs[row.id] = codec

    def add_effect(self, effect: Effect) -> None:
        if not self.is_over:
            self._effects.append(effect)

    def expect(self, wait: Wait, *, must: str | None = None) -> None:
        """Note what an operation waits for; `must` names one that has to be awaited."""
        self._waits[wait.index] = wait
        if must is not None:
            self._unawaited[wait.index] = must

    def wait(self, index: int) -> Generator[Any, Any, Outcome]:
        """The outcome of an operation, waited for if need be (called by durable futures)."""
        if self.acting is not None or self.is_over:
            yield from self._wait_in_vain()
        self.check()
        self._unawaited.pop(index, None)
        outcomes = self.replay.outcomes
        while index not in outcomes:
            try:
                recalled = self.replay.recall((index,))
            except ReplayMismatch as error:
                raise self.break_off(error) from None
            if recalled is None:
                self._waiting = index
                yield BLOCK
                recalled, self._cancelling = self._cancelling, None
            if isinstance(recalled, CancelRaised):
                self._cancellation = Cancelled(recalled.reason)
                raise self._cancellation
        return outcomes[index]

    def _wait_in_vain(self) -> Generator[Any, Any, None]:
        """Await what is never handed out: in an action, or when the attempt is over.

        A handler that swallows what is raised and comes here repeatedly must release the event loop: the
        handler stays here until it is closed, a task or an action of its own sleeps between two tries.
        """
        while not self._is_to_be_reminded():
            if _current_task() in (self._task, None):  # None: it is being closed when no loop runs any more
                yield BLOCK
            else:
                yield from asyncio.sleep(1).__await__()
                break
        raise self._in_action(self.acting) if self.acting is not None else Suspended()

    # ── driving ────────────────────────────────────────────────────────────────────────────

    def _resume(self) -> Any:
        self._started = True
        return self._coroutine.send(None)

    async def _drive(self, resume: Callable[[], Any]) -> Step:
        try:
            await self._task.until_blocked(self._coroutine, resume)
        except Returned as returned:
            return self._returned(returned.value)
        except Suspended:
            return self._unwound()
        except TerminalError as error:
            return self.broke_off() or self._failed(error)
        except AuthorError as error:
            return self.broke_off() or Broken(error)
        except asyncio.CancelledError:
            driver = asyncio.current_task()
            if driver is not None and driver.cancelling():
                raise
            return self.broke_off() or Crashed(asyncio.CancelledError("the handler cancelled itself"))
        except BaseException as error:
            return self._crashed(loggable(error))
        broken = self.broke_off()
        if broken is not None:
            return broken
        if self._waiting is None:
            return Broken(HandlerMisuse("the handler yielded without a durable future to wait for"))
        wait = self._waits[self._waiting]
        if isinstance(wait, RunWait):
            tried = self.replay.tried.get(wait.index)
            wait = replace(wait, tried=tried)
        return wait

    def broke_off(self) -> Broken | None:
        """Why the attempt is over, whatever the handler or its action returned or raised."""
        if self._broken is not None:
            return Broken(self._broken)
        return Broken(HandlerMisuse(_SWALLOWED)) if self._ending else None

    def _crashed(self, error: BaseException) -> Step:
        if isinstance(error, BaseExceptionGroup) and error.subgroup(Suspended):
            # A TaskGroup that Suspended passes through wraps it: it was not swallowed.
            return self._unwound()
        if isinstance(error, TypeError) and _raised_in(error) == "asyncio.tasks":
            # asyncio.wait takes no coroutine, which a durable future looks like to it.
            self.misuse(f"asyncio refused what the handler gave it ({message_of(error)}): {INSTEAD}")
        return self.broke_off() or Crashed(error)

    def _unwound(self) -> Step:
        if self._broken is not None:
            return Broken(self._broken)
        return Left() if self._ending else Broken(HandlerMisuse("the handler raised Suspended itself"))

    def _returned(self, value: Any) -> Step:
        broken = self.broke_off() or self._incomplete()
        if broken is not None:
            return broken
        if self._unawaited:
            names = ", ".join(self._unawaited.values())
            return Broken(HandlerMisuse(f"never awaited: {names}; put `await` before it"))
        try:
            return Finished(result_of(self._output, value, by=f"handler {self.replay.input.handler}"))
        except ResultMisfit as error:
            return Broken(error)

    def _failed(self, error: TerminalError) -> Step:
        if error is self._cancellation:
            return self._incomplete() or Finished(Cancellation(reason=error.reason))
        return self._incomplete() or Finished(rejection_of(error))

    def _incomplete(self) -> Broken | None:
        try:
            self.replay.finish()
        except ReplayMismatch as error:
            return Broken(error)
        return None


_SWALLOWED = (
    "the handler caught Suspended, with which an attempt ends: catch Exception, not BaseException, "
    "or raise it again"
)


def _current_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:  # in a thread
        return None


def _raised_in(error: BaseException) -> str | None:
    """The name of the module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame.f_globals.get("__name__")
