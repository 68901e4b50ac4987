"""What a handler awaits: durable futures, whose outcomes come from the journal."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.errors import Cancelled, Rejected, TerminalError, TimedOut

T = TypeVar("T")


class Waiter(Protocol):
    """What gives a durable future its outcome: the execution of the handler."""

    def wait_for_any(self, indices: tuple[int, ...]) -> Generator[Any, Any, tuple[int, Outcome]]: ...

    def handed_to_asyncio(self) -> BaseException:
        """What is wrong with that, to be raised."""
        ...


class _NotForAsyncio:
    """Looks like a coroutine to asyncio, and refuses to be stepped by it.

    So `gather`, `shield`, `create_task` and all that makes tasks of what can be awaited refuse it by
    name. `await` needs none of this.
    """

    __slots__ = ()

    def _refused(self) -> BaseException:
        raise NotImplementedError

    def send(self, value: Any) -> NoReturn:
        raise self._refused()

    def throw(self, *error: Any) -> NoReturn:
        raise self._refused()

    def close(self) -> None:
        """Nothing has begun."""


class Durable(_NotForAsyncio, Generic[T]):
    """A durable future: await it in the handler, as often as you like.

    It waits for as long as it takes, also over restarts of the process. Await it directly:
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
    """A durable callback: an ID for the outside, and a promise of its answer.

    Await it, or unpack it: `id, promise = ctx.awakeable(Parcel)`.
    """

    __slots__ = ()

    def __new__(cls, awakeable_id: str, promise: Promise[T]) -> Awakeable[T]:
        return super().__new__(cls, (awakeable_id, promise))

    @property
    def id(self) -> str:
        """The awakeable's ID; with it anybody can resolve or reject it."""
        return self[0]

    @property
    def promise(self) -> Promise[T]:
        return self[1]

    def __await__(self) -> Generator[Any, Any, T]:
        return self[1].__await__()

    def _refused(self) -> BaseException:
        return self[1]._refused()


def value_of(outcome: Outcome, awakeable_id: str) -> Resolution:
    """The resolution of an awakeable, or its failure, raised."""
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
    """Raise a failure that was journaled for a run."""
    if not isinstance(outcome, Rejection):
        raise TypeError(f"a run can't end with {type(outcome).__name__}")
    raise TerminalError(outcome.reason, code=outcome.code, details=details_of(outcome))


def details_of(rejection: Rejection) -> Any:
    """The details as Python values, None when there are none."""
    return decode_json(bytes(rejection.details)) if rejection.details else None
