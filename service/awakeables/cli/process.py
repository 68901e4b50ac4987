"""A process that runs until a signal, drains and exits."""

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
from awakeables.telemetry.logs import log_uncaught_errors

log = structlog.stdlib.get_logger(__name__)

GC_THRESHOLD = 10_000
"""Allocations between two collections of the youngest generation: a few dozen calls' worth."""

SWITCH_S = 0.0005
"""How long a thread may hold the GIL while another waits. The store's thread needs it back after each
statement: with Python's default of 5 ms it persists a fifth less from a backlog (docs/benchmarks.md)."""


def run_until_signalled(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run until SIGTERM or SIGINT, then drain. A second signal exits at once."""

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():
                # Nothing is lost: what is in progress resumes at the next start.
                os._exit(1)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        keep_signals_apart(loop)
        await main(stop)

    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:
        factory = None
    # Imported modules live as long as the process, so no collection needs to traverse them. Each
    # call allocates some hundred objects, none in a cycle: the default threshold of 700 collects
    # all the time and finds nothing.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    sys.setswitchinterval(SWITCH_S)
    log_uncaught_errors()
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(supervised())
        except* AwakeablesError as group:
            raise _first_error(group) from None
    _leave_stuck_threads()


def _leave_stuck_threads() -> None:
    """Exit although an action of `ctx.run` or a task still blocks its thread after the drain.

    Store and broker are closed by now; the interpreter would wait for the thread indefinitely.
    """
    stuck = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    if stuck:
        log.warning(events.THREADS_LEFT, count=len(stuck), todo="nothing: their work is repeated")
        sys.stderr.flush()
        os._exit(0)


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
