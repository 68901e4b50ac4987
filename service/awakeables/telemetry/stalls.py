"""Stalls: what blocks the event loop is noticed while it does, and told with its stack.

A tick on the loop says that it turns. A thread looks whether it does: when it does not, it looks
at the stack of the loop's thread, once per stall. The tick that comes late knows for how long.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType

import structlog

from awakeables.telemetry import events
from awakeables.telemetry.instruments import Histogram

log = structlog.stdlib.get_logger(__name__)

TICK_S = 0.05
"""Twenty ticks a second cost nothing that can be measured, and are as exact as a threshold needs."""

DEEPEST = 20
"""So many frames are told, from where the loop is blocked outwards."""

OURS = str(Path(__file__).parents[1]) + os.sep
LOOPS = tuple(os.sep + os.path.join("asyncio", name) for name in ("events.py", "runners.py"))


class Stalls:
    """Watches the loop that it runs on."""

    def __init__(self, durations: Histogram, *, monotonic: Callable[[], float], threshold: timedelta) -> None:
        """Watch nothing yet.

        Args:
            durations: Takes how long each stall was.
            monotonic: Seconds that never run backwards; called by two threads.
            threshold: A loop that has not turned for longer stalls.
        """
        self._durations = durations
        self._monotonic = monotonic
        self._threshold_s = threshold.total_seconds()
        self._turned = 0.0
        self._told = -1.0
        self._ended = threading.Event()

    async def run(self) -> None:
        """Watch until cancelled; the thread has ended when this returns."""
        self._turned = self._monotonic()
        self._ended.clear()
        loop, thread_id = asyncio.get_running_loop(), threading.get_ident()
        watcher = threading.Thread(target=self._watch, args=(loop, thread_id), name="stalls", daemon=True)
        watcher.start()
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self._tick()
        finally:
            self._ended.set()
            watcher.join()

    def _tick(self) -> None:
        now = self._monotonic()
        late_s = now - self._turned - TICK_S
        if late_s > self._threshold_s:
            self._durations.observe(late_s)
        self._turned = now

    def _watch(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        while not self._ended.wait(TICK_S):
            turned = self._turned
            late_s = self._monotonic() - turned - TICK_S
            if late_s > self._threshold_s and turned != self._told:
                frame = sys._current_frames().get(thread_id)
                if frame is not None and turned == self._turned:
                    self._told = turned
                    self._tell(loop, frame, late_s)

    def _tell(self, loop: asyncio.AbstractEventLoop, frame: FrameType, late_s: float) -> None:
        """One event per stall, while it lasts: a loop that never turns again is told of, too."""
        task = asyncio.current_task(loop)
        name = task.get_name() if task is not None else None
        facts = {"invocation_id": name} if name is not None and name.startswith("inv_") else {"task": name}
        stack = traceback.StackSummary.extract(traceback.walk_stack(frame))
        stack.reverse()
        told = culprits(stack)[-DEEPEST:]
        log.warning(
            events.LOOP_BLOCKED,
            **facts,
            blocked_ms=round(late_s * 1000),
            at=f"{told[-1].filename}:{told[-1].lineno}" if told else None,
            stack="".join(traceback.format_list(told)),
        )


def culprits(stack: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """The frames that matter, outermost first: a handler's, without what runs handlers.

    Whatever is not ours and was called by ours, within this turn of the loop; the whole turn, if
    nothing but our code is in it.
    """
    turn = list(stack)
    for place, frame in enumerate(stack):
        if frame.filename.endswith(LOOPS):
            turn = list(stack[place + 1 :])
    called = False
    for place, frame in enumerate(turn):
        ours = frame.filename.startswith(OURS)
        if called and not ours:
            return turn[place:]
        called = called or ours
    return turn
