"""The state of one attempt: its journal, what is new in it, and what the handler waits for.

While the handler is stepped, a stand-in is asyncio's current task. Cancel scopes (time-outs of asyncio and
anyio) ask the current task for its cancellations when they are entered. The stand-in refuses them there, by
name; otherwise they would be lost at the next suspension.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from threading import get_ident
from typing import Any

from awakeables.core.commands import NewAwakeable
from awakeables.core.effects import Effect
from awakeables.core.ids import Ids
from awakeables.core.invocations import CANCELLED
from awakeables.core.journal import CancellationRaised, Entry
from awakeables.core.outcomes import Outcome
from awakeables.core.replay import Replay
from awakeables.core.texts import excerpt
from awakeables.errors import AuthorError, Cancelled, HandlerMisuse, ReplayMismatch, Suspended
from awakeables.handlers.attempt import Wait
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import Codec
from awakeables.ports import Clock

BLOCK = object()
"""What a durable future yields to its driver when its outcome must come from outside."""

INSTEAD = (
    "await the context's futures directly, one after the other; for a time limit use "
    "ctx.awakeable(timeout=...). "
    "asyncio's gather, wait, wait_for, timeout, shield and tasks can't be replayed; "
    "put code that needs them into ctx.run"
)

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
        task: The current task of asyncio while the handler is stepped.
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
        self.task = HandlerTask(self)
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
        if self.task.thread != get_ident() or self.ending or self.broken is not None:
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

    def ask(self, op: Any) -> tuple[int, Any]:
        """Match an operation with the history; return its index, and the operation as first recorded."""
        if self.task.thread != get_ident() or self.ending or self.broken is not None:
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
        if self.task.thread != get_ident() or self.ending or self.broken is not None:
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
            if _current_task() in (self.task, None):  # None: it is being closed after the loop has ended
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

    def let_clean_up(self) -> None:
        """Let the journal of a cancelled invocation grow by another tenth, so that it can clean up."""
        self._max_entries = self.world.max_entries * 11 // 10


class HandlerTask:
    """The current task of a handler, as asyncio reports it.

    There is a real task only while the handler awaits something from asyncio; then the stand-in has that
    task's attributes. It can't be cancelled while the handler waits for something durable.

    Attributes:
        thread: The thread that steps the handler now; 0: none, so another task or thread uses the context.
        real: The task that drives the handler while it awaits something from asyncio.
    """

    def __init__(self, execution: Execution) -> None:
        self.thread = 0
        self.real: asyncio.Task[Any] | None = None
        self._execution = execution
        self._waits = False
        self._cancels = 0
        self._own = 0

    def __getattr__(self, name: str) -> Any:
        real = self.__dict__["real"]
        if real is None:
            raise AttributeError(f"a handler that is being stepped has no asyncio.Task, and so no {name!r}")
        return getattr(real, name)

    def get_name(self) -> str:
        return self._execution.invocation_id

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def done(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def cancelling(self) -> int:
        """Refuse the cancel scope that is being entered; a task group asks this when it fails."""
        asks = sys._getframe(1).f_globals.get("__name__")
        if self._execution.is_over or asks == "asyncio.taskgroups":
            return self._cancels
        raise self._execution.misuse(
            "a cancel scope (asyncio.timeout or wait_for, a scope of anyio, the "
            f"time-out of an HTTP client) was entered in the handler's own code: {INSTEAD}"
        )

    def cancel(self, msg: object = None) -> bool:
        """Cancel what the handler awaits from asyncio (a task group does so when a task in it fails)."""
        if self._waits and self.real is not None:
            self._cancels += 1
            self._own += 1
            return self.real.cancel()
        # Not raised: the caller is usually a callback of the loop, not the handler.
        self._execution.misuse(
            "asyncio cancelled the handler while it awaited nothing from asyncio (a task group does so when "
            f"a task in it fails): {INSTEAD}"
        )
        return False

    def uncancel(self) -> int:
        self._cancels = max(0, self._cancels - 1)
        return self._cancels

    @types.coroutine
    def awaiting(self, item: Any) -> Generator[Any, Any, Any]:
        """Pass what the handler awaits from asyncio on to the loop; return what the loop sends."""
        self._waits = True
        try:
            return (yield item)
        finally:
            self._waits = False
            while self._own and self.real is not None:
                # The handler itself caused this cancellation; it was not meant for the driver.
                self._own -= 1
                self.real.uncancel()


def _current_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:  # in a thread
        return None
