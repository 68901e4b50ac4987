"""A process that stops itself at the worst moment: it has read rows, and is about to write what it decided.

Imported by the app that is killed. SIGUSR1: before the write of a group, which has locked nothing.
SIGUSR2: before the write of a search, which holds locks.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from awakeables.store.postgres.store import PostgresStore

MOMENTS = {signal.SIGUSR1: ["load", "write"], signal.SIGUSR2: ["search", "write"]}

_ordered: list[str] = []
_steps = ["", ""]
_init = PostgresStore.__init__


def obey() -> None:
    """Stop once at such a moment after such a signal."""
    for order in MOMENTS:
        signal.signal(order, _on_order)
    PostgresStore.__init__ = _init_watched  # type: ignore[method-assign]


def _on_order(order: int, _frame: Any) -> None:
    _ordered[:] = MOMENTS[signal.Signals(order)]


def _init_watched(self: PostgresStore, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, between=_stop, **kwargs)


async def _stop(step: str) -> None:
    _steps[:] = [_steps[1], step]
    if _steps == _ordered:
        _ordered.clear()
        os.kill(os.getpid(), signal.SIGSTOP)
