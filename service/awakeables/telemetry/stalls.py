"""Stall detection: code that blocks the event loop is logged with its stack while it blocks.

A tick on the loop shows that it runs. A thread checks the tick: if it is late, the thread takes the stack of
the loop's thread, once per stall. The late tick then measures how long the stall was.
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
"""Twenty ticks a second cost nothing measurable and are precise enough for the threshold."""

MAX_FRAMES = 20
"""Maximum number of stack frames in the log line, innermost first."""

OURS = str(Path(__file__).parents[1]) + os.sep
LOOPS = tuple(os.sep + os.path.join("asyncio", name) for name in ("events.py", "runners.py"))


class Stalls:
    """Watches the loop that it runs on."""

    def __init__(self, durations: Histogram, *, monotonic: Callable[[], float], threshold: timedelta) -> None:
        """Prepare; `run` starts watching.

        Args:
            durations: Records the duration of each stall.
            monotonic: A monotonic clock in seconds; called by two threads.
            threshold: How long the loop may be blocked before it counts as a stall.
        """
        self._durations = durations
        self._monotonic = monotonic
        self._threshold_s = threshold.total_seconds()
        self._ticked = 0.0
        self._reported = -1.0
        self._ended = threading.Event()

    async def run(self) -> None:
        """Watch until cancelled; the thread has ended when this returns."""
        self._ticked = self._monotonic()
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
        late_s = now - self._ticked - TICK_S
        if late_s > self._threshold_s:
            self._durations.observe(late_s)
        self._ticked = now

    def _watch(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        while not self._ended.wait(TICK_S):
            ticked = self._ticked
            late_s = self._monotonic() - ticked - TICK_S
            if late_s > self._threshold_s and ticked != self._reported:
                frame = sys._current_frames().get(thread_id)
                if frame is not None and ticked == self._ticked:
                    self._reported = ticked
                    self._report(loop, frame, late_s)

    def _report(self, loop: asyncio.AbstractEventLoop, frame: FrameType, late_s: float) -> None:
        """Log a stall while it lasts, so that a loop that is blocked forever is reported, too."""
        task = asyncio.current_task(loop)
        name = task.get_name() if task is not None else None
        facts = {"invocation_id": name} if name is not None and name.startswith("inv_") else {"task": name}
        stack = traceback.StackSummary.extract(traceback.walk_stack(frame))
        stack.reverse()
        frames = user_frames(stack)[-MAX_FRAMES:]
        log.warning(
            events.LOOP_BLOCKED,
            **facts,
            blocked_ms=round(late_s * 1000),
            at=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None,
            stack="".join(traceback.format_list(frames)),
        )


def user_frames(stack: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """The frames of the user's code, outermost first, without the code that runs handlers.

    That is everything that our code called in this iteration of the loop; if all of it is ours, the
    whole iteration.
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
