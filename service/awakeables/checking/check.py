"""Checks the handlers of an app, and the functions of their modules that they pass their context to."""

from __future__ import annotations

import inspect
from functools import partial
from types import FunctionType, MethodType
from typing import TypeAlias

from awakeables.checking.findings import CheckedCode, CodeFinding
from awakeables.checking.rules import ActionCode, HandlerCode, PassedContext, action_parameters
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
        if in_action:
            code: ActionCode | HandlerCode = ActionCode(source, context)
        else:
            code = HandlerCode(source, context, partial(_action_parameters, function))
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
    function, is_bound = _found(caller, passed.function)
    if function is None:
        return None
    place = passed.argument
    if isinstance(place, int):
        place += is_bound
        positional = function.__code__.co_varnames[: function.__code__.co_argcount]
        if place >= len(positional):
            return None
        place = positional[place]
    return function, place, passed.in_action


def _found(caller: FunctionType, path: str) -> tuple[FunctionType | None, bool]:
    """The function that the caller's module or closure has under a name, and whether it gets `self` first."""
    first, *names = path.split(".")
    found = _enclosed(caller, first)
    is_enclosed = found is not None
    found = caller.__globals__.get(first) if found is None else found
    is_bound = isinstance(found, MethodType)
    for name in names:
        of = found
        try:
            found = inspect.getattr_static(of, name)  # which executes nothing
        except AttributeError:
            return None, False
        is_class = isinstance(of, type)
        is_bound = isinstance(found, classmethod) or (isinstance(found, FunctionType) and not is_class)
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
    function = _written(found)
    if function is None or not (is_enclosed or function.__module__ == caller.__module__):
        return None, False
    return function, is_bound


def _action_parameters(caller: FunctionType, name: str) -> list[tuple[str, int]]:
    function, _ = _found(caller, name)
    source = None if function is None else source_of(function)
    return [] if source is None else action_parameters(source)


def _enclosed(function: FunctionType, name: str) -> object:
    """What a name of an enclosing function stands for, as in a decorator; None if there is no such name."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    try:
        return cells[name].cell_contents
    except (KeyError, ValueError):  # ValueError: it was never assigned
        return None
