"""Blocking actions of `ctx.run` with real threads, in real time."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from awakeables import Context
from awakeables.api import Api
from awakeables.core.outcomes import Resolution
from awakeables.engine.engine import EngineSettings
from awakeables.handlers.service import App, Service
from awakeables.testing.bench import Bench
from awakeables.world import SystemClock


async def test_a_plain_function_runs_in_a_thread_and_a_coroutine_on_the_loop() -> None:
    meeting = threading.Barrier(2, timeout=10)
    service = Service("orders")

    def blocking() -> str:
        meeting.wait()  # two invocations meet here: neither blocks the loop
        return threading.current_thread().name

    async def coroutine() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    @service.handler()
    async def act(ctx: Context) -> list[str]:
        return [
            await ctx.run("blocking", blocking),
            await ctx.run("coroutine", coroutine),
            await ctx.run("lambda", lambda: coroutine()),
            await ctx.run("partial", functools.partial(coroutine)),
        ]

    async with serving(service) as api:
        handler = api.app.handler("orders", "act")
        begun = await asyncio.gather(*[api.begin(handler, b"null") for _ in range(2)])
        results = await asyncio.gather(*[api.result(one.id) for one in begun])
    for result in results:
        assert isinstance(result, Resolution)
        assert b'["awakeables-run' in result.content
        assert result.content.count(b'"MainThread"') == 3


async def test_the_context_is_refused_in_a_thread_too() -> None:
    service = Service("orders")

    @service.handler()
    async def act(ctx: Context) -> str:
        return await ctx.run("act", lambda: str(ctx.uuid()))

    async with serving(service) as api:
        begun = await api.begin(api.app.handler("orders", "act"), b"null")
        row = None
        while row is None or row.status != "paused":
            await asyncio.sleep(0.001)
            row = await api.invocation(begun.id)
    assert row.failure is not None
    assert row.failure.kind == "HandlerMisuse"
    assert "inside an action of ctx.run('act')" in row.failure.message


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[Api]:
    app = App("shop", services=[service])
    settings = EngineSettings(horizon=timedelta(0), threads=2)
    bench = Bench(clock=SystemClock())
    async with asyncio.timeout(20), bench.running(app, settings, executor=None) as process:
        yield process.api
