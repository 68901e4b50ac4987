"""The context of the handler that is being executed, for libraries that it calls."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from awakeables.handlers.execution import acting

if TYPE_CHECKING:
    from awakeables.handlers.context import Context
    from awakeables.handlers.execution import Execution

current: ContextVar[tuple[Context, Execution]] = ContextVar("current")
"""Set by each attempt, in the variables that its handler is executed in."""


def current_context() -> Context:
    """The context of the handler that is being executed.

    For code far below a handler, to which the context can't be handed on: the tools of an agent library, for
    example. In a branch it is that of its handler.

    Returns:
        The context that the handler was called with: an `ObjectContext` in an exclusive handler of a virtual
        object, for example.

    Raises:
        LookupError: No handler is being executed here. In an action there is none either, since a replay does
            not execute it.
    """
    name = acting.get()
    if name is not None:
        raise LookupError(f"the action {name!r} has no context; pass what it needs as arguments")
    try:
        return current.get()[0]
    except LookupError:
        raise LookupError("no handler is being executed here, so there is no context") from None


def executed() -> Execution | None:
    """The execution of the handler that is being executed; None: none is, or an action is."""
    found = current.get(None)
    return None if found is None or acting.get() is not None else found[1]
