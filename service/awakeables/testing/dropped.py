"""Coroutines that a handler has made and dropped: Python only warns of them, a test of the kit fails."""

from __future__ import annotations

import gc
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from types import FrameType
from typing import Any

import awakeables
from awakeables.handlers.current import executed

_NEVER_AWAITED = re.compile(
    r"coroutine '(?P<name>.*)' was never awaited\nCoroutine created at \(most recent call last\)\n"
    r'  File "(?P<file>.*)", line \d+, in (?P<function>.*)\n'
)
_OF_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
_OURS = awakeables.__file__.removesuffix("__init__.py")

_lock = Lock()
_users = 0
_collecting = False
_caught = warnings.catch_warnings()
_filters: list[Any] = []


@contextmanager
def noticed() -> Iterator[None]:
    """Turn Python's warning of a coroutine that a handler drops into a misuse, which pauses the invocation.

    It is one only if the function that made the coroutine is still being executed, or is the handler's own
    and has just returned: what an exception has left behind is no mistake, nor what a suspended handler makes
    again in its replay.
    """
    depth = sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(max(1, depth))
    _enter()
    try:
        yield
    finally:
        _leave()
        sys.set_coroutine_origin_tracking_depth(depth)


def _enter() -> None:
    """Begin to notice, unless another thread has begun: what is changed belongs to the whole process."""
    global _users, _caught, _filters
    with _lock:
        if not _users:
            _caught = warnings.catch_warnings()
            _caught.__enter__()
            _filters = [*warnings.filters]
            # Always: by default Python warns once for each line.
            warnings.filterwarnings("always", r"coroutine '.*' was never awaited", RuntimeWarning)
            warnings.showwarning = _instead_of(warnings.showwarning)
            gc.callbacks.append(_on_collection)
        _users += 1


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if not _users:
            gc.callbacks.remove(_on_collection)
            _caught.__exit__(None, None, None)


def _on_collection(phase: str, _info: object) -> None:
    global _collecting
    _collecting = phase == "start"


def _instead_of(show: Any) -> Any:
    def notice(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any, **named: Any
    ) -> None:
        text = str(message)
        found = _NEVER_AWAITED.match(text) if category is RuntimeWarning else None
        if found is None and not text.startswith("coroutine '"):
            show(message, category, filename, lineno, *more, **named)
        elif found is None or not _is_misused(found):
            _show_as_before(show, message, category, filename, lineno)

    return notice


def _show_as_before(show: Any, message: Any, category: type[Warning], filename: str, lineno: int) -> None:
    """Do what the filters from before say: it may be an error."""
    with warnings.catch_warnings():
        warnings.filters[:] = _filters  # type: ignore[index]
        warnings.showwarning = show
        warnings.warn_explicit(message, category, filename, lineno)


def _is_misused(found: re.Match[str]) -> bool:
    """Whether a handler is being executed that has dropped it, or drops it while it is unwound."""
    execution = executed()
    if execution is None or execution.thread != get_ident():
        return execution is not None and execution.is_over
    if execution.is_over:
        return True
    file = found["file"]
    if _collecting:  # perhaps of another invocation of the same handler
        return False
    if file.startswith(_OF_LIBRARIES) or not _is_certain(file, found["function"]):
        return False
    what = f"the coroutine {found['name']}(…) was never awaited, so nothing of it happens"
    execution.misuse(f"{what}; put `await` before it, or pass it to ctx.gather")
    return True


def _is_certain(file: str, function: str) -> bool:
    """Whether the function that made it is being executed, or else nothing of the user's: it has returned."""
    frame: FrameType | None = sys._getframe()
    has_users = False
    while frame is not None and not frame.f_code.co_filename.startswith(f"{_OURS}handlers/"):
        code = frame.f_code
        if (code.co_filename, code.co_name) == (file, function):
            return True
        has_users = has_users or not code.co_filename.startswith((_OURS, warnings.__file__))
        frame = frame.f_back
    return not has_users
