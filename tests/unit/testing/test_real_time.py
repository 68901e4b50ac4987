"""What waits for a socket or a thread is waited for in real time: virtual time does not pass before it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio.to_thread
import pytest

from awakeables import App, Context, Service, Task, Worker
from awakeables.testing import Harness, Stuck, run
from awakeables.testing.loop import SeededLoop
from awakeables.testing.usercode import STUCK_S

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SLOW_S = 0.05

service = Service("real")
worker = Worker("worker")


@service.handler()
async def asks(ctx: Context) -> str:
    answer = ctx.awakeable(str, timeout=timedelta(days=1))
    ctx.publish("tasks", 1, awakeable=answer, task="do")
    return await answer


@service.handler()
async def acts(ctx: Context) -> str:
    return await ctx.run("act", lambda: "replaced")


@service.handler()
async def awaits(ctx: Context) -> str:
    return await own_thread()


@service.handler()
async def naps(ctx: Context) -> str:
    await asyncio.sleep(60)
    await ctx.sleep(timedelta(minutes=1))
    await asyncio.gather(*(asyncio.sleep(60) for _ in range(3)))
    return await ctx.run("act", lambda: "replaced")


@service.handler()
async def times_out(ctx: Context) -> None:
    await ctx.awakeable(str, timeout=timedelta(hours=1))


app = App("real", services=[service])


@pytest.fixture(scope="module", autouse=True)
def served() -> Iterator[None]:
    """A server that takes its time."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            time.sleep(SLOW_S)
            connection.sendall(b"ok\n")
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        address[:] = server.getsockname()
        threading.Thread(target=serve, daemon=True).start()
        yield


address: list[Any] = []


async def own_thread() -> str:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()

    def work() -> None:
        time.sleep(SLOW_S)
        loop.call_soon_threadsafe(ended.set_result, "ok")

    threading.Thread(target=work, daemon=True).start()
    return await ended


async def thread_of_anyio() -> str:
    await anyio.to_thread.run_sync(time.sleep, SLOW_S)
    return "ok"


async def a_socket() -> str:
    reader, writer = await asyncio.open_connection(*address)
    line = await reader.readline()
    writer.close()
    return line.decode().strip()


WAYS: list[Callable[[], Awaitable[str]]] = [own_thread, thread_of_anyio, a_socket]


@worker.task("tasks", name="do")
async def do(task: Task[int]) -> str:
    return await a_socket()


@pytest.mark.parametrize("suspend", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_time_stands_still_while_code_of_the_test_waits_for_what_is_real(
    way: Callable[[], Awaitable[str]], suspend: bool
) -> None:
    async def answer(task: Task[int]) -> str:
        return await way()

    with Harness(app, suspend=suspend) as harness:
        other = harness.send(times_out)
        harness.on_task("do", answer)
        harness.replace("act", way)
        asked = harness.send(asks)
        assert asked.status == "completed"
        acted = harness.send(acts)
        assert acted.status == "completed"
        assert (asked.result(), acted.result(), harness.call(awaits)) == ("ok", "ok", "ok")
        assert (harness.now, other.status == "completed") == (BEGAN, False)


def test_a_worker_may_wait_for_a_socket_too() -> None:
    told = run(asks, workers=[worker])
    assert (told.value, told.duration) == ("ok", timedelta(0))


def test_sleeping_takes_no_real_time() -> None:
    async def sleeps() -> str:
        for _ in range(100):
            await asyncio.sleep(60)
        return "slept"

    async def answer(task: Task[int]) -> str:
        return await sleeps()

    began_s = time.perf_counter()
    with Harness(app) as harness:
        harness.replace("act", sleeps)
        harness.on_task("do", answer)
        assert (harness.call(acts), harness.call(asks)) == ("slept", "slept")
        assert harness.now == BEGAN + timedelta(minutes=200)
    assert time.perf_counter() - began_s < 20


@pytest.mark.parametrize("suspend", [True, False])
def test_a_handler_that_sleeps_is_not_taken_for_stuck(suspend: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    poll = SeededLoop.poll

    def polled(loop: SeededLoop, timeout_s: float) -> bool:
        waited.append(timeout_s)
        return poll(loop, timeout_s)

    monkeypatch.setattr(SeededLoop, "poll", polled)
    with Harness(app, suspend=suspend) as harness:
        harness.replace("act", lambda: asyncio.sleep(60, "slept"))
        assert harness.call(naps) == "slept"
    assert STUCK_S not in waited


def test_many_answers_at_once_take_no_real_time() -> None:
    async def answer(task: Task[int]) -> str:
        return "ok"

    with Harness(app) as harness:
        began_s = time.perf_counter()
        running = [harness.send(asks, delay=timedelta(hours=1)) for _ in range(50)]
        harness.on_task("do", answer)
        harness.advance(timedelta(hours=1))
        assert {each.result() for each in running} == {"ok"}
        assert time.perf_counter() - began_s < STUCK_S


def test_what_never_ends_is_waited_for_only_once() -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return "never"

    with Harness(app) as harness:
        harness.replace("act", never)
        running = harness.send(acts)
        began_s = time.perf_counter()
        for _ in range(20):
            harness.advance(timedelta(hours=1))
        with pytest.raises(Stuck, match=r"^acts awaits something of asyncio's that never comes$"):
            running.result()
        assert time.perf_counter() - began_s < STUCK_S
