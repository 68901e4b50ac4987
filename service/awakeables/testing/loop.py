"""An asyncio loop for tests, with virtual time and a seeded order of callbacks."""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextvars import Context as Variables
from functools import partial
from random import Random
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

STARTED_MS = 1_767_225_600_000
"""Virtual time begins on 2026-01-01."""


STRAY_S = 60.0
"""How long tasks that a handler left behind may take to end."""


OnOwnVariables: TypeAlias = Callable[[Callable[[], asyncio.Task[Any]], Variables], asyncio.Task[Any]]


class Deadlock(Exception):
    """Nothing can happen any more: no callback is ready and no timer is set."""

    def __init__(self) -> None:
        super().__init__("no callback is ready and no timer is set: what is awaited never happens")


class _Selector(selectors.DefaultSelector):
    """The standard selector, which saves the system call where nothing but the loop's wake-up is watched."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # What a thread hands to the loop is in the loop's queue before it is woken.
        if timeout is not None and timeout <= 0 and len(self.get_map()) <= 1:
            return []
        return super().select(timeout)


class SeededLoop(asyncio.SelectorEventLoop):
    """The standard loop, except that time jumps to the next timer as soon as nothing is ready.

    The seed decides the order of callbacks that are ready at the same time, so that a test is repeatable
    and many seeds try many interleavings. Time stands still while a thread of `run_in_executor` runs.

    Attributes:
        on_own_variables: Called with what starts a task, and with the context variables that it is given.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(_Selector())
        self._jump_to(0.0)
        self._chance = Random(seed)  # noqa: S311 - must repeat
        self._at_work = 0
        self._idle: asyncio.Future[None] | None = None
        self.on_own_variables: OnOwnVariables = lambda start, _variables: start()

    def time(self) -> float:
        return self._virtual_s

    def freeze(self, seconds: float) -> None:
        """Advance time while nothing runs, as if the process were stopped."""
        self._jump_to(self._virtual_s + seconds)

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._at_work += 1
        future.add_done_callback(self._done)
        return future

    def create_task(
        self, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
    ) -> asyncio.Task[T]:
        start = partial(super().create_task, coro, **options)
        variables = options.get("context")
        return start() if variables is None else self.on_own_variables(start, variables)

    def _done(self, _future: asyncio.Future[Any]) -> None:
        self._at_work -= 1

    async def idle(self) -> None:
        """Wait until nothing is left to run before the next timer; for one caller at a time."""
        self._idle = self.create_future()
        await self._idle

    def interrupt(self) -> None:
        """Let the caller of `idle` go on although there is more to run."""
        if self._idle is not None:
            idle, self._idle = self._idle, None
            idle.set_result(None)

    def poll(self, timeout_s: float) -> bool:
        """Wait in real time for events from sockets and threads; return whether there were any."""
        self._process_events(self._selector.select(timeout_s))
        return bool(self._ready)

    @property
    def has_sockets(self) -> bool:
        """Whether any sockets are watched, apart from the loop's own wake-up socket."""
        return len(self._selector.get_map()) > 1

    def next_timer(self) -> float | None:
        """When the next timer is due, in the loop's time."""
        self._drop_cancelled_timers()
        return self._scheduled[0]._when if self._scheduled else None

    def variables_of_timers(self) -> Iterator[Variables]:
        """The context variables of the code that has set each timer."""
        for timer in self._scheduled:
            if not timer._cancelled:
                yield timer._context

    def _drop_cancelled_timers(self) -> None:
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
            self._timer_cancelled_count = max(0, self._timer_cancelled_count - 1)

    def _jump_to(self, instant_s: float) -> None:
        self._virtual_s = instant_s
        # Less than the next larger float, and a timer that is set for now would never be due.
        self._clock_resolution = max(1e-6, 2 * math.ulp(instant_s))

    def _run_once(self) -> None:
        ready = self._ready
        self._drop_cancelled_timers()
        if not ready and not self._at_work and not self.poll(0):
            if self._idle is not None:
                self.interrupt()
            elif not self._scheduled:
                raise Deadlock
            else:
                self._jump_to(max(self._virtual_s, self._scheduled[0]._when))
        if len(ready) > 1:
            shuffled = list(ready)
            self._chance.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        super()._run_once()  # type: ignore[misc]

    _clock_resolution: float
    _process_events: Callable[[Any], None]
    _ready: deque[Any]
    _scheduled: list[Any]
    _selector: Any
    _timer_cancelled_count: int


async def end_stray_tasks() -> None:
    """Cancel the tasks that a handler left behind, as `asyncio.run` does at its end."""
    stray = asyncio.all_tasks() - {asyncio.current_task()}
    for task in stray:
        task.cancel()
    if stray:
        # A task that swallows its cancellation never ends, not even in virtual time.
        await asyncio.wait(stray, timeout=STRAY_S)
    await asyncio.get_running_loop().shutdown_asyncgens()


class VirtualClock:
    """The clock of a seeded loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return STARTED_MS + round(self._loop.time() * 1000)

    def monotonic(self) -> float:
        return self._loop.time()


class SeededEntropy:
    """Repeatable random bytes."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = Random(seed)  # noqa: S311 - must repeat

    def bytes(self, count: int) -> bytes:
        return self._chance.randbytes(count)


class InlineExecutor(Executor):
    """Runs blocking work in the caller, because virtual time can't wait for threads."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class ThreadInTurn(ThreadPoolExecutor):
    """Runs blocking work in a thread, as the service does, but one piece at a time.

    The caller waits for it, so that the seed decides the order of everything, but at most `PATIENCE_S`,
    because the thread may need the caller's loop.
    """

    PATIENCE_S = 1.0

    def __init__(self) -> None:
        super().__init__(1, thread_name_prefix="awakeables-run")

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        wait([future], timeout=self.PATIENCE_S)
        return future
