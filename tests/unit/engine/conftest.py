"""Virtual time for everything here but real threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from awakeables.testing.loop import SeededLoop


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"real": asyncio.new_event_loop} if item.path.stem == "test_threads" else {"virtual": SeededLoop}
