"""Checks the handlers of an app, and the functions of their modules that they pass their context to."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import TypeAlias

from awakeables.checking.findings import CheckedCode, CodeFinding
from awakeables.checking.rules import ActionCode, HandlerCode, PassedContext, action_parameters
from awakeables.checking.source import source_of
from awakeables.handlers.service import App, Handler

_Part: TypeAlias = tuple[FunctionType, str, bool]
"""A function, the name of the context in it, and whether it is called in an action."""

_Codes: TypeAlias = dict[_Part, ActionCode | HandlerCode | None]
"""What was visited; None: its source was not found."""


def check(app: App) -> CheckedCode:
    """Check the source of an app's handlers for what a replay does not repeat.

    A function of the same module to which a handler passes its context is checked as the handler is. What
    else a handler calls is not.
    """
    without_source = []
    codes: _Codes = {}
    checked: list[tuple[Handler, list[ActionCode | HandlerCode]]] = []
    for handler in app.all_handlers():
        function = _written(handler.function)
        if function is None or source_of(function) is None:
            without_source.append(f"{handler.service}/{handler.name}")
            continue
        context = next(iter(inspect.signature(handler.function).parameters))
        checked.append((handler, _visited((function, context, False), codes)))
    findings = {finding for code in codes.values() if code is not None for finding in code.findings}
    findings |= set(_blocked_keys(checked))
    return CheckedCode(handlers=len(checked), findings=sorted(findings), without_source=without_source)


def _visited(first: _Part, codes: _Codes) -> list[ActionCode | HandlerCode]:
    """Visit a function and those that it passes the context to; those that were not visited before."""
    found, parts, seen = [], [first], {first}
    while parts:
        part = parts.pop()
        if part not in codes:
            codes[part] = _visit(part)
        code = codes[part]
        if code is None:
            continue
        found.append(code)
        called = {to for passed in code.passed if (to := _called(part[0], passed)) is not None} - seen
        parts += called
        seen |= called
    return found


def _visit(part: _Part) -> ActionCode | HandlerCode | None:
    function, context, in_action = part
    source = source_of(function)
    if source is None:
        return None
    if in_action:
        code: ActionCode | HandlerCode = ActionCode(source, context)
    else:
        code = HandlerCode(
            source, context, partial(_action_parameters, function), partial(_is_coroutine_function, function)
        )
    code.visit_body()
    return code


def _blocked_keys(
    checked: Iterable[tuple[Handler, list[ActionCode | HandlerCode]]],
) -> Iterator[CodeFinding]:
    """Where an exclusive handler settles awakeables while another one of its object waits for some.

    While the other waits, it holds its key, so a call for that key never gets to settle anything.
    """
    exclusive = [(handler, codes) for handler, codes in checked if handler.kind == "exclusive"]
    for handler, codes in exclusive:
        waiting = sorted(
            other.name
            for other, of_other in exclusive
            if other.service == handler.service and other.name != handler.name
            if any(code.waits for code in of_other)
        )
        for code in codes if waiting else ():
            for call in code.settles:
                text = (
                    f"{handler.name} settles awakeables, but can't run while {waiting[0]}, which is "
                    "exclusive as well, waits for one in the same key; if they are for that, declare it with "
                    f"`@{handler.service}.shared()`"
                )
                yield from code.finding(call, "blocked-key", text)


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
    found, is_enclosed, is_bound = _looked_up(caller, path)
    function = _written(found)
    if function is None or not (is_enclosed or function.__module__ == caller.__module__):
        return None, False
    return function, is_bound


def _looked_up(caller: FunctionType, path: str) -> tuple[object, bool, bool]:
    """What it has under a name, with decorators; whether in its closure; and whether it gets `self` first."""
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
            return None, False, False
        is_class = isinstance(of, type)
        is_bound = isinstance(found, classmethod) or (isinstance(found, FunctionType) and not is_class)
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
    return found, is_enclosed, is_bound


def _is_coroutine_function(caller: FunctionType, path: str) -> bool:
    """Whether what the caller has under a name is one: a decorator may have made something else of it."""
    found, _, _ = _looked_up(caller, path)
    return inspect.iscoroutinefunction(found) and getattr(found, "__module__", None) == caller.__module__


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
