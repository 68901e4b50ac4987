"""A process that runs until a signal, drains, and ends."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from awakeables.errors import AwakeablesError
from awakeables.forks import keep_signals_apart
from awakeables.telemetry import events
from awakeables.telemetry.logs import log_what_nobody_handles

log = structlog.stdlib.get_logger(__name__)

GC_THRESHOLD = 10_000
"""New objects between two looks for cycles: a few ten calls' worth."""

SWITCH_S = 0.0005
"""How long a thread keeps the interpreter from another that wants it. The store's thread wants it back
after each statement: with Python's 5 ms it persists a fifth less from a backlog (docs/benchmarks.md)."""


def run_until_told(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run until SIGTERM or SIGINT; a second one does not wait for the drain."""

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asked() -> None:
            if stop.is_set():
                # Nothing is lost by it: whatever is under way goes on at the next start.
                os._exit(1)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked)
        keep_signals_apart(loop)
        await main(stop)

    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:
        factory = None
    # What was imported stays: it needn't be looked through again and again. And each call makes
    # some hundred objects that are in no cycle, so the default, a look every 700, finds nothing.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    sys.setswitchinterval(SWITCH_S)
    log_what_nobody_handles()
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(supervised())
        except* AwakeablesError as group:
            raise _first(group) from None
    _leave_stuck_threads()


def _leave_stuck_threads() -> None:
    """End although an action of `ctx.run` or a task still blocks its thread past the drain.

    Everything that is durable is closed by now; the interpreter would wait for the thread for ever.
    """
    stuck = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    if stuck:
        log.warning(events.THREADS_LEFT, count=len(stuck), todo="nothing: what they did is done again")
        sys.stderr.flush()
        os._exit(0)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
