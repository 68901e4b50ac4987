"""The contexts of a virtual object's handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from awakeables.handlers import promises
from awakeables.handlers import state as states
from awakeables.handlers.context import Context
from awakeables.handlers.execution import Durable
from awakeables.handlers.promises import DurablePromise, PromiseName
from awakeables.handlers.state import Readable, State

T = TypeVar("T")


class SharedContext(Context):
    """The context of a shared handler: it runs beside others of its key, and reads the state."""

    @property
    def key(self) -> str:
        """The key that the handler was called for."""
        return self._execution.replay.input.key or ""

    def get(self, state: Readable[T]) -> Durable[T]:
        """Read a value of this key's state; without one, the default that it was declared with.

        In an exclusive handler a name is read once; later reads give what was read or set since. In a shared
        one each read gives the newest value that was committed.
        """
        return states.get(self._execution, state)

    def promise(self, promise: PromiseName[T]) -> DurablePromise[T]:
        """A promise of this key's workflow: await it, `.resolve(value)`, `.reject(reason)` or `.peek()`."""
        return promises.promise_of(self, self._execution, promise)

    def keys(self) -> Durable[Sequence[str]]:
        """The names under which this key has state, in order."""
        return states.names(self._execution)


class ObjectContext(SharedContext):
    """The context of an exclusive handler: the only one of its key that runs, and that writes the state.

    The state is written in the same commit as the journal. It stays if the handler fails later.
    """

    def set(self, state: State[T], value: T) -> None:
        """Set a value of this key's state; it is committed with what comes next.

        Raises:
            HandlerMisuse: It does not fit the declared type, or has more than 1 MiB.
        """
        states.put(self._execution, state, value)

    def clear(self, state: State[Any] | None = None) -> None:
        """Remove a value of this key's state, or without an argument all of them."""
        states.clear(self._execution, state)
