"""Waiting on a condition, with an end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")

INTERVAL_S = 0.02


async def eventually(check: Callable[[], T | Awaitable[T]], timeout: float = 10) -> T:
    """What `check` returns once it is truthy; fails the test when it isn't in time.

    An `AssertionError` of the check counts as not yet, and is what the test fails with.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while True:
        problem: AssertionError | None = None
        try:
            got = check()
            value = cast("T", await got if inspect.isawaitable(got) else got)
        except AssertionError as error:
            problem = error
        else:
            if value:
                return value
        if loop.time() > end:
            raise AssertionError(f"not so within {timeout} s: {inspect.getsource(check)}") from problem
        await asyncio.sleep(INTERVAL_S)
