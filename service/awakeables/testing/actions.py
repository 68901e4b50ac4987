"""What a test lets happen instead of an app's actions."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from awakeables.core.invocations import Invocation
from awakeables.handlers.execution import RunCall

Chosen: TypeAlias = Callable[[RunCall], Callable[..., Any]]
"""Chooses what a call of `ctx.run` executes, once for each execution."""


class _Commits(NamedTuple):
    """How far an owner of an invocation has committed."""

    epoch: int
    number: int

    @staticmethod
    def of(row: Invocation | None) -> _Commits | None:
        return None if row is None else _Commits(row.epoch, row.commits)


class Actions:
    """Chooses what the calls of `ctx.run` execute.

    A failure that a crash of the kit has lost before it was journaled happens again in the next process, as
    an error that lasts does: a test gets the failures that it has asked for, however often a process crashes.
    """

    def __init__(self, row_of: Callable[[str], Invocation | None]) -> None:
        """Prepare.

        Args:
            row_of: The row of an invocation.
        """
        self._row_of = row_of
        self._instead: dict[str, Chosen] = {}
        self._executed: set[str] = set()
        self._failed: list[tuple[_Failing, str, _Commits | None]] = []

    def of(self, run: RunCall) -> Callable[..., Any]:
        """What to execute; called in the task of the execution, whose name is the invocation's ID."""
        self._executed.add(run.name)
        chosen = self._instead.get(run.name)
        return run.action if chosen is None else chosen(run)

    def replace(self, name: str, function: Callable[..., Any]) -> None:
        """Execute a function instead of an action."""

        def chosen(run: RunCall) -> Callable[..., Any]:
            if isinstance(run.action, functools.partial):
                return functools.partial(function, *run.action.args, **run.action.keywords)
            return function

        self._instead[name] = chosen

    def fail(self, name: str, error: BaseException, times: int) -> None:
        """Let the next executions of an action raise an error instead.

        Raises:
            TypeError: It is no exception.
            ValueError: `times` is less than 1.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"fail: the error must be an exception, such as ConnectionError(), not {error!r}")
        if times < 1:
            raise ValueError(f"fail: times must be at least 1, not {times}")
        self._instead[name] = _Failing(self, error, times, self._instead.get(name))

    def note_failure(self, failing: _Failing) -> None:
        """Remember a failure until it is journaled."""
        task = asyncio.current_task()
        invocation_id = "" if task is None else task.get_name()
        self._failed.append((failing, invocation_id, _Commits.of(self._row_of(invocation_id))))

    def crashed(self) -> None:
        """Let the failures that the crash has lost happen again."""
        for failing, invocation_id, then in self._failed:
            failing.left += _Commits.of(self._row_of(invocation_id)) == then
        self._failed.clear()

    def refuse_unused(self) -> None:
        """Check that each name was that of an action.

        Raises:
            AssertionError: No action with one of the names was executed.
        """
        unused = sorted(self._instead.keys() - self._executed)
        if unused:
            executed = ", ".join(map(repr, sorted(self._executed))) or "none"
            raise AssertionError(
                f"fail() or replace() was called for {', '.join(map(repr, unused))}, and no such action was "
                f"executed; the executed actions are: {executed}"
            )


class _Failing:
    """Raises an error some times; then what was executed before is executed again."""

    def __init__(self, actions: Actions, error: BaseException, times: int, before: Chosen | None) -> None:
        self.left = times
        self._actions = actions
        self._error = error
        self._before = before

    def __call__(self, run: RunCall) -> Callable[..., Any]:
        if self.left < 1:
            return run.action if self._before is None else self._before(run)
        self.left -= 1
        self._actions.note_failure(self)
        return self._raise

    def _raise(self, *_args: Any) -> Any:
        raise self._error
