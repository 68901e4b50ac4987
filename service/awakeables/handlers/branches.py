"""Branches: coroutines of a handler that run beside it, within its invocation and its journal.

One fiber is run at a time, to its next durable await, in an order that depends only on the journal. So the
operations of all of them form one sequence, which a replay repeats. Once all are blocked, one outcome is
received, and those that can go on with it are run.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Iterator, Mapping
from contextvars import Context as Variables
from contextvars import copy_context
from heapq import heappop, heappush
from inspect import CORO_CREATED, getcoroutinestate
from typing import TYPE_CHECKING, Any, cast

from awakeables.core.journal import BranchInterrupted
from awakeables.errors import Cancelled, HandlerMisuse, Suspended, TerminalError
from awakeables.handlers.attempt import AwakeableWait
from awakeables.handlers.calls import close, close_all_unbegun
from awakeables.handlers.execution import BLOCK, Durable, Execution

if TYPE_CHECKING:
    from awakeables.handlers.combining import Branch, Combined, Map, Timeout

LAST = sys.maxsize
"""The number of the handler's own fiber: it is run last, so it finds what its branches have done."""


class Fiber:
    """A coroutine that is run in turn with others: the handler's own, or that of a branch.

    Attributes:
        number: Those that can go on are run in the order of their numbers.
        coroutine: None: it is over.
        branch: Its end, as a part of combinators; None: it is the handler's own.
        variables: Its context variables; None: those of the attempt.
        begun: It has been run.
        waiting: The operations whose outcomes it waits for.
        target: What it awaits.
        scopes: The blocks with a time limit that it is in.
        shields: How many blocks it is in that a cancellation must not interrupt.
        unawaited: What it has asked for that must be awaited, as in `Execution.unawaited`.
        is_told: It was cancelled. That happens once, so that it can clean up.
        raises: What is to be raised at its await for that: not in such a block, not while an action that it
            awaits is being executed, and not if what it awaits is over.
        is_interrupted: That is raised when it is run.
        kept: The branches that it awaits beside an action. They are told of the invocation's cancellation,
            or of the handler's end, only when it goes on: their ends would cut it off from the action.
        kept_waits: The awakeables that the cancellation leaves alone until then.
        keepers: How many keep it.
        is_blocked: It waits at an await.
        is_ready: It is to be run.
    """

    __slots__ = (
        "begun",
        "branch",
        "coroutine",
        "is_blocked",
        "is_interrupted",
        "is_ready",
        "is_told",
        "keepers",
        "kept",
        "kept_waits",
        "number",
        "raises",
        "scopes",
        "shields",
        "target",
        "unawaited",
        "variables",
        "waiting",
    )

    def __init__(self, number: int, coroutine: Any, branch: Branch | None) -> None:
        self.number = number
        self.coroutine = coroutine
        self.branch = branch
        self.variables: Variables | None = None if branch is None else copy_context()
        self.begun = False
        self.waiting: dict[int, Any] = {}
        self.target: Durable[Any] | None = None
        self.scopes: list[Timeout] = []
        self.shields = 0
        self.unawaited: set[int] = set()
        self.raises: TerminalError | None = None
        self.is_told = False
        self.kept: list[Fiber] = []
        self.kept_waits: tuple[str, ...] = ()
        self.keepers = 0
        self.is_interrupted = False
        self.is_blocked = False
        self.is_ready = False

    def awaits(self, index: int) -> bool:
        """Whether it awaits this operation itself, not a combinator of it."""
        return self.target is not None and self.target._index == index

    def can_go_on(self) -> bool:
        """Whether what it awaits is over, or the time for it."""
        if self.target is not None and self.target.done:
            return True
        return any(scope.expired for scope in self.scopes)

    def close(self) -> None:
        """End it, without waiting for anything more."""
        if self.coroutine is None:
            return
        held, self.coroutine = [self.coroutine], None
        if self.variables is None:
            close(held)
        else:
            self.variables.run(close, held)


class Branches:
    """The fibers of a handler, from the moment that it begins the first branch.

    Attributes:
        current: The fiber that is being run.
        waiting: The operations that any of them waits for, with those that do.
        new: Those that the owner of the attempt has not been told of.
        pending: Those that are cancelled and await actions, by their numbers as `BranchInterrupted` has them.
        drives: Whether it runs the handler's coroutine.
    """

    def __init__(self, execution: Execution) -> None:
        """Begin within the handler, while it is being stepped."""
        self.current = self._own = Fiber(LAST, None, None)
        self._own.begun = True
        self._own.shields = execution.shields
        self.waiting: dict[int, list[Fiber]] = {index: [] for index in execution.also}
        self.new: dict[int, None] = {}
        self.pending: dict[int | None, Fiber] = {}
        self.drives = False
        self._execution = execution
        self._live: dict[Fiber, None] = {}
        self._not_begun: dict[Any, Fiber] = {}
        self._ready: list[tuple[int, Fiber]] = []
        self._awaited: dict[Durable[Any], list[Fiber]] = {}
        self._count = 0
        self._result: tuple[Any, TerminalError | None] = (None, None)

    # What branches are begun and cancelled with.

    def find(self, coroutine: object) -> Branch | None:
        """The branch of a coroutine that has not begun; None: there is none."""
        known = self._not_begun.get(coroutine)
        return None if known is None else known.branch

    def begin(self, coroutine: Coroutine[Any, Any, Any], branch: Branch) -> Fiber:
        """Begin a branch: it is run as soon as the one that asks for it waits."""
        self._count += 1
        fiber = self._not_begun[coroutine] = Fiber(self._count, coroutine, branch)
        self._live[fiber] = None
        self._make_ready(fiber)
        return fiber

    def cancel(self, fiber: Fiber, reason: str) -> None:
        """Raise `Cancelled` at the await of a fiber, once. One that has not begun never begins."""
        if fiber not in self._live:
            return
        if fiber.begun:
            self._tell(fiber, Cancelled(reason))
        else:
            del self._not_begun[fiber.coroutine]
            fiber.close()
            self._end(fiber, None, Cancelled("it was cancelled before it began"))

    def _tell(self, fiber: Fiber, error: TerminalError) -> None:
        if fiber.is_told:
            return
        fiber.is_told, fiber.raises = True, error
        if fiber.is_blocked and not fiber.can_go_on():
            self._interrupt(fiber)

    def _tell_all(self, keepers: Mapping[Fiber, Collection[Fiber]]) -> None:
        """Tell the fibers that the invocation was cancelled, or else that the handler has ended.

        Not those that one awaits beside an action: their ends would cut it off from the action.
        """
        for keeper, kept in keepers.items():
            for fiber in sorted(kept, key=_number_of):
                if fiber not in keeper.kept:
                    keeper.kept.append(fiber)
                    fiber.keepers += 1
        for fiber in list(self._live):
            if not fiber.keepers:
                self._tell_of_the_end(fiber)

    def _tell_of_the_end(self, fiber: Fiber) -> None:
        error = self._execution.cancellation
        if error is None:
            self.cancel(fiber, "the handler has ended")
        else:
            self._tell(fiber, error if fiber is self._own else Cancelled(error.reason, own=True))

    def _keepers(self) -> dict[Fiber, set[Fiber]]:
        """The fibers that await an action, each with all branches that it waits for beside that."""
        runs = self._execution.runs
        keepers = [
            fiber
            for fiber in self._live
            if fiber.is_blocked and not fiber.can_go_on() and any(index in runs for index in fiber.waiting)
        ]
        if not keepers:
            return {}
        awaiting: dict[Durable[Any], list[Fiber]] = {}
        for fiber in self._live:
            if fiber.target is not None:
                awaiting.setdefault(fiber.target, []).append(fiber)
        below: dict[Fiber, list[Fiber]] = {}
        for fiber in self._live:
            for part in () if fiber.branch is None else _above(fiber.branch):
                for above in awaiting.get(part, ()):
                    below.setdefault(above, []).append(fiber)
        found: dict[Fiber, set[Fiber]] = {}
        for keeper in keepers:
            kept, left = set[Fiber](), [keeper]
            while left:
                more = [each for each in below.get(left.pop(), ()) if each not in kept]
                kept.update(more)
                left += more
            found[keeper] = kept - {keeper}
        return found

    def _keep_waits(self, fibers: Iterable[Fiber]) -> None:
        """Leave the awakeables alone that these wait for, although the invocation was cancelled."""
        execution, kept = self._execution, set[str]()
        for fiber in fibers:
            waits = (execution.waits.get(index) for index in fiber.waiting)
            fiber.kept_waits = tuple([wait.awakeable_id for wait in waits if isinstance(wait, AwakeableWait)])
            kept.update(fiber.kept_waits)
        execution.new_cancels = [each for each in execution.new_cancels if each not in kept]

    def _let_go(self, fiber: Fiber) -> None:
        """Cancel what was left alone for a fiber, which goes on now; unless it is left alone itself."""
        if fiber.keepers:
            return
        kept, fiber.kept = fiber.kept, []
        for each in kept:
            each.keepers -= 1
            if not each.keepers and each in self._live:
                self._tell_of_the_end(each)
        waits, fiber.kept_waits = fiber.kept_waits, ()
        if waits and not self._execution.replay.replaying:
            still = set(self._execution.replay.open_awakeables())
            self._execution.new_cancels += [each for each in waits if each in still]

    def _interrupt(self, fiber: Fiber) -> None:
        """Raise what is to be raised in a fiber that is blocked, unless it has to wait."""
        if fiber.shields:
            return  # `_block` follows
        if any(index in self._execution.runs for index in fiber.waiting):
            self.pending[_place_of(fiber)] = fiber
        else:
            fiber.is_interrupted = True
            self._make_ready(fiber)

    def _stop_maps(self, fiber: Fiber) -> None:
        """Begin nothing more of what a fiber has asked `ctx.map` for."""
        for each in self._execution.maps if fiber is self._own else self._maps_of(fiber):
            each.stop()

    def _maps_of(self, fiber: Fiber) -> list[Map]:
        of = None if fiber is self._own else fiber
        return [each for each in self._execution.maps if each.fiber is of]

    # Cancelled fibers that await actions. Only the attempt that executes an action knows that it is being
    # executed, so the journal tells when one was interrupted.

    def _first_to_interrupt(self) -> Fiber | None:
        execution = self._execution
        busy = execution.begun, execution.replay.ran
        for fiber in self.pending.values():
            if not any(index in busy[0] or index in busy[1] for index in fiber.waiting):
                return fiber
        return None

    def has_to_interrupt(self) -> bool:
        """Whether a fiber waits for no action any more that is being executed, or has ended."""
        return bool(self.pending) and self._first_to_interrupt() is not None

    def interrupt(self, entry: BranchInterrupted) -> None:
        """Interrupt a fiber, as the journal says."""
        fiber = self.pending.pop(entry.branch)
        fiber.is_interrupted = True
        self._make_ready(fiber)

    # What the execution asks and tells.

    def on_delivered(self, index: int, *, is_entry: bool = True) -> bool:
        """As of `Execution`; without an entry, the owner does not know."""
        execution = self._execution
        fibers = self.waiting.pop(index, None)
        execution.waiting.pop(index, None)  # of the fiber that is being run, if one is
        execution.also.pop(index, None)
        execution.runs.pop(index, None)
        if fibers is not None:
            if is_entry:
                self.new.pop(index, None)
            else:
                self._not_any_more(index)
        for part, listener in execution.listeners.pop(index, ()):
            listener.on_part(part)
        execution.look()
        for fiber in fibers or ():
            fiber.waiting.pop(index, None)
            if fiber.can_go_on():
                self._make_ready(fiber)
        return bool(self._ready or execution.afterwards) or self.has_to_interrupt()

    def on_decided(self, combinator: Combined) -> None:
        """A combinator is over, or has something to give."""
        for fiber in self._awaited.get(combinator, ()):
            self._make_ready(fiber)

    def next_to_read(self) -> list[int]:
        """The operations whose outcomes are read when their fibers go on, which they can."""
        targets = [fiber.target for _, fiber in self._ready if fiber.target is not None]
        return [target._index for target in targets if target._index >= 0 and target.done]

    def take_new(self) -> Iterable[int]:
        """The operations that the owner has not been told of, which it is told of now."""
        new, self.new = self.new, {}
        return new

    def wait_for_too(self, indexes: Iterable[int]) -> None:
        """As of `Execution`."""
        for index in indexes:
            if index not in self.waiting:
                self.waiting[index] = []
                self.new[index] = None

    def release(self, combinator: Combined) -> None:
        """As of `Execution`."""
        execution = self._execution
        for index in combinator._needs():
            fibers = self.waiting.get(index)
            if fibers is None:
                continue
            for fiber in list(fibers):
                if not (fiber.awaits(index) or execution.is_needed(index, fiber.target, fiber.scopes)):
                    fibers.remove(fiber)
                    fiber.waiting.pop(index, None)
            if not fibers and not execution.is_needed(index, None, ()):
                execution.also.pop(index, None)
                del self.waiting[index]
                self._not_any_more(index)

    @property
    def count(self) -> int:
        """How many there have been, the handler's own among them."""
        return 1 + self._count

    @property
    def handler_has_ended(self) -> bool:
        """Whether the handler itself has returned or failed, and its branches are waited for."""
        return self.drives and self._own not in self._live

    def run_for(self, fiber: Fiber | None, function: Callable[[], object]) -> None:
        """Call a function between the steps of fibers, as if one of them called it; None: the handler's.

        Nothing is called for one that is to be interrupted.
        """
        self.current = fiber or self._own
        if self.current.raises is not None and not self.current.shields:
            return
        if self.current.variables is None:
            function()
        else:
            self.current.variables.run(function)

    # Running them.

    def drive(self, coroutine: Any) -> Generator[Any, Any, Any]:
        """Return what is stepped from now on in place of the handler's own coroutine, which is blocked."""
        self.drives = True
        self._own.coroutine = coroutine
        self._live[self._own] = None
        self._block(self._own)
        return self._drive()

    def close(self) -> None:
        """End all that are left."""
        for fiber in sorted(self._live, key=_number_of):
            fiber.close()
        self._live.clear()
        self._awaited.clear()

    def _drive(self) -> Generator[Any, Any, Any]:
        execution = self._execution
        try:
            yield from self._run_all()
        except GeneratorExit:  # `close` follows
            raise
        except BaseException as error:
            # The attempt is over, whatever the others do.
            was_ending, execution.ending = execution.ending, True
            swallowed = yield from self._unwind()
            execution.ending = was_ending
            if swallowed and isinstance(error, Suspended):
                raise HandlerMisuse("a branch caught Suspended") from None
            raise
        (value, failure), self._result = self._result, (None, None)
        try:
            if failure is not None:
                raise failure
        finally:
            failure = None  # else it and its traceback refer to each other
        return value

    def _run_all(self) -> Generator[Any, Any, None]:
        execution = self._execution
        while True:
            while self._ready or execution.afterwards:
                if execution.afterwards:
                    execution.afterwards.pop(0)()
                    continue
                _, fiber = heappop(self._ready)
                fiber.is_ready = False
                if fiber in self._live:
                    yield from self._run(fiber)
                if execution.is_over:
                    raise Suspended
            if not self._live:
                return
            if not (self.waiting or self.pending):
                raise execution.misuse("the handler and its branches wait for nothing but each other")
            execution.waiting, execution.target = cast("dict[int, Any]", self.waiting), None
            if self.pending and not execution.replay.replaying:
                due = self._first_to_interrupt()
                if due is not None:
                    entry = BranchInterrupted(branch=_place_of(due))
                    execution.replay.cancel(entry)
                    self.interrupt(entry)
                    continue
            raised = yield from execution.receive()
            if raised is not None:
                execution.cancelled(raised)
                keepers = self._keepers()
                self._keep_waits(set(keepers).union(*keepers.values()))
                self._tell_all(keepers)

    def _run(self, fiber: Fiber) -> Generator[Any, Any, None]:
        """Run one to its next durable await, or its end."""
        execution = self._execution
        self.current = fiber
        execution.scopes, execution.target, execution.waiting = fiber.scopes, fiber.target, fiber.waiting
        known = set(execution.unawaited)
        if fiber.target is not None and (fibers := self._awaited.get(fiber.target)):
            fibers.remove(fiber)
            if not fibers:
                del self._awaited[fiber.target]
        self.pending.pop(_place_of(fiber), None)
        self._let_go(fiber)
        fiber.is_blocked = False
        error = None
        if fiber.is_interrupted:
            error, fiber.raises, fiber.is_interrupted = fiber.raises, None, False
            self._forget_unawaited(fiber)
            self._stop_maps(fiber)
        if not fiber.begun:
            fiber.begun = True
            del self._not_begun[fiber.coroutine]
            if getcoroutinestate(fiber.coroutine) != CORO_CREATED:
                name, fiber.coroutine = fiber.coroutine.__qualname__, None
                raise execution.misuse(
                    f"the coroutine {name}(…) was passed to a combinator, and awaited as well; await what "
                    "the combinator returned"
                )
        has_ended, value, failure = False, None, None
        try:
            has_ended, value = yield from _stepped(fiber, error)
        except TerminalError as raised:
            has_ended, failure = True, raised
        except BaseException:
            fiber.coroutine = None
            del self._live[fiber]
            raise
        fiber.unawaited.update(execution.unawaited.keys() - known)
        try:
            if has_ended:
                self._end(fiber, value, failure)
            else:
                self._block(fiber)
        finally:
            error = failure = None  # else they and their tracebacks refer to each other

    def _block(self, fiber: Fiber) -> None:
        """Note what a fiber waits for."""
        execution = self._execution
        fiber.scopes, fiber.target = execution.scopes, execution.target
        before, fiber.waiting = fiber.waiting, execution.waiting
        if fiber.waiting is not before:
            for index in before:
                if index not in fiber.waiting:
                    self._leave(fiber, index)
            for index in fiber.waiting:
                if index not in before:
                    self.wait_for_too((index,))
                    self.waiting[index].append(fiber)
        if fiber.target is not None:
            self._awaited.setdefault(fiber.target, []).append(fiber)
        fiber.is_blocked = True
        if fiber.raises is not None:
            self._interrupt(fiber)
            if fiber.shields:
                self._execution.afterwards += [
                    again for each in self._maps_of(fiber) for again in each.missed()
                ]

    def _end(self, fiber: Fiber, value: Any, failure: TerminalError | None) -> None:
        execution = self._execution
        del self._live[fiber]
        fiber.coroutine = None
        for index in fiber.waiting:
            self._leave(fiber, index)
        if failure is not None:
            self._forget_unawaited(fiber)
        if failure is not None or fiber.raises is not None:
            self._stop_maps(fiber)
        if fiber.branch is not None:
            fiber.branch.end(value, failure)
            execution.look()
            return
        self._result = (value, failure)
        self._stop_maps(fiber)
        self._tell_all(self._keepers())

    def _forget_unawaited(self, fiber: Fiber) -> None:
        """A fiber has failed, or is interrupted: forget what it would have awaited."""
        for key in fiber.unawaited:
            self._execution.unawaited.pop(key, None)
        fiber.unawaited.clear()

    def _unwind(self) -> Generator[Any, Any, bool]:
        """Raise `Suspended` in all that are blocked; return whether one has swallowed it."""
        swallowed = False
        for fiber in sorted(self._live, key=_number_of):
            if fiber.begun:
                self._execution.remind_anew()
                try:
                    yield from _stepped(fiber, Suspended())
                    swallowed = True
                except Suspended as unwound:
                    close_all_unbegun(unwound)
                except (GeneratorExit, asyncio.CancelledError):
                    raise
                except BaseExceptionGroup as group:  # a TaskGroup has passed it on
                    swallowed = swallowed or group.subgroup(Suspended) is None
                except BaseException:
                    swallowed = True
            fiber.close()
        return swallowed

    def _make_ready(self, fiber: Fiber) -> None:
        if not fiber.is_ready:
            fiber.is_ready = True
            heappush(self._ready, (fiber.number, fiber))

    def _leave(self, fiber: Fiber, index: int) -> None:
        """A fiber no longer waits for an operation."""
        fibers = self.waiting.get(index)
        if fibers is None:  # it is over
            return
        fibers.remove(fiber)
        if not fibers and index not in self._execution.also:
            del self.waiting[index]
            self._not_any_more(index)

    def _not_any_more(self, index: int) -> None:
        if index in self.new:
            del self.new[index]
        else:
            self._execution.no_longer.append(index)


def _stepped(fiber: Fiber, error: BaseException | None) -> Generator[Any, Any, tuple[bool, Any]]:
    """Run a fiber to its next durable await; what it awaits from asyncio, all wait for.

    Returns:
        Whether it has returned, and what.
    """
    coroutine = fiber.coroutine
    resume, given = (coroutine.send, None) if error is None else (coroutine.throw, error)
    try:
        while True:
            try:
                item = resume(given) if fiber.variables is None else fiber.variables.run(resume, given)
            except StopIteration as returned:
                return True, returned.value
            if item is BLOCK:
                return False, None
            try:
                resume, given = coroutine.send, (yield item)
            except BaseException as thrown:
                resume, given = coroutine.throw, thrown
    finally:
        error = given = None  # else it and its traceback refer to each other


def _above(part: Combined) -> Iterator[Durable[Any]]:
    """A part, and all combinators that it is in."""
    parts: list[Combined] = [part]
    seen: set[Combined] = set()
    while parts:
        part = parts.pop()
        if part not in seen:
            seen.add(part)
            parts += part.listeners
            yield part


def _number_of(fiber: Fiber) -> int:
    return fiber.number


def _place_of(fiber: Fiber) -> int | None:
    """The number of a branch; None: it is the handler itself."""
    return None if fiber.branch is None else fiber.number
