"""The user's code during a test: the tasks in which it waits, and how often its handlers have begun."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Context as Variables
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from awakeables.core.journal import Entry
from awakeables.errors import AwakeablesError
from awakeables.handlers.attempt import Attempt, Attempts, Origin, Ready
from awakeables.handlers.execution import acting
from awakeables.testing.loop import SeededLoop

T = TypeVar("T")

POLL_S = 0.005
"""Real time to wait, before virtual time passes, for a thread that the user's code may have started."""

SOCKETS_S = 1.0
"""The same while sockets are open, because a server may be slow."""

STUCK_S = 2.0
"""The same for code that no timer will resume: something real must, or it is stuck."""

MOST_EVENTS = 10_000
"""How much may happen in one call of a test, before it is taken for endless."""

MOST_NAMED = 5
"""How many handlers the message about that names."""


class Endless(AwakeablesError):
    """Handlers go on and on: so much has happened in one call of the test that it may never end."""


class _Mark:
    """Marks the context variables of a task of the user's code, and so what it starts: timers and threads.

    A handler begins without a task, and is in one only while it awaits something of asyncio's, so its mark is
    that of its attempt: the timer that it awaits was set before its task was created.
    """

    def __init__(self, of: UserCode) -> None:
        self.of = of


_mark: ContextVar[_Mark | None] = ContextVar("awakeables_user_code", default=None)


class UserCode:
    """Actions, answers of the test, and handlers that await something of asyncio's.

    They are the tasks of the loop that are created with context variables of their own.

    What each of them waits for decides whether time may pass. A timer is due in virtual time. A socket or a
    thread is real: time must not pass before it. A task that has set no timer can only wait for these, or it
    is stuck, so it is waited for longer, but only once.

    Attributes:
        events: How often each handler began in this call of the test, and how often time passed.
    """

    def __init__(self, loop: SeededLoop, on_endless: Callable[[Endless], object]) -> None:
        """Prepare.

        Args:
            loop: Where it is executed.
            on_endless: Called when too much has happened.
        """
        self._loop = loop
        loop.on_own_variables = self._started
        self._on_endless = on_endless
        self._tasks: dict[asyncio.Task[Any], _Mark] = {}
        self._stuck: set[_Mark] = set()
        self.events: Counter[str] = Counter()

    def marked(self) -> Variables:
        """Context variables for an attempt, whose timers are known as its own."""
        variables = copy_context()
        variables.run(_mark.set, _Mark(self))
        return variables

    def _started(self, start: Callable[[], asyncio.Task[T]], variables: Variables) -> asyncio.Task[T]:
        mark = variables.get(_mark)
        if mark is None or mark.of is not self or variables.get(acting) is not None:
            mark = _Mark(self)
            variables.run(_mark.set, mark)
        task = start()
        self._tasks[task] = mark
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._stuck.discard(self._tasks.pop(task))

    def is_caller(self) -> bool:
        """Whether the user's code is what calls this, also from a thread that asyncio has started for it."""
        mark = _mark.get()
        return mark is not None and mark.of is self

    def awaits(self, invocation_id: str) -> bool:
        """Whether a handler or an action of an invocation awaits something of asyncio's."""
        return any(task.get_name() == invocation_id for task in self._tasks)

    def wait(self) -> bool:
        """Wait in real time for what its tasks may wait for; return whether something has happened."""
        if not self._tasks:
            return False
        timed = {variables.get(_mark) for variables in self._loop.variables_of_timers()}
        untimed = set(self._tasks.values()) - timed - self._stuck
        if untimed:
            happened = self._loop.poll(STUCK_S)
        else:
            happened = self._loop.poll(SOCKETS_S if self._loop.has_sockets else POLL_S)
        if not happened:
            self._stuck |= untimed
        return happened

    def count(self, what: str) -> None:
        """Count what happens."""
        self.events[what] += 1
        if self.events.total() > MOST_EVENTS:
            each = (f"{name} {count:,} times" for name, count in self.events.most_common(MOST_NAMED))
            self._on_endless(
                Endless(
                    f"more than {MOST_EVENTS:,} events in one call of the test: {', '.join(each)}. "
                    "If handlers begin again and again as time passes, use `Harness.advance`, which ends"
                )
            )


class CountedAttempts:
    """`Attempts` that are counted."""

    def __init__(self, code: UserCode, attempts: Attempts) -> None:
        """Count what these attempts do."""
        self._code = code
        self._attempts = attempts

    def open(self, origin: Origin, history: Sequence[Entry], ready: Ready) -> Attempt:
        """As the port says."""
        self._code.count(f"{origin.service}/{origin.handler} began")
        return self._code.marked().run(self._attempts.open, origin, history, ready)

    def unavailable(self) -> Sequence[str]:
        """As the port says."""
        return self._attempts.unavailable()

    async def close(self) -> None:
        """As the port says."""
        await self._attempts.close()
