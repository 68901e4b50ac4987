"""Schedules of handlers: what a tick begins, checked when the handler is declared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from awakeables.core.schedules import Declaration
from awakeables.core.texts import excerpt
from awakeables.errors import DeclarationError, TerminalError
from awakeables.handlers.invoking import NO_INPUT, checked_input, key_problem
from awakeables.handlers.schedule import Schedule, key_at

if TYPE_CHECKING:
    from awakeables.handlers.service import Handler

MAX_NAME: Final = 210
"""Longest name of a schedule: those of a service and of a handler, and a number."""

SOME_TICK_MS: Final = 1
"""A tick whose suffix to a key is as long as can be."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class DeclaredSchedule(NamedTuple):
    """A schedule of a handler.

    Attributes:
        name: Identifies it in the store and in commands.
        content: The input, as `Handler.accept` returns it.
    """

    name: str
    handler: Handler
    schedule: Schedule
    content: bytes | None

    @property
    def declared(self) -> Declaration:
        """What the store compares."""
        return (self.handler.service, self.handler.name, self.schedule.spec(self.content))

    def key(self, tick_ms: int) -> str | None:
        """The key that the handler is called for."""
        key = self.schedule.key
        return key if key is None or self.handler.kind != "run" else key_at(key, tick_ms)


def declared_schedules(
    handler: Handler, given: Schedule | Sequence[Schedule], where: str
) -> tuple[DeclaredSchedule, ...]:
    """Check the schedules of a handler, and name them.

    Raises:
        DeclarationError: One of them does not fit the handler.
    """
    several = (given,) if isinstance(given, Schedule) else given
    if not isinstance(several, tuple | list) or not all(isinstance(each, Schedule) for each in several):
        raise DeclarationError(f"{where}: schedule= is a Schedule, or a tuple of them, not {excerpt(given)}")
    return tuple(_declared(handler, each, number, where) for number, each in enumerate(several, 1))


def _declared(handler: Handler, schedule: Schedule, number: int, where: str) -> DeclaredSchedule:
    name = schedule.name or f"{handler.service}.{handler.name}" + (f".{number}" if number > 1 else "")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise DeclarationError(
            f"{where}: a schedule's name has letters, digits, '.', '_' and '-', begins with a letter or "
            f"digit, and has at most {MAX_NAME} characters, not {excerpt(name)}"
        )
    if not handler.keyed and schedule.key is not None:
        raise DeclarationError(f"{where}: a service has no keys; leave out key= of its schedule")
    try:
        content = checked_input(handler, NO_INPUT if schedule.input is None else schedule.input)
    except TerminalError as error:
        raise DeclarationError(f"{where}: input= of its schedule: {error}") from error
    found = DeclaredSchedule(name, handler, schedule, content)
    problem = key_problem(found.key(SOME_TICK_MS)) if handler.keyed else None
    if problem is not None:
        raise DeclarationError(f"{where}: it is called for a key, so its schedule needs key=: {problem}")
    return found
