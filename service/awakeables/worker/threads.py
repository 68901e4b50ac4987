"""Where functions that block are run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any


class Threads:
    """A pool that comes into being with the first call."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._pool: ThreadPoolExecutor | None = None

    async def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Call a function in a thread, under the caller's context variables."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._size, thread_name_prefix=f"worker-{self._name}")
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, context.run, _call, function, argument
        )

    def close(self) -> None:
        """Begin nothing more. A call that runs can't be stopped: the process ends after it."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except StopIteration as error:
        # A future can't carry it: the waiting task would never hear of the end (CPython #112182).
        raise RuntimeError(f"the function raised StopIteration: {error}") from error
