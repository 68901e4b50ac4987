"""Virtual time for everything here but stalls, which are real; and ears for what is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from awakeables.testing.loop import SeededLoop


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"real": asyncio.new_event_loop} if item.path.stem == "test_stalls" else {"virtual": SeededLoop}


@contextmanager
def heard(level: int) -> Iterator[list[Any]]:
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    with capture_logs() as lines:
        yield lines
    structlog.configure(wrapper_class=before)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """What is logged from warnings on; the other tests are quiet."""
    with heard(logging.WARNING) as lines:
        yield lines


@pytest.fixture
def all_logs() -> Iterator[list[Any]]:
    """What is logged, debug lines too."""
    with heard(logging.DEBUG) as lines:
        yield lines
