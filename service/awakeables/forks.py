"""Child processes that users' code forks: what they must not keep of their parent.

A fork has a copy of all that is open. `multiprocessing` forks in an action or a task by default
(Linux, before Python 3.14), and its children outlive a parent that is killed: with the lock of
the store and the port of the service in their hands the next start would be refused.
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
    """Have `close(owner)` called in each child that is forked from now on, while the owner lives."""
    _owned[owner] = close


def keep_signals_apart(loop: asyncio.AbstractEventLoop) -> None:
    """Let children take signals as any process does, although the loop has handlers for its own.

    Python's handlers, and the pipe that wakes the loop for them, are inherited: SIGTERM to a child
    would do nothing there, and stop the parent.
    """
    thread_id = threading.get_ident()

    def reset() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if threading.get_ident() == thread_id:
            # Code on the loop has forked. Should the child come back to the loop, it would do the parent's
            # work a second time, on the same connections.
            loop.call_soon(os._exit, 1)

    os.register_at_fork(after_in_child=reset)


def _close_all() -> None:
    for owner, close in list(_owned.items()):
        close(owner)


os.register_at_fork(after_in_child=_close_all)
