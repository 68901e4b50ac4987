"""The thread pool for blocking functions."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Executor):
    """A thread pool that is created at the first call."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function in a thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._size, thread_name_prefix=f"worker-{self._name}")
        return self._pool.submit(fn, *args, **kwargs)

    def close(self) -> None:
        """Start no more calls. A running call can't be stopped: the process ends after it."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
