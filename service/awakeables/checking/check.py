"""Checks the handlers of an app, and the functions of their modules that they pass their context to."""

from __future__ import annotations

import inspect
from types import FunctionType, MethodType
from typing import TypeAlias

from awakeables.checking.findings import CheckedCode, CodeFinding
from awakeables.checking.rules import ActionCode, HandlerCode, PassedContext
from awakeables.checking.source import source_of
from awakeables.handlers.service import App

_Part: TypeAlias = tuple[FunctionType, str, bool]
"""A function, the name of the context in it, and whether it is called in an action."""


def check(app: App) -> CheckedCode:
    """Check the source of an app's handlers for what a replay does not repeat.

    A function of the same module to which a handler passes its context is checked as the handler is. What
    else a handler calls is not.
    """
    handlers, without_source = 0, []
    seen: dict[_Part, list[CodeFinding]] = {}
    for handler in (each for service in app.services.values() for each in service.all_handlers()):
        function = _written(handler.function)
        if function is None or source_of(function) is None:
            without_source.append(f"{handler.service}/{handler.name}")
            continue
        handlers += 1
        context = next(iter(inspect.signature(handler.function).parameters))
        _check((function, context, False), seen)
    findings = sorted({finding for each in seen.values() for finding in each})
    return CheckedCode(handlers=handlers, findings=findings, without_source=without_source)


def _check(first: _Part, seen: dict[_Part, list[CodeFinding]]) -> None:
    """Check a function and those that it passes the context to, unless they were checked before."""
    parts = [first]
    while parts:
        part = function, context, in_action = parts.pop()
        source = None if part in seen else source_of(function)
        if source is None:
            continue
        code = (ActionCode if in_action else HandlerCode)(source, context)
        code.visit_body()
        seen[part] = code.findings
        parts += [called for passed in code.passed if (called := _called(function, passed)) is not None]


def _written(function: object) -> FunctionType | None:
    """The function that was written, without decorators and binding; None if there is none."""
    while True:
        if isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, FunctionType) and hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return function if isinstance(function, FunctionType) else None


def _called(caller: FunctionType, passed: PassedContext) -> _Part | None:
    """The function that the context is passed to, if the caller's module or closure has it."""
    function = _written(_enclosed(caller, passed.function))
    if function is None:
        function = _written(caller.__globals__.get(passed.function))
        if function is None or function.__module__ != caller.__module__:
            return None
    place = passed.argument
    if isinstance(place, int):
        positional = function.__code__.co_varnames[: function.__code__.co_argcount]
        if place >= len(positional):
            return None
        place = positional[place]
    return function, place, passed.in_action


def _enclosed(function: FunctionType, name: str) -> object:
    """What a name of an enclosing function stands for, as in a decorator; None if there is no such name."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    try:
        return cells[name].cell_contents
    except (KeyError, ValueError):  # ValueError: it was never assigned
        return None
