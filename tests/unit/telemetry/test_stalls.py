"""What blocks the loop is told with its stack, while it does; what does not, costs and says nothing."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from awakeables.handlers.context import Context
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics
from awakeables.telemetry.stalls import OURS, Stalls, user_frames
from awakeables.testing.bench import Bench
from awakeables.world import SystemClock

THRESHOLD = timedelta(milliseconds=100)


def stalled(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("awakeables_loop_stall_seconds_count") or 0.0


@asynccontextmanager
async def watched(metrics: Metrics) -> AsyncIterator[None]:
    watching = asyncio.ensure_future(
        Stalls(metrics.loop_stalls, monotonic=time.monotonic, threshold=THRESHOLD).run()
    )
    await asyncio.sleep(0)
    yield
    while not stalled(metrics):  # noqa: ASYNC110 - the tick that comes late tells nobody
        await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.wait([watching])


async def block(ctx: Context) -> None:
    time.sleep(0.3)  # noqa: ASYNC251 - the mistake that is to be found


async def test_a_handler_that_blocks_the_loop_is_logged_with_its_stack_and_its_id(logs: list[Any]) -> None:
    bench = Bench(clock=SystemClock())
    async with bench.serving(block=block) as process, watched(metrics := process.engine.metrics):
        invocation_id = await bench.begin(process, "block")
        await process.api.result(invocation_id)
    [told] = [line for line in logs if line["event"] == events.LOOP_BLOCKED]
    assert told["invocation_id"] == invocation_id
    assert told["blocked_ms"] >= 100
    line = block.__code__.co_firstlineno + 1
    assert told["at"] == f"{__file__}:{line}"
    assert "in block\n    time.sleep(0.3)" in told["stack"]
    assert OURS not in told["stack"]
    assert stalled(metrics) == 1
    assert metrics.registry.get_sample_value("awakeables_loop_stall_seconds_sum") >= 0.1  # type: ignore[operator]


async def test_a_stall_outside_of_a_handler_names_its_task(logs: list[Any]) -> None:
    metrics = Metrics()

    async def hog() -> None:
        time.sleep(0.3)  # noqa: ASYNC251

    async with watched(metrics):
        await asyncio.create_task(hog(), name="hog")
    assert [(line["task"], "in hog" in line["stack"]) for line in logs] == [("hog", True)]


async def test_watching_ends_with_its_thread() -> None:
    watching = asyncio.ensure_future(
        Stalls(Metrics().loop_stalls, monotonic=time.monotonic, threshold=THRESHOLD).run()
    )
    await asyncio.sleep(0)
    assert "stalls" in {thread.name for thread in threading.enumerate()}
    watching.cancel()
    await asyncio.wait([watching])
    assert "stalls" not in {thread.name for thread in threading.enumerate()}


def frames(*names: str) -> list[traceback.FrameSummary]:
    return [traceback.FrameSummary(name, 1, "f", lookup_line=False) for name in names]


@pytest.mark.parametrize(
    ("stack", "told"),
    [
        (["/bin/main", OURS + "cli.py", "/x/asyncio/events.py", OURS + "a.py", "/u.py"], ["/u.py"]),
        (["/x/asyncio/runners.py", OURS + "a.py", "/u.py", OURS + "b.py"], ["/u.py", OURS + "b.py"]),
        (["/x/asyncio/events.py", OURS + "a.py", OURS + "b.py"], [OURS + "a.py", OURS + "b.py"]),
        (["/x/asyncio/events.py", "/web.py", OURS + "a.py"], ["/web.py", OURS + "a.py"]),
        ([], []),
    ],
)
def test_the_frames_that_are_logged_are_those_of_the_user(stack: list[str], told: list[Any]) -> None:
    assert [frame.filename for frame in user_frames(frames(*stack))] == told
