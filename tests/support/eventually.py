"""Waiting on a condition, with an end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, overload

T = TypeVar("T")

INTERVAL_S = 0.02


@overload
async def eventually(check: Callable[[], Awaitable[T]], timeout: float = 10) -> T: ...
@overload
async def eventually(check: Callable[[], T], timeout: float = 10) -> T: ...


async def eventually(check: Callable[[], Any], timeout: float = 10) -> Any:
    """What `check` returns once it is truthy; fails the test when it isn't in time.

    An `AssertionError` of the check counts as not yet, and is what the test fails with.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while True:
        problem: AssertionError | None = None
        try:
            got = check()
            value = await got if inspect.isawaitable(got) else got
        except AssertionError as error:
            problem = error
        else:
            if value:
                return value
        if loop.time() > end:
            what = check.func if isinstance(check, partial) else check
            raise AssertionError(f"not so within {timeout} s: {inspect.getsource(what)}") from problem
        await asyncio.sleep(INTERVAL_S)
