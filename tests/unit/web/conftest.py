"""Virtual time for everything here but the server, which needs sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import pytest_asyncio

from awakeables.testing.loop import SeededLoop
from unit.web.harness import Web, serving


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"real": asyncio.new_event_loop} if item.path.stem == "test_server" else {"virtual": SeededLoop}


@pytest_asyncio.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as running:
        yield running
