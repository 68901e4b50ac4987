"""Durable futures: what a handler awaits. Their outcomes come from the journal."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.errors import Cancelled, Rejected, TerminalError, TimedOut

T = TypeVar("T")


class Waiter(Protocol):
    """Gives a durable future its outcome: the execution of the handler."""

    def wait_for_any(self, indices: tuple[int, ...]) -> Generator[Any, Any, tuple[int, Outcome]]: ...

    def handed_to_asyncio(self) -> BaseException:
        """The error to raise where asyncio was given the future."""
        ...


class _NotForAsyncio:
    """Looks like a coroutine to asyncio, and raises a clear error when asyncio steps it.

    So `gather`, `shield`, `create_task` and everything else that wraps awaitables in tasks fail with that
    error. `await` uses none of these methods.
    """

    __slots__ = ()

    def _refused(self) -> BaseException:
        raise NotImplementedError

    def send(self, value: Any) -> NoReturn:
        raise self._refused()

    def throw(self, *error: Any) -> NoReturn:
        raise self._refused()

    def close(self) -> None:
        """Do nothing, since nothing runs."""


class Durable(_NotForAsyncio, Generic[T]):
    """A durable future. It can be awaited more than once.

    The wait has no time limit and survives restarts of the process. Await it directly in the handler:
    `asyncio.gather`, `asyncio.wait_for` and tasks of your own can't be replayed, and raise
    `HandlerMisuse`.
    """

    __slots__ = ("_index", "_read", "_waiter")

    def __init__(self, waiter: Waiter, index: int, read: Callable[[Outcome], T]) -> None:
        self._waiter = waiter
        self._index = index
        self._read = read

    def __await__(self) -> Generator[Any, Any, T]:
        _, outcome = yield from self._waiter.wait_for_any((self._index,))
        return self._read(outcome)

    def _refused(self) -> BaseException:
        return self._waiter.handed_to_asyncio()


class Promise(Durable[T]):
    """The answer to an awakeable.

    Awaiting returns the value, or raises `Rejected`, `TimedOut` or `Cancelled`.
    """

    __slots__ = ()


class Awakeable(_NotForAsyncio, tuple[str, Promise[T]], Generic[T]):
    """A durable callback: an ID to pass on, and a promise of the answer.

    Await it, or unpack it: `id, promise = ctx.awakeable(Parcel)`.
    """

    __slots__ = ()

    @property
    def id(self) -> str:
        """The awakeable's ID. Anyone who has it can resolve or reject the awakeable."""
        return self[0]

    @property
    def promise(self) -> Promise[T]:
        return self[1]

    def __await__(self) -> Generator[Any, Any, T]:
        return self[1].__await__()

    def _refused(self) -> BaseException:
        return self[1]._refused()


def value_of(outcome: Outcome, awakeable_id: str) -> Resolution:
    """The resolution of an awakeable.

    Raises:
        TerminalError: It has no resolution: `Rejected`, `TimedOut` or `Cancelled`.
    """
    match outcome:
        case Resolution():
            return outcome
        case Rejection():
            raise Rejected(outcome.reason, code=outcome.code, details=details_of(outcome))
        case Expiry():
            raise TimedOut(f"awakeable {awakeable_id} timed out")
        case Cancellation():
            raise Cancelled(f"awakeable {awakeable_id} was cancelled: {outcome.reason}")


def raise_terminal(outcome: Outcome) -> NoReturn:
    """Raise the failure that was journaled for a run or a completion."""
    if not isinstance(outcome, Rejection):
        raise TypeError(f"a run can't end with {type(outcome).__name__}")
    raise TerminalError(outcome.reason, code=outcome.code, details=details_of(outcome))


def details_of(rejection: Rejection) -> Any:
    """The details of a rejection, decoded; None if it has none."""
    return decode_json(bytes(rejection.details)) if rejection.details else None
