"""Keeps child processes that users' code forks from holding on to their parent's resources.

A fork has a copy of every open file and socket. `multiprocessing` in an action or task forks by default
(Linux, before Python 3.14), and the children outlive a parent that is killed: if they kept the store's
lock and the service's port, the next start would fail.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

_owned: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def close_in_children(owner: Any, close: Callable[[Any], None]) -> None:
    """Call `close(owner)` in each child that is forked from now on, as long as `owner` exists."""
    _owned[owner] = close


def keep_signals_apart(loop: asyncio.AbstractEventLoop) -> None:
    """Reset signal handling in forked children, since the loop's handlers are for the parent.

    A child inherits Python's handlers and the pipe by which they wake the loop: SIGTERM to the child
    would do nothing there, and stop the parent.
    """
    thread_id = threading.get_ident()

    def reset() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if threading.get_ident() == thread_id:
            # Code on the loop forked. If the child returned to the loop, it would do the parent's work a
            # second time, on the same connections.
            loop.call_soon(os._exit, 1)

    os.register_at_fork(after_in_child=reset)


def _close_all() -> None:
    for owner, close in list(_owned.items()):
        close(owner)


os.register_at_fork(after_in_child=_close_all)
