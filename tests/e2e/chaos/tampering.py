"""What the app that is killed does to its own process.

It stops itself at the worst moment, when it has read rows and is about to write what it decided. SIGUSR1:
before the write of a group, which has locked nothing. SIGUSR2: before that of a search, which holds locks.

With CHAOS_NO_HINTS in its environment it tells other instances nothing.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from awakeables.core.instances import Hint
from awakeables.store.postgres.hints import PostgresHints
from awakeables.store.postgres.store import PostgresStore

MOMENTS = {signal.SIGUSR1: ["load", "write"], signal.SIGUSR2: ["search", "write"]}

ORDER_S = 4.0
"""How long an order holds: less than whoever gave it waits, so that nobody is stopped whom nobody thaws."""

_ordered: list[str] = []
_until_s = [0.0]
_steps = ["", ""]
_init = PostgresStore.__init__


def begin() -> None:
    """Stop once at such a moment after such a signal; send no hints."""
    for order in MOMENTS:
        signal.signal(order, _on_order)
    PostgresStore.__init__ = _init_watched  # type: ignore[method-assign]
    if os.environ.get("CHAOS_NO_HINTS"):
        PostgresHints.send = _send_nothing  # type: ignore[assignment, method-assign]


def _on_order(order: int, _frame: Any) -> None:
    _ordered[:] = MOMENTS[signal.Signals(order)]
    _until_s[0] = time.monotonic() + ORDER_S


def _send_nothing(_hints: PostgresHints, _instance_id: str, _hint: Hint) -> None:
    """As if PostgreSQL dropped every notification."""


def _init_watched(self: PostgresStore, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, between=_stop, **kwargs)


async def _stop(step: str) -> None:
    _steps[:] = [_steps[1], step]
    if _steps == _ordered and time.monotonic() < _until_s[0]:
        _ordered.clear()
        os.kill(os.getpid(), signal.SIGSTOP)
