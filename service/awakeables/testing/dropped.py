"""Coroutines that a handler has made and dropped: Python only warns of them, a test of the kit fails."""

from __future__ import annotations

import gc
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from awakeables.handlers.current import executed

_NEVER_AWAITED = re.compile(r"coroutine '(.*)' was never awaited")
_lock = Lock()
_users = 0
_collecting = False
_caught = warnings.catch_warnings()


@contextmanager
def noticed() -> Iterator[None]:
    """Turn Python's warning of a coroutine that a handler drops into a misuse, which pauses the invocation.

    Not if the attempt is over: a handler that is suspended drops the coroutines that it has not passed on
    yet, and makes them again in its replay.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    """Begin to notice, unless another thread has begun: what is changed belongs to the whole process."""
    global _users, _caught
    with _lock:
        if not _users:
            _caught = warnings.catch_warnings()
            _caught.__enter__()
            # Always: by default Python warns once for each line.
            warnings.filterwarnings("always", _NEVER_AWAITED.pattern, RuntimeWarning)
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
    def notice(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        found = _NEVER_AWAITED.match(str(message)) if category is RuntimeWarning else None
        if found is None or not _is_misused(found[1]):
            show(message, category, *place, **more)

    return notice


def _is_misused(coroutine: str) -> bool:
    """Whether a handler is being executed, which has dropped it then."""
    execution = executed()
    if execution is None or _collecting:  # a collection may run in any handler
        return False
    if not execution.is_over:
        what = f"the coroutine {coroutine}(…) was never awaited, so nothing of it happens"
        execution.misuse(f"{what}; put `await` before it, or pass it to ctx.gather")
    return True
