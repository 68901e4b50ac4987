"""Virtual time for everything here but what needs sockets: that runs on both loops that we serve on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import pytest_asyncio
import uvloop

from awakeables.testing.loop import SeededLoop
from unit.web.harness import Web, serving


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.stem in ("test_server", "test_connection", "test_uvicorn"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"virtual": SeededLoop}


@pytest_asyncio.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as running:
        yield running
