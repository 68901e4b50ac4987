"""One attempt as its handler sees it: its journal, what is new in it, and the durable futures to await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Generic, NoReturn, TypeVar

from awakeables.core.commands import NewAwakeable
from awakeables.core.effects import Effect
from awakeables.core.ids import Ids
from awakeables.core.invocations import CANCELLED
from awakeables.core.journal import CancellationRaised, Entry
from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.core.replay import Replay
from awakeables.core.texts import excerpt
from awakeables.errors import (
    AuthorError,
    Cancelled,
    HandlerMisuse,
    PayloadError,
    Rejected,
    ReplayMismatch,
    Suspended,
    TerminalError,
    TimedOut,
    ValueRefused,
)
from awakeables.handlers.attempt import Wait
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import Codec, explain
from awakeables.handlers.standin import INSTEAD, HandlerTask
from awakeables.ports import Clock

T = TypeVar("T")

BLOCK = object()
"""What a durable future yields to its driver when its outcome must come from outside."""

NOWHERE = -1
"""Index of an operation after the end of the attempt: it is not journaled and has no outcome."""

MAX_REMINDERS = 10
"""How often `Suspended` is raised again once the attempt is over: each `finally` that uses the context needs
one. It is bounded for the sake of loops that swallow it."""

acting: ContextVar[str | None] = ContextVar("acting", default=None)
"""The name of the current run, in its action and in the tasks and threads that the action starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What an attempt needs from outside.

    Attributes:
        max_entries: The maximum length of a journal.
    """

    clock: Clock
    ids: Ids
    app: str
    reply_to: str
    max_entries: int = 100_000


@dataclass(frozen=True, slots=True)
class RunCall:
    """A call of `ctx.run`: its action, how the result is encoded, and when it is retried."""

    name: str
    action: Callable[[], Any]
    codec: Codec[Any]
    retry: RetryPolicy | None


class Execution:
    """One attempt as its context sees it; `LocalAttempt` drives it.

    Attributes:
        thread: The thread that steps the handler now; 0: none, so another task or thread uses the context.
        waits: What each operation other than a run waits for, by its index.
        codecs: How the answers to awakeables are decoded, by the awakeables' IDs.
        runs: The calls of `ctx.run`, by the index of their operation.
        unawaited: The operations that must be awaited and have not been, by their index, with their names
            for the error.
        broken: Why the attempt must not go on, whatever the handler does; None: nothing is wrong.
        ending: The handler is being unwound: what it does no longer has an effect.
        cancellation: The `Cancelled` that was raised in the handler; None: none was.
        waiting: The operations that the handler awaits; the outcome of any one resumes it.
        new_awakeables: Rows to insert with the new journal entries.
        new_effects: Records to publish once these are durable.
    """

    def __init__(
        self,
        history: Sequence[Entry],
        *,
        invocation_id: str,
        world: World,
        on_misuse: Callable[[], object],
    ) -> None:
        """Begin at the start of a journal; `on_misuse` is called from any thread."""
        self.invocation_id = invocation_id
        self.world = world
        self.replay = Replay(history)
        self.thread = 0
        self.waits: dict[int, Wait] = {}
        self.codecs: dict[str, Codec[Any]] = {}
        self.runs: dict[int, RunCall] = {}
        self.unawaited: dict[int, str] = {}
        self.new_awakeables: list[NewAwakeable] = []
        self.new_effects: list[Effect] = []
        self.broken: AuthorError | None = None
        self.ending = False
        self.cancellation: Cancelled | None = None
        self.waiting: tuple[int, ...] = ()
        self._on_misuse = on_misuse
        self._max_entries = world.max_entries
        self._cancelling: CancellationRaised | None = None
        self._reminders = 0

    @property
    def is_over(self) -> bool:
        """Whether the attempt is over, so that what the handler does has no effect."""
        return self.ending or self.broken is not None

    def check(self) -> None:
        """Refuse what can't be replayed: a use in an action, after the end, or from another task."""
        if self.thread != get_ident() or self.ending or self.broken is not None:
            self._refuse()

    def _refuse(self) -> None:
        name = acting.get()
        if name is not None:
            # This comes first: Suspended must never be raised inside an action.
            raise self._in_action(name)
        if not self.is_over:
            raise self.misuse(f"the context was used from another asyncio task or thread: {INSTEAD}")
        if self._is_to_be_reminded():
            raise Suspended

    def _is_to_be_reminded(self) -> bool:
        """Whether to raise `Suspended` in a handler that goes on although its attempt is over.

        It is raised a bounded number of times: a loop that swallows it would block the event loop. After
        that, calls have no effect, so that the loop reaches an await, where it stays.
        """
        self._reminders += 1
        return self._reminders <= MAX_REMINDERS

    def _in_action(self, name: str) -> HandlerMisuse:
        return self.misuse(
            f"the context was used inside an action of ctx.run({excerpt(name)}), which is journaled "
            "as a whole: use it before ctx.run and pass the result as an argument, or use it afterwards; "
            "only ctx.request and ctx.log may be used inside"
        )

    def handed_to_asyncio(self) -> BaseException:
        """The error to raise where a durable future was given to asyncio, to become a task."""
        name = acting.get()
        if name is not None:
            return self._in_action(name)
        if self.is_over:
            return asyncio.CancelledError()  # asyncio does not warn if it is never retrieved
        return self.misuse(f"a durable future was handed to asyncio: {INSTEAD}")

    def misuse(self, message: str) -> HandlerMisuse:
        """An error to raise in the handler; even if it is swallowed there, the invocation is paused."""
        error = HandlerMisuse(message)
        self.broken = self.broken or error
        self._on_misuse()
        return error

    def break_off(self, error: AuthorError) -> Suspended:
        """End the attempt for an error that the handler must not see; raise what is returned."""
        self.broken = self.broken or error
        return Suspended()

    def unfit(self, what: str, error: BaseException) -> Suspended:
        """As `break_off`: a value in the journal does not fit its current type."""
        message = f"{what} does not fit its current type ({explain(error)})"
        instead = "it is kept: deploy code that accepts it, then resume"
        return self.break_off(ValueRefused(f"{message}; {instead}"))

    def ask(self, op: Any) -> tuple[int, Any]:
        """Match an operation with the history; return its index, and the operation as first recorded."""
        if self.thread != get_ident() or self.ending or self.broken is not None:
            self._refuse()
            return NOWHERE, op
        replay = self.replay
        if len(replay.entries) >= self._max_entries and not replay.replaying:
            raise self.misuse(
                f"the journal has {len(replay.entries):,} entries, the maximum for one invocation "
                "(AWAKEABLES_MAX_JOURNAL_ENTRIES): split its work into several invocations"
            )
        if not replay.replaying:
            replay.entries.append(op)
            return len(replay.entries) - 1, op
        try:
            return replay.ask(op)
        except ReplayMismatch as error:
            raise self.break_off(error) from None

    def wait_for_any(self, indices: tuple[int, ...]) -> Generator[Any, Any, tuple[int, Outcome]]:
        """Wait until one of these operations has ended; return its index and outcome."""
        if self.thread != get_ident() or self.ending or self.broken is not None:
            if self.is_over or acting.get() is not None:
                yield from self._wait_in_vain()
            self._refuse()
        outcomes = self.replay.outcomes
        for index in indices:
            self.unawaited.pop(index, None)
        while True:
            for index in indices:
                if index in outcomes:
                    return index, outcomes[index]
            recalled = None
            if self.replay.replaying:
                try:
                    recalled = self.replay.recall(indices)
                except ReplayMismatch as error:
                    raise self.break_off(error) from None
            if recalled is None:
                self.waiting = indices
                yield BLOCK
                recalled, self._cancelling = self._cancelling, None
            if isinstance(recalled, CancellationRaised):
                self.cancellation = Cancelled(recalled.reason)
                raise self.cancellation

    def _wait_in_vain(self) -> Generator[Any, Any, None]:
        """Wait for an outcome that never comes: in an action, or once the attempt is over.

        A handler that swallows the error and comes here again and again must release the event loop. So
        the handler itself stays here until it is closed; a task or action of its own sleeps each time.
        """
        while not self._is_to_be_reminded():
            task = _current_task()
            # None: it is being closed after the loop has ended.
            if task is None or (isinstance(task, HandlerTask) and task.execution is self):
                yield BLOCK
            else:
                yield from asyncio.sleep(1).__await__()
                break
        name = acting.get()
        raise self._in_action(name) if name is not None else Suspended()

    def raise_cancellation(self) -> None:
        """Raise `Cancelled` at the handler's current await; at most once per invocation."""
        self._cancelling = CancellationRaised(reason=CANCELLED)
        self.replay.cancel(self._cancelling)

    def allow_cleanup(self) -> None:
        """Let the journal of a cancelled invocation grow by another tenth, so that it can clean up."""
        self._max_entries = self.world.max_entries * 11 // 10


class _NotForAsyncio:
    """Looks like a coroutine to asyncio, and raises a clear error when asyncio steps it.

    So `gather`, `shield`, `create_task` and everything else that wraps awaitables in tasks fail with that
    error. `await` uses none of these methods.
    """

    __slots__ = ()

    def _refused(self) -> BaseException:
        raise NotImplementedError

    def send(self, value: Any) -> NoReturn:
        raise self._refused()

    def throw(self, *error: Any) -> NoReturn:
        raise self._refused()

    def close(self) -> None:
        """Do nothing, since nothing runs."""


class Durable(_NotForAsyncio, Generic[T]):
    """A durable future. It can be awaited more than once.

    The wait has no time limit and survives restarts of the process. Await it directly in the handler:
    `asyncio.gather`, `asyncio.wait_for` and tasks of your own can't be replayed, and raise
    `HandlerMisuse`.
    """

    __slots__ = ("_execution", "_index", "_read")

    def __init__(self, execution: Execution, index: int, read: Callable[[Outcome], T]) -> None:
        self._execution = execution
        self._index = index
        self._read = read

    def __await__(self) -> Generator[Any, Any, T]:
        _, outcome = yield from self._execution.wait_for_any((self._index,))
        return self._read(outcome)

    def _refused(self) -> BaseException:
        return self._execution.handed_to_asyncio()


class Promise(Durable[T]):
    """The answer to an awakeable.

    Awaiting returns the value, or raises `Rejected`, `TimedOut` or `Cancelled`.
    """

    __slots__ = ()


class Awakeable(_NotForAsyncio, tuple[str, Promise[T]], Generic[T]):
    """A durable callback: an ID to pass on, and a promise of the answer.

    Await it, or unpack it: `id, promise = ctx.awakeable(Parcel)`.
    """

    __slots__ = ()

    @property
    def id(self) -> str:
        """The awakeable's ID. Anyone who has it can resolve or reject the awakeable."""
        return self[0]

    @property
    def promise(self) -> Promise[T]:
        return self[1]

    def __await__(self) -> Generator[Any, Any, T]:
        return self[1].__await__()

    def _refused(self) -> BaseException:
        return self[1]._refused()


def read_answer(execution: Execution, awakeable_id: str, codec: Codec[T], outcome: Outcome) -> T:
    """The value of an awakeable's answer; raises what the handler gets instead."""
    resolution = outcome if isinstance(outcome, Resolution) else value_of(outcome, awakeable_id)
    try:
        return codec.load(resolution.content)
    except BaseException as error:
        what = f"the answer to awakeable {awakeable_id}"
        if codec.kind == "custom":
            raise PayloadError(f"{what} can't be decoded: {explain(error)}") from error
        raise execution.unfit(what, error) from None


def value_of(outcome: Outcome, awakeable_id: str) -> Resolution:
    """The resolution of an awakeable.

    Raises:
        TerminalError: It has no resolution: `Rejected`, `TimedOut` or `Cancelled`.
    """
    match outcome:
        case Resolution():
            return outcome
        case Rejection():
            raise Rejected(outcome.reason, code=outcome.code, details=details_of(outcome))
        case Expiry():
            raise TimedOut(f"awakeable {awakeable_id} timed out")
        case Cancellation():
            raise Cancelled(f"awakeable {awakeable_id} was cancelled: {outcome.reason}")


def raise_terminal(outcome: Outcome) -> NoReturn:
    """Raise the failure that was journaled for a run or a completion."""
    if not isinstance(outcome, Rejection):
        raise TypeError(f"a run can't end with {type(outcome).__name__}")
    raise TerminalError(outcome.reason, code=outcome.code, details=details_of(outcome))


def details_of(rejection: Rejection) -> Any:
    """The details of a rejection, decoded; None if it has none."""
    return decode_json(bytes(rejection.details)) if rejection.details else None


def _current_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:  # in a thread
        return None
