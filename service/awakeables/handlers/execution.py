"""One attempt as its handler sees it: its journal, what is new in it, and the durable futures to await."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextvars import Context as Variables
from contextvars import ContextVar
from dataclasses import dataclass
from heapq import heappop, heappush
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, overload

from msgspec import Raw

from awakeables.core.commands import NewAwakeable, NewCall
from awakeables.core.effects import Effect
from awakeables.core.ids import Ids
from awakeables.core.invocations import CALLED_OFF, CANCELLED
from awakeables.core.journal import (
    AwakeableCreated,
    BranchInterrupted,
    CallOffRequested,
    CancellationRaised,
    Entry,
    ProgressRead,
    RunRequested,
    SettleRequested,
    SleepRequested,
    StateNamesRead,
    StateRead,
)
from awakeables.core.jsontext import decode_json
from awakeables.core.objects import StateWrite
from awakeables.core.outcomes import NULL, Cancellation, Expiry, Outcome, Rejection, Resolution
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
from awakeables.handlers.attempt import StateWait, Wait
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import Codec, codec_for, explain
from awakeables.handlers.standin import INSTEAD, HandlerTask
from awakeables.ports import Clock

if TYPE_CHECKING:
    from awakeables.handlers.branches import Branches
    from awakeables.handlers.combining import Combined, Map, Timeout
    from awakeables.handlers.service import Handler
    from awakeables.telemetry.spans import AttemptSpan

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

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
        max_actions: How many actions of an attempt are executed at the same time.
        revoke_to: The topic for revocations; None: none are published.
    """

    clock: Clock
    ids: Ids
    app: str
    reply_to: str
    max_entries: int = 100_000
    max_actions: int = 32
    revoke_to: str | None = None


@dataclass(frozen=True, slots=True)
class RunCall:
    """A call of `ctx.run`: its action, how the result is encoded, and when it is retried.

    Attributes:
        variables: The context variables of the branch that made it; None: those of the attempt.
    """

    name: str
    action: Callable[..., Any]
    args: tuple[Any, ...]
    codec: Codec[Any]
    retry: RetryPolicy | None
    variables: Variables | None = None


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
        waiting: The operations that the handler awaits, whose outcomes may resume it; an ordered set.
        target: What it awaits, if that is not simply one operation.
        scopes: The blocks with a time limit that it is in, the outermost first.
        listeners: The combinators that an operation is a part of, by its index.
        combinators: All combinators of the handler.
        maps: What `ctx.map` has made.
        no_longer: Operations that were taken out of `waiting`: their outcomes change nothing any more.
        also: The operations that it waits for whenever it waits: those that `ctx.map` has begun.
        afterwards: What a delivery has made due, to be done when the handler goes on: it asks for operations.
        new_awakeables: Rows to insert with the new journal entries.
        new_schemas: The JSON Schemas that those refer to, by their hashes.
        new_effects: Records to publish once these are durable.
        new_calls: Invocations that the handler calls, to create with these entries.
        new_cancels: Awakeables to cancel with the invocation.
        new_called_off: Awakeables and invocations that the handler cancels with them.
        shields: How many blocks it is in that its own cancellation must not interrupt.
        new_writes: Changes to the state of its key, to commit with them.
        exclusive: Whether the invocation holds its key.
        known: The operations whose outcomes are the values of names in the state of its key.
        begun: The runs whose actions are being executed, or have just ended.
        branches: The coroutines that are run beside the handler's own; None: there was none so far.
        find: Finds the handler that a function was declared as.
        span: The span of the attempt; None: no spans are recorded.
    """

    # More than 30 attributes are too many for what CPython shares between the dicts of a class's instances.
    __slots__ = (
        "_cancelling",
        "_max_entries",
        "_on_misuse",
        "_reminders",
        "_serials",
        "_to_look",
        "afterwards",
        "also",
        "begun",
        "branches",
        "broken",
        "cancellation",
        "codecs",
        "combinators",
        "ending",
        "exclusive",
        "find",
        "invocation_id",
        "known",
        "listeners",
        "maps",
        "new_awakeables",
        "new_called_off",
        "new_calls",
        "new_cancels",
        "new_effects",
        "new_schemas",
        "new_writes",
        "no_longer",
        "replay",
        "runs",
        "scopes",
        "shields",
        "span",
        "target",
        "thread",
        "unawaited",
        "waiting",
        "waits",
        "world",
    )

    def __init__(
        self,
        history: Sequence[Entry],
        *,
        invocation_id: str,
        world: World,
        find: Callable[[Callable[..., Any]], Handler],
        on_misuse: Callable[[], object],
        exclusive: bool = False,
    ) -> None:
        """Begin at the start of a journal; `on_misuse` is called from any thread."""
        self.exclusive = exclusive
        self.shields = 0
        self.branches: Branches | None = None
        self.known: dict[str, list[int]] = {}
        self.new_writes: list[StateWrite] = []
        self.find = find
        self.span: AttemptSpan | None = None
        self.begun: set[int] = set()
        self.invocation_id = invocation_id
        self.world = world
        self.replay = Replay(history)
        self.thread = 0
        self.waits: dict[int, Wait] = {}
        self.codecs: dict[str, Codec[Any]] = {}
        self.runs: dict[int, RunCall] = {}
        self.unawaited: dict[int, str] = {}
        self.new_awakeables: list[NewAwakeable] = []
        self.new_schemas: dict[str, bytes] = {}
        self.new_effects: list[Effect] = []
        self.new_calls: list[NewCall] = []
        self.broken: AuthorError | None = None
        self.ending = False
        self.cancellation: Cancelled | None = None
        self.waiting: dict[int, None] = {}
        self.target: Durable[Any] | None = None
        self.scopes: list[Timeout] = []
        self.afterwards: list[Callable[[], object]] = []
        self.new_called_off: list[str] = []
        self.new_cancels: list[str] = []
        self.combinators: list[Combined] = []
        self.maps: list[Map] = []
        self.no_longer: list[int] = []
        self.listeners: dict[int, list[tuple[Durable[Any], Combined]]] = {}
        self.also: dict[int, None] = {}
        self._to_look: list[tuple[int, Combined]] = []
        self._serials = 0
        self._on_misuse = on_misuse
        self._max_entries = world.max_entries
        self._cancelling: CancellationRaised | None = None
        self._reminders = 0

    @property
    def is_over(self) -> bool:
        """Whether the attempt is over, so that what the handler does has no effect."""
        return self.ending or self.broken is not None

    @property
    def room(self) -> int:
        """How many entries the journal can still take; in a replay they are there already."""
        replay = self.replay
        return sys.maxsize if replay.replaying else self._max_entries - len(replay.entries)

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

    def remind_anew(self) -> None:
        """Remind as if it had not been done before."""
        self._reminders = 0

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
            raise self._full()
        if not replay.replaying:
            replay.entries.append(op)
            return len(replay.entries) - 1, op
        try:
            return replay.ask(op)
        except ReplayMismatch as error:
            raise self.break_off(error) from None

    def _full(self) -> HandlerMisuse:
        return self.misuse(
            f"the journal has {len(self.replay.entries):,} entries, the maximum for one invocation "
            "(AWAKEABLES_MAX_JOURNAL_ENTRIES): split its work into several invocations"
        )

    def version(self, name: str, current: int) -> int:
        """Which version of a part of its code the invocation has; what is new is journaled."""
        if self.is_over:
            return current
        if len(self.replay.entries) >= self._max_entries and not self.replay.replaying:
            raise self._full()
        return self.replay.version(name, current)

    def outcome_of(self, index: int) -> Generator[Any, Any, Outcome]:
        """Wait until one operation has ended; return its outcome."""
        if self.thread != get_ident() or self.ending or self.broken is not None:
            yield from self._refuse_to_wait()
        outcomes, replay = self.replay.outcomes, self.replay
        self.unawaited.pop(index, None)
        while index not in outcomes:
            recalled = None
            if replay.replaying:
                recalled = self._recalled((index,))
                if recalled == index and self.listeners:
                    self.on_delivered(index)
            elif index in replay.ran:
                self._receive_of_run(index)
                continue
            if recalled is None:
                self.waiting, self.target = {index: None}, None
                yield BLOCK
                recalled, self._cancelling = self._cancelling, None
            if isinstance(recalled, CancellationRaised):
                raise self.cancelled(recalled)
        return outcomes[index]

    def wait(self, target: Durable[Any]) -> Generator[Any, Any, None]:
        """Wait until a durable future is over, within the time limits of the blocks that the handler is in.

        Raises:
            TimedOut: The time of one of these blocks is up.
        """
        if self.thread != get_ident() or self.ending or self.broken is not None:
            yield from self._refuse_to_wait()
        if self.target is not target or self.scopes or self.also or not target._only_shrinks:
            self.target = target
            self.waiting = dict.fromkeys(scope.index for scope in self.scopes)
            self.waiting.update(dict.fromkeys(target._needs()))
            if self.branches is None:
                self.waiting.update(self.also)
                self.no_longer.clear()
        while True:
            while self.afterwards and (self.branches is None or not self.branches.drives):
                self.afterwards.pop(0)()
            for scope in self.scopes:
                if scope.expired:
                    raise scope.error()
            if target.done:
                return
            if self.branches is not None:
                yield BLOCK  # they receive for all
                continue
            raised = yield from self.receive()
            if raised is not None:
                raise self.cancelled(raised)

    def receive(self) -> Generator[Any, Any, CancellationRaised | None]:
        """Receive an outcome of what is waited for: from the journal, or when it comes.

        Returns:
            The cancellation that is to be raised instead.
        """
        replay, recalled = self.replay, None
        if replay.replaying:
            recalled = self._recalled(self.waiting)
            if isinstance(recalled, int):
                self.on_delivered(recalled)
            elif isinstance(recalled, BranchInterrupted) and self.branches is not None:
                self.branches.interrupt(recalled)
        elif replay.ran and (ended := [index for index in replay.ran if index in self.waiting]):
            self._receive_of_run(ended[0])
            return None
        if recalled is None:
            yield BLOCK
            recalled, self._cancelling = self._cancelling, None
        return recalled if isinstance(recalled, CancellationRaised) else None

    def _refuse_to_wait(self) -> Generator[Any, Any, None]:
        if self.is_over or acting.get() is not None:
            yield from self._wait_in_vain()
        self._refuse()

    def _recalled(self, waited: Container[int]) -> int | CancellationRaised | BranchInterrupted | None:
        cancelled = () if self.branches is None else self.branches.pending
        try:
            return self.replay.recall(waited, cancelled)
        except ReplayMismatch as error:
            raise self.break_off(error) from None

    def cancelled(self, raised: CancellationRaised) -> Cancelled:
        """The invocation was cancelled: the error to raise in the handler."""
        self.cancellation = Cancelled(raised.reason, own=True)
        # What was asked for before is called off, and nothing of it begins any more.
        self.unawaited.clear()
        self.afterwards.clear()
        if self.branches is None:  # else when it is raised in each of them
            for each in self.maps:
                each.stop()
        return self.cancellation

    def _receive_of_run(self, index: int) -> None:
        """Receive the outcome of a run that ended before the handler waited for it."""
        self.replay.deliver(index, self.replay.ran[index])
        self.on_delivered(index)

    # Deliveries, combinators and time limits.

    @property
    def received(self) -> int:
        """How many outcomes the handler has received."""
        return len(self.replay.order)

    def on_delivered(self, index: int) -> bool:
        """Tell the combinators of an outcome; return whether the handler has to do something now."""
        if self.branches is not None:
            return self.branches.on_delivered(index)
        self.waiting.pop(index, None)
        self.also.pop(index, None)
        for part, listener in self.listeners.pop(index, ()):
            listener.on_part(part)
        while self._to_look:  # as `look` does
            heappop(self._to_look)[1].on_parts()
        target = self.target
        if target is None or target.done or self.afterwards:
            return True
        return bool(self.scopes) and any(scope.index == index for scope in self.scopes)

    def look_at(self, combinator: Combined) -> None:
        """Let a combinator look at its parts that have ended, once those inside it have."""
        heappush(self._to_look, (combinator.serial, combinator))

    def look(self) -> None:
        """Let all of them look, the innermost first."""
        while self._to_look:
            _, combinator = heappop(self._to_look)
            combinator.on_parts()

    def next_serial(self) -> int:
        """A number for a new combinator, greater than those of its parts."""
        self._serials += 1
        return self._serials

    def listen(self, index: int, part: Durable[Any], listener: Combined) -> None:
        """Tell a combinator when an operation, which is its part, has ended."""
        self.listeners.setdefault(index, []).append((part, listener))

    def wait_for_too(self, indexes: Iterable[int]) -> None:
        """Wait for these operations whenever the handler waits, from now on."""
        new = dict.fromkeys(indexes)
        self.also.update(new)
        if self.branches is not None:
            self.branches.wait_for_too(new)
        else:
            self.waiting = self.waiting | new

    def must_await(self, future: Durable[Any], name: str) -> None:
        """Note that the handler must await a combinator."""
        self.unawaited[id(future)] = name

    def is_awaited(self, future: Durable[Any]) -> None:
        """It does, or it has combined it in turn."""
        self.unawaited.pop(id(future), None)

    def release(self, combinator: Combined) -> None:
        """Stop waiting for the open parts of a combinator that has been decided, unless others need them."""
        if self.branches is not None:
            self.branches.release(combinator)
            return
        for index in combinator._needs():
            if index in self.waiting and not self.is_needed(index, self.target, self.scopes):
                del self.waiting[index]
                self.also.pop(index, None)
                self.no_longer.append(index)

    def is_needed(self, index: int, target: Durable[Any] | None, scopes: Iterable[Timeout]) -> bool:
        """Whether an outcome may still change what is awaited, or what `ctx.map` has begun."""
        left = [listener for _, listener in self.listeners.get(index, ())]
        while left:
            combinator = left.pop()
            if not combinator.is_decided:
                if combinator is target or combinator.is_mapped:
                    return True
                left += combinator.listeners
        return any(scope.index == index for scope in scopes)

    def shield(self, by: int) -> None:
        """Enter a block that a cancellation must not interrupt (1), or leave it (-1)."""
        self.shields += by
        if self.branches is not None:
            self.branches.current.shields += by

    def forget(self) -> None:
        """Let go of the combinators: they refer to this, and would only be freed by the collector."""
        self.target = None
        for combinator in self.combinators:
            combinator.forget()
        for each in self.maps:
            each.forget()
        self.combinators.clear()
        self.maps.clear()
        self.listeners.clear()
        self.afterwards.clear()
        self.scopes.clear()

    def call_off(self, index: int | None, invocation_id: str | None = None) -> None:
        """Cancel an operation that has not ended, or an invocation."""
        if index is not None and index in self.replay.outcomes:
            return
        entry = None if index is None or index == NOWHERE else self.replay.entries[index]
        if isinstance(entry, SettleRequested):
            raise self.misuse("what completes an awakeable can't be cancelled: await it")
        dropped = isinstance(entry, SleepRequested | StateRead | StateNamesRead) or (
            isinstance(entry, RunRequested) and index not in self.replay.ran and index not in self.begun
        )
        is_new = not self.replay.replaying
        place, asked = self.ask(CallOffRequested(of=index, id=invocation_id, dropped=dropped))
        if place == NOWHERE:
            return
        if asked.dropped and index is not None:
            self.receive_here(index, CALLED_OFF)
        elif is_new and isinstance(entry, AwakeableCreated):
            self.new_called_off.append(entry.id)
        elif is_new and invocation_id is not None:
            self.new_called_off.append(invocation_id)

    def receive_here(self, index: int, outcome: Outcome) -> None:
        """Receive an outcome that the handler itself has caused."""
        self.replay.receive(index, outcome)
        if self.branches is not None:
            self.branches.on_delivered(index, is_entry=False)
            return
        if index in self.waiting:
            self.no_longer.append(index)
        self.on_delivered(index)

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


class Durable(_NotForAsyncio, Generic[T_co]):
    """A durable future. It can be awaited more than once, combined with others, and cancelled.

    The wait survives restarts of the process, and has no time limit but those of the `ctx.timeout` blocks
    around it. Await it directly in the handler: `asyncio.gather`, `asyncio.wait_for` and tasks of your own
    can't be replayed, and raise `HandlerMisuse`.
    """

    __slots__ = ("__weakref__", "_execution", "_index", "_read")

    _only_shrinks = False
    """Whether what it needs never grows, so that waiting for it again need not look."""

    _may_misread = False
    """Whether reading an outcome that is a success may fail: a custom serde decodes it."""

    def __init__(self, execution: Execution, index: int, read: Callable[[Outcome], T_co]) -> None:
        self._execution = execution
        self._index = index
        self._read = read

    def __await__(self) -> Generator[Any, Any, T_co]:
        execution = self._execution
        if not (execution.scopes or execution.also or execution.afterwards or execution.branches):
            return self._read((yield from execution.outcome_of(self._index)))
        self._combine()
        yield from execution.wait(self)
        return self._value()

    @property
    def done(self) -> bool:
        """Whether the handler has received the outcome; the same in replay.

        It receives outcomes only while it waits for something that they are a part of.
        """
        return self._index in self._execution.replay.outcomes

    def exception(self) -> TerminalError | None:
        """The failure of a future that is done; None: it succeeded.

        Raises:
            HandlerMisuse: It is not done.
        """
        if not self.done:
            raise self._execution.misuse(
                "exception() of a future that is not done: await it, or look at .done"
            )
        try:
            self._value()
        except TerminalError as error:
            return error
        return None

    def cancel(self) -> None:
        """Cancel what it waits for; nothing happens if it is done.

        - An awakeable: awaiting it raises `Cancelled`, and later answers are late.
        - A call: the invocation is told to cancel, and awaiting it waits for its end.
        - A sleep, a read of state, and a run that has not begun: awaiting it raises `Cancelled`.
        - A run that is being executed: it can't be stopped, and awaiting it gives its outcome.
        - A combinator: each of its parts that is not done.
        """
        self._execution.check()
        self._execution.unawaited.pop(self._index, None)
        self._execution.call_off(self._index)

    # For combinators.

    def _value(self) -> T_co:
        return self._read(self._execution.replay.outcomes[self._index])

    def _failed(self) -> bool:
        if isinstance(self._execution.replay.outcomes[self._index], Resolution):
            return self._may_misread and self.exception() is not None
        return True

    def _ended_at(self) -> int:
        """How many outcomes the handler had received before this one."""
        return self._execution.replay.order[self._index]

    def _needs(self) -> Iterator[int]:
        """The operations whose outcomes may end it."""
        if not self.done:
            yield self._index

    def _listen(self, listener: Combined) -> None:
        self._execution.listen(self._index, self, listener)

    def _combine(self) -> None:
        """It is awaited, or part of something that is."""
        self._execution.unawaited.pop(self._index, None)

    def _refused(self) -> BaseException:
        return self._execution.handed_to_asyncio()


class Promise(Durable[T_co]):
    """The answer to an awakeable.

    Awaiting returns the value, or raises `Rejected`, `TimedOut` or `Cancelled`.
    """

    __slots__ = ()


class PromiseBySerde(Promise[T_co]):
    """The answer to an awakeable that a custom serde decodes."""

    __slots__ = ()

    _may_misread = True


class Awakeable(_NotForAsyncio, tuple[str, Promise[T_co]], Generic[T_co]):
    """A durable callback: an ID to pass on, and a promise of the answer.

    Await it, or unpack it: `id, promise = ctx.awakeable(Parcel)`.
    """

    __slots__ = ()

    @property
    def id(self) -> str:
        """The awakeable's ID. Anyone who has it can resolve or reject the awakeable."""
        return self[0]

    @property
    def promise(self) -> Promise[T_co]:
        return self[1]

    @overload
    def progress(self, type: type[T], /) -> Durable[T | None]: ...
    @overload  # mypy takes T from where the result goes; if that is not the type, it must not get to Any
    def progress(  # type: ignore[overload-cannot-match]
        self, type: type[object], /
    ) -> Durable[object]: ...
    @overload
    def progress(self, type: Any = None, /) -> Durable[Any]: ...

    def progress(self, type: Any = None, /) -> Durable[Any]:
        """What its worker has reported last, with a heartbeat; awaiting returns it, or None: nothing yet.

        A heartbeat wakes no handler: to look every minute, race the awakeable with a `ctx.sleep`.

        Args:
            type: What it is read as; None: any JSON.
        """
        promise = self[1]
        return read_progress(promise._execution, promise._index, self[0], type)

    @property
    def done(self) -> bool:
        """As of `Durable`."""
        return self[1].done

    def exception(self) -> TerminalError | None:
        """As of `Durable`."""
        return self[1].exception()

    def cancel(self) -> None:
        """Cancel it: awaiting it raises `Cancelled`, and later answers are late."""
        self[1].cancel()

    def __await__(self) -> Generator[Any, Any, T_co]:
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


def read_progress(execution: Execution, of: int, awakeable_id: str, type_: Any) -> Durable[Any]:
    """Read the progress of an awakeable's last heartbeat."""
    try:
        codec = codec_for(type_)
    except TypeError as error:
        raise execution.misuse(f"progress: {error}") from error
    index, _ = execution.ask(ProgressRead(of=of))
    execution.waits[index] = StateWait(index=index, service="", key="", progress_of=awakeable_id)
    execution.unawaited[index] = "progress()"

    def read(outcome: Outcome) -> Any:
        if not isinstance(outcome, Resolution):
            raise_terminal(outcome)
        if outcome.is_absent or outcome.content == NULL:
            return None
        try:
            return codec.load_written(outcome.content)
        except BaseException as error:
            raise execution.unfit(f"the progress of awakeable {awakeable_id}", error) from None

    return Durable(execution, index, read)


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
        case Expiry(kind="heartbeat"):
            timed_out = TimedOut(f"awakeable {awakeable_id} timed out: no heartbeat came", kind="heartbeat")
            raise _with_progress(timed_out, outcome)
        case Expiry():
            raise _with_progress(TimedOut(f"awakeable {awakeable_id} timed out"), outcome)
        case Cancellation():
            raise Cancelled(f"awakeable {awakeable_id} was cancelled: {outcome.reason}")


def _with_progress(error: TimedOut, expiry: Expiry) -> TimedOut:
    if isinstance(expiry.progress, Raw) and bytes(expiry.progress) != NULL:
        error._read_progress = functools.partial(_progress_as, bytes(expiry.progress))
    return error


def _progress_as(text: bytes, type_: Any) -> Any:
    try:
        return codec_for(type_).decode(text)
    except Exception as error:  # a user's validator may raise anything
        raise ValueError(f"the last progress is not of this type: {explain(error)}") from error


def raise_terminal(outcome: Outcome) -> NoReturn:
    """Raise the failure that was journaled for a run or a completion."""
    if isinstance(outcome, Cancellation):
        raise Cancelled(outcome.reason)
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
