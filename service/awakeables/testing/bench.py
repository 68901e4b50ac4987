"""Engines for tests: made in one place, and run within a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from awakeables.engine.engine import Engine, EngineSettings, HandlersRun
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.service import App
from awakeables.ports import Clock, Entropy, Publisher, Store
from awakeables.testing.loop import SeededEntropy, SeededLoop


def new_engine(  # noqa: PLR0913 - keyword-only
    app: App,
    store: Store,
    publisher: Publisher,
    *,
    clock: Clock,
    settings: EngineSettings,
    entropy: Entropy | None = None,
    executor: Executor | None = None,
    build: str = "0",
    on_failure: Callable[[BaseException], None] = lambda _error: None,
    handlers: HandlersRun = LocalAttempts,
) -> Engine:
    """Make an engine as the service does; its IDs are the same in each run unless `entropy` decides."""
    return Engine(
        app,
        store,
        publisher,
        clock=clock,
        entropy=entropy or SeededEntropy(),
        settings=settings,
        executor=executor,
        build=build,
        on_failure=on_failure,
        handlers=handlers,
    )


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[Engine]:
    """Run an engine within the block, which is entered once the engine accepts calls.

    Raises:
        BaseException: The first error of its background work, unless the block itself failed.
    """
    running = asyncio.ensure_future(engine.run())
    try:
        await engine.serving.wait()
        yield engine
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    if engine.errors:
        raise engine.errors[0]


async def pass_time(seconds: float) -> None:
    """Let virtual time pass: all but the last two seconds at once, as if the process were stopped.

    What became due meanwhile happens within those two seconds, in order.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SeededLoop)
    loop.freeze(seconds - 2)
    await asyncio.sleep(2)
