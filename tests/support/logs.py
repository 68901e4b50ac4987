"""Listening to what is logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict


@contextmanager
def heard() -> Iterator[list[EventDict]]:
    """What is logged within the block, from `info` up."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))
    try:
        with capture_logs() as logs:
            yield logs
    finally:
        structlog.configure(**before)
