"""Combinators: durable futures that are over when enough of their parts are.

A combinator is a function of which outcomes the handler has received, in which order. That order is in the
journal, so a combinator needs no entries of its own, and a replay decides it in the same way. The
same holds for branches: coroutines that are parts.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from types import CoroutineType, TracebackType
from typing import Any

from awakeables.core.journal import TimeoutRequested
from awakeables.core.records import instant
from awakeables.core.texts import excerpt
from awakeables.errors import Cancelled, QuorumFailed, TerminalError, TimedOut
from awakeables.handlers.attempt import TimerWait
from awakeables.handlers.branches import Branches, Fiber
from awakeables.handlers.calls import close_unbegun
from awakeables.handlers.execution import NOWHERE, Awakeable, Durable, Execution


def part_of(execution: Execution, part: object, name: str, *, takes_coroutines: bool = True) -> Durable[Any]:
    """A part of a combinator, checked: a durable future of this handler, or a branch of it."""
    if isinstance(part, Awakeable):
        part = part.promise
    if isinstance(part, Completed):
        raise execution.misuse(f"{name}: ctx.as_completed is iterated over with `async for`, not combined")
    if isinstance(part, Durable):
        if part._execution is not execution:
            raise execution.misuse(f"{name}: {excerpt(part)} is of another handler's context")
        return part
    if inspect.iscoroutine(part):
        if not takes_coroutines:
            raise execution.misuse(
                f"{name} gives back what it was given, so it takes durable futures, and was given a "
                "coroutine: begin it with ctx.map, which returns a future; or use ctx.race or ctx.gather"
            )
        return branch_of(execution, part, name)
    hint = ""
    if isinstance(part, list | tuple | set | Iterator):
        hint = "; put `*` before it"
    elif inspect.iscoroutinefunction(part):
        hint = "; call it"
    takes = "durable futures" if not takes_coroutines else "durable futures and coroutines"
    raise execution.misuse(
        f"{name} takes {takes} (what ctx.awakeable, ctx.call, ctx.run, ctx.sleep and the combinators "
        f"return), not {excerpt(part)}{hint}"
    )


def parts_of(
    execution: Execution, given: Iterable[object], name: str, *, takes_coroutines: bool = True
) -> list[Durable[Any]]:
    """All parts of a combinator; if one is refused, no coroutine among them will ever begin."""
    given = list(given)
    try:
        execution.check()
        return [part_of(execution, part, name, takes_coroutines=takes_coroutines) for part in given]
    except BaseException:
        for part in given:
            for each in part if isinstance(part, list | tuple) else (part,):
                if inspect.iscoroutine(each):
                    close_unbegun(each)
        raise


def branch_of(execution: Execution, coroutine: CoroutineType[Any, Any, Any], name: str) -> Branch:
    """The branch that a coroutine becomes; it begins when the handler waits."""
    execution.check()
    if execution.branches is None:
        execution.branches = Branches(execution)
    known = execution.branches.find(coroutine)
    if known is not None:
        return known
    if inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED:
        raise execution.misuse(
            f"{name} was given {coroutine.__qualname__}, a coroutine that has begun: it was awaited, or "
            "passed to a combinator before; use what that returned, or call its function again"
        )
    return Branch(execution, coroutine)


class Combined(Durable[Any]):
    """The base of all combinators.

    One outcome can end several parts at once: a future, and a combination of it. Then they count in the order
    of the arguments. So each combinator looks at all of its parts that have ended, after those inside it.

    Attributes:
        parts: What was given, in order.
        open: The parts that are not over.
        serial: Greater than those of its parts.
    """

    __slots__ = ("_cancel_losers", "_ended", "_number", "listeners", "name", "open", "parts", "serial")

    is_mapped = False
    """Whether it is waited for whatever the handler waits for."""

    takes_coroutines = True
    """Whether its parts may be coroutines."""

    def __init__(
        self, execution: Execution, name: str, parts: Iterable[object], *, cancel_losers: bool = False
    ) -> None:
        """Combine parts; those that are over already count in the order in which they ended."""
        super().__init__(execution, NOWHERE, _no_outcome)
        self.name = name
        self.parts = parts_of(execution, parts, name, takes_coroutines=self.takes_coroutines)
        self.open = dict.fromkeys(self.parts)
        self._cancel_losers = cancel_losers
        self._number: int | None = None
        self.listeners: list[Combined] = []
        self._ended: list[Durable[Any]] = []
        self.serial = execution.next_serial()
        execution.combinators.append(self)
        execution.must_await(self, name)
        over = []
        for part in self.open:
            part._combine()
            if part.done:
                over.append(part)
            else:
                part._listen(self)
        for part in sorted(over, key=_number_of):
            self._end(part)
        if not self.open and self._number is None:
            self._on_empty()

    # What kinds of combinators decide.

    def _take(self, part: Durable[Any]) -> bool:
        """Note that a part is over; return whether the combinator is."""
        raise NotImplementedError

    def _value(self) -> Any:
        """The value, or raise the failure, once it is over."""
        raise NotImplementedError

    def _on_empty(self) -> None:
        """Decide without a part."""
        raise self._execution.misuse(f"{self.name} needs at least one durable future")

    # What execution and other combinators use.

    def on_part(self, part: Durable[Any]) -> None:
        """A part is over; `on_parts` is called once all of them are known."""
        if not self._ended:
            self._execution.look_at(self)
        self._ended.append(part)

    def on_parts(self) -> None:
        """One or more parts are over."""
        ended, self._ended = self._ended, []
        if len(ended) > 1:
            ended.sort(key=self.parts.index)
        for part in ended:
            self.open.pop(part, None)
            if self._number is None and self._take(part):
                self._decide(part._ended_at())

    def _end(self, part: Durable[Any]) -> None:
        """A part was over when it was combined."""
        self._ended = [part]
        self.on_parts()

    def _decide(self, number: int) -> None:
        self._number = number
        if self._cancel_losers and self.open:
            self._execution.afterwards.append(self._cancel_open)
        for listener in self.listeners:
            listener.on_part(self)
        if self._execution.branches is not None:
            self._execution.branches.on_decided(self)
        if self.open:
            self._execution.release(self)

    @property
    def is_decided(self) -> bool:
        return self._number is not None

    def forget(self) -> None:
        """Let go of everything, when the attempt is over."""
        self.listeners, self.parts, self.open = [], [], {}

    def _cancel_open(self) -> None:
        for part in list(self.open):
            part.cancel()

    def _listen(self, listener: Combined) -> None:
        self.listeners.append(listener)

    def _combine(self) -> None:
        self._execution.is_awaited(self)

    def _needs(self) -> Iterator[int]:
        for part in self.open:
            yield from part._needs()

    def _ended_at(self) -> int:
        assert self._number is not None
        return self._number

    def _failed(self) -> bool:
        """Whether it has failed, found without reading a value: that may raise errors of the handler's."""
        raise NotImplementedError

    @property
    def done(self) -> bool:
        return self._number is not None

    def cancel(self) -> None:
        self._execution.check()
        self._cancel_open()

    def __await__(self) -> Generator[Any, Any, Any]:
        self._execution.is_awaited(self)
        yield from self._execution.wait(self)
        return self._value()


def _number_of(part: Durable[Any]) -> int:
    return part._ended_at()


def _no_outcome(_outcome: object) -> None:
    raise AssertionError("a combinator has no outcome of its own")


def _result(part: Durable[Any], *, return_exceptions: bool = False) -> Any:
    try:
        return part._value()
    except TerminalError as error:
        if return_exceptions:
            return error
        raise


class Gather(Combined):
    """All parts, or the first failure."""

    __slots__ = ("_first_failure", "_return_exceptions")

    def __init__(
        self, execution: Execution, parts: Iterable[object], *, return_exceptions: bool, cancel_losers: bool
    ) -> None:
        self._first_failure: Durable[Any] | None = None
        self._return_exceptions = return_exceptions
        super().__init__(execution, "ctx.gather", parts, cancel_losers=cancel_losers)

    def _take(self, part: Durable[Any]) -> bool:
        if not self._return_exceptions and part._failed():
            self._first_failure = part
            return True
        return not self.open

    def _failed(self) -> bool:
        return self._first_failure is not None

    def _value(self) -> tuple[Any, ...]:
        if self._first_failure is not None:
            self._first_failure._value()
        if self._return_exceptions:
            return tuple([_result(part, return_exceptions=True) for part in self.parts])
        return tuple([part._value() for part in self.parts])

    def _on_empty(self) -> None:
        self._number = self._execution.received


class Race(Combined):
    """The first part that is over."""

    __slots__ = ("_is_failure", "winner")

    def _take(self, part: Durable[Any]) -> bool:
        self.winner = part
        self._is_failure = part._failed()
        return True

    def _failed(self) -> bool:
        return self._is_failure

    def _value(self) -> Any:
        return self.winner._value()


class Select(Race):
    """The first part that is over: which one it is."""

    __slots__ = ("_given",)

    takes_coroutines = False

    def __init__(self, execution: Execution, parts: Iterable[object]) -> None:
        given = list(parts)
        super().__init__(execution, "ctx.select", given)
        # An awakeable is given back as it was given.
        self._given = dict(zip(self.parts, given, strict=True))

    def _failed(self) -> bool:
        return False

    def _value(self) -> Any:
        return self._given[self.winner]


class Quorum(Combined):
    """The first successes, so many as are needed; a failure as soon as they can't be reached any more."""

    __slots__ = ("_failures", "_needed", "_successes")

    def __init__(
        self, execution: Execution, name: str, needed: int, parts: Iterable[object], *, cancel_losers: bool
    ) -> None:
        given = parts_of(execution, parts, name)
        if isinstance(needed, bool) or not isinstance(needed, int) or needed < 1:
            raise execution.misuse(f"{name}: the number needed must be positive, not {excerpt(needed)}")
        self._needed = needed
        self._successes: list[Durable[Any]] = []
        self._failures: list[Durable[Any]] = []
        different = len(set(given))
        if given and different < needed:
            raise execution.misuse(f"{name}: {needed} are needed, of {different} different futures")
        super().__init__(execution, name, given, cancel_losers=cancel_losers)

    def _take(self, part: Durable[Any]) -> bool:
        (self._failures if part._failed() else self._successes).append(part)
        reached = len(self._successes) + len(self.open)
        return len(self._successes) == self._needed or reached < self._needed

    def _failed(self) -> bool:
        return len(self._successes) < self._needed

    def _value(self) -> Any:
        if self._failed():
            errors = [error for part in self._failures if (error := part.exception()) is not None]
            raise QuorumFailed(
                f"{self.name}: {self._needed} needed, {len(self._successes)} succeeded and "
                f"{len(errors)} failed; the last with: {errors[-1].reason}",
                errors=errors,
            )
        return [part._value() for part in self._successes]


class Any_(Quorum):  # noqa: N801 - `any` is its name in the context
    """The first success."""

    __slots__ = ()

    def __init__(self, execution: Execution, parts: Iterable[object], *, cancel_losers: bool) -> None:
        super().__init__(execution, "ctx.any", 1, parts, cancel_losers=cancel_losers)

    def _value(self) -> Any:
        return super()._value()[0]


class Completed(Combined, AsyncIterator[Any]):
    """The parts, one after the other as they end."""

    __slots__ = ("_given", "_queue")

    _only_shrinks = True
    takes_coroutines = False

    def __init__(self, execution: Execution, parts: Iterable[object]) -> None:
        given = list(parts)
        self._queue: deque[Durable[Any]] = deque()
        super().__init__(execution, "ctx.as_completed", given)
        self._given = dict(zip(self.parts, given, strict=True))
        execution.is_awaited(self)  # it may be left early

    def _take(self, part: Durable[Any]) -> bool:
        self._queue.append(part)
        if self._execution.branches is not None:
            self._execution.branches.on_decided(self)
        return False

    def _on_empty(self) -> None:
        """Iterate over nothing."""

    @property
    def done(self) -> bool:
        return bool(self._queue) or not self.open

    async def __anext__(self) -> Any:
        if not self._queue and not self.open:
            raise StopAsyncIteration
        await self
        if not self._queue:  # another branch took the last one
            raise StopAsyncIteration
        return self._given[self._queue.popleft()]

    def _value(self) -> None:
        """Nothing: `__anext__` takes the part."""


class Branch(Combined):
    """A coroutine of the handler's, which runs beside it and is over when it has ended."""

    __slots__ = ("_failure", "_fiber", "_returned")

    def __init__(self, execution: Execution, coroutine: CoroutineType[Any, Any, Any]) -> None:
        assert execution.branches is not None
        super().__init__(execution, "a branch", ())
        execution.is_awaited(self)  # it may go on when what it was a part of is over
        self._returned: Any = None
        self._failure: TerminalError | None = None
        self._fiber: Fiber | None = execution.branches.begin(coroutine, self)

    def _on_empty(self) -> None:
        """It has not ended."""

    def end(self, returned: Any, failure: TerminalError | None) -> None:
        """It has ended, with the outcome that was received last."""
        self._returned, self._failure, self._fiber = returned, failure, None
        self._decide(self._execution.received - 1)

    def _failed(self) -> bool:
        return self._failure is not None

    def _value(self) -> Any:
        if self._failure is not None:
            raise self._failure
        return self._returned

    def cancel(self) -> None:
        self._execution.check()
        if self._fiber is not None and self._execution.branches is not None:
            self._execution.branches.cancel(self._fiber, "the branch was cancelled")

    def forget(self) -> None:
        super().forget()
        self._fiber = self._failure = None


class Mapped(Combined):
    """A part of `ctx.map`, which begins when there is a free place."""

    __slots__ = ("_map",)

    is_mapped = True

    def __init__(self, execution: Execution, of: Map) -> None:
        self._map = of
        super().__init__(execution, "ctx.map", ())
        execution.is_awaited(self)  # what began goes on, whether it is awaited or not

    def _on_empty(self) -> None:
        """It has not begun."""

    def begin(self, part: Durable[Any]) -> None:
        self.parts = [part]
        part._combine()
        if part.done:
            self._end(part)
            self._execution.look()
            return
        self.open = {part: None}
        part._listen(self)
        self._execution.wait_for_too(part._needs())

    def _take(self, part: Durable[Any]) -> bool:
        if not isinstance(part, Failed):  # which has never held a place
            self._map.free()
        return True

    def _failed(self) -> bool:
        return self.parts[0]._failed()

    def _value(self) -> Any:
        return self.parts[0]._value()

    def cancel(self) -> None:
        if self.parts:
            super().cancel()
        elif not self.done:
            self._map.drop(self)


class Map:
    """Calls a function for each item, at most so many at once.

    Attributes:
        parts: What stands for the results, in the order of the items.
        fiber: The branch that made it; None: the handler itself.
    """

    def __init__(
        self,
        execution: Execution,
        function: Callable[[Any], object],
        items: Iterable[Any],
        concurrency: int | None,
    ) -> None:
        if concurrency is not None and (not isinstance(concurrency, int) or concurrency < 1):
            raise execution.misuse(f"ctx.map: concurrency must be positive, not {excerpt(concurrency)}")
        self._execution = execution
        self._function = function
        self._free = 0
        self._left = deque((Mapped(execution, self), item) for item in items)
        self._check_room(len(self._left))
        branches = execution.branches
        self.fiber = None if branches is None or branches.current.branch is None else branches.current
        execution.maps.append(self)
        self.parts = [part for part, _ in self._left]
        for _ in range(len(self._left) if concurrency is None else min(concurrency, len(self._left))):
            self._begin_next()

    def _check_room(self, items: int) -> None:
        """Refuse what can't end: each item has an operation at least, and its outcome."""
        room = self._execution.room
        if items * 2 > room:
            raise self._execution.misuse(
                f"ctx.map of {items:,} items makes at least {items * 2:,} journal entries, and there is room "
                f"for {room:,} (AWAKEABLES_MAX_JOURNAL_ENTRIES): send invocations for parts of them"
            )

    def _begin_next(self) -> None:
        self._free = max(0, self._free - 1)
        if self._left:
            part, item = self._left.popleft()
            try:
                begun = part_of(self._execution, self._function(item), "ctx.map: its function")
            except TerminalError as error:
                begun = Failed(self._execution, error)
                self.free()
            part.begin(begun)

    def _begin_later(self) -> None:
        branches = self._execution.branches
        if branches is None:
            self._begin_next()
        else:
            branches.run_for(self.fiber, self._begin_next)

    def free(self) -> None:
        """One is over: the next begins when the handler waits again."""
        if self._left:
            self._free += 1
            self._execution.afterwards.append(self._begin_later)

    def missed(self) -> list[Callable[[], None]]:
        """What begins parts in the places that were free while its branch was cancelled and not shielded."""
        return [self._begin_later] * min(self._free, len(self._left))

    def drop(self, part: Mapped) -> None:
        """A part that has not begun never will."""
        self._left = deque(each for each in self._left if each[0] is not part)
        self._cancel(part)

    def forget(self) -> None:
        """Let go of everything, when the attempt is over."""
        self.parts = []
        self._left.clear()

    def stop(self) -> None:
        """Begin nothing any more."""
        left, self._left = self._left, deque()
        for part, _ in left:
            self._cancel(part)

    def _cancel(self, part: Mapped) -> None:
        part.begin(Failed(self._execution, Cancelled("it was cancelled before it began")))


class Failed(Combined):
    """What failed, or was cancelled, before it began."""

    __slots__ = ("_error",)

    def __init__(self, execution: Execution, error: TerminalError) -> None:
        self._error = error
        super().__init__(execution, "ctx.map", ())
        execution.is_awaited(self)

    def _on_empty(self) -> None:
        self._number = self._execution.received

    def _failed(self) -> bool:
        return True

    def _value(self) -> Any:
        raise self._error


class Timeout:
    """`async with ctx.timeout(...)`: a limit for everything that is awaited within the block."""

    def __init__(self, execution: Execution, until_ms: int) -> None:
        self._execution = execution
        self._until_ms = until_ms
        self.index = NOWHERE

    @property
    def expired(self) -> bool:
        """Whether the time is up, as far as the handler has been told."""
        return self.index in self._execution.replay.outcomes

    def error(self) -> TimedOut:
        return TimedOut(f"the time was up at {instant(self._until_ms).isoformat()}", kind="block")

    async def __aenter__(self) -> Timeout:
        execution = self._execution
        self.index, asked = execution.ask(TimeoutRequested(until_ms=self._until_ms))
        self._until_ms = asked.until_ms
        execution.waits[self.index] = TimerWait(index=self.index, until_ms=asked.until_ms)
        execution.scopes.append(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in self._execution.scopes:
            self._execution.scopes.remove(self)
