"""Promises of workflows: named results that one handler of a key settles, and others wait for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from awakeables.core.awakeables import Verdict
from awakeables.core.ids import promise_id
from awakeables.core.journal import PromisePeeked
from awakeables.core.outcomes import Outcome, Rejection, Resolution
from awakeables.core.texts import excerpt
from awakeables.errors import DeclarationError, TerminalError
from awakeables.handlers.attempt import StateWait
from awakeables.handlers.execution import Durable, Execution, read_answer, value_of
from awakeables.handlers.invoking import UNATTACHED, request_attachment
from awakeables.handlers.rejections import rejection_of
from awakeables.handlers.serde import codec_for, explain
from awakeables.handlers.state import Declared, checked_name

if TYPE_CHECKING:
    from awakeables.handlers.objectcontext import SharedContext

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class PromiseName(Declared[T_co], Generic[T_co]):
    """A promise that each run of a workflow has; declare it with `Workflow.promise`."""

    def __repr__(self) -> str:
        return f"<promise {self._name!r} of {self._of}>"


def declared(of: str, name: str, type_: Any) -> PromiseName[Any]:
    """Declare a promise.

    Raises:
        DeclarationError: The name or the type can't be used.
    """
    where = f"promise {excerpt(name)} of {of}"
    if not isinstance(name, str) or not name:
        raise DeclarationError(f"{where}: a name is a string that is not empty")
    try:
        codec = codec_for(type_)
    except TypeError as error:
        raise DeclarationError(f"{where}: {error}") from error
    if codec.unwritable is not None:
        raise DeclarationError(f"{where} can't be stored: {codec.unwritable}")
    return PromiseName(of, checked_name(name), codec)


class DurablePromise(Durable[T]):
    """A promise of the workflow's key: settled once, by any of its handlers, and awaited by any of them.

    Awaiting returns its value. It raises `Rejected` if the promise was rejected; also with the code 410 if
    the run has ended and left it, and 404 if the run was begun before the promise was declared.
    """

    __slots__ = ("_context", "_promise", "_promise_id")

    def __init__(self, context: SharedContext, execution: Execution, promise: PromiseName[Any]) -> None:
        given = execution.replay.input
        promise_id_ = promise_id(given.service, given.key or "", promise.name)
        super().__init__(execution, UNATTACHED, _reader(execution, promise, promise_id_))
        self._context = context
        self._promise = promise
        self._promise_id = promise_id_

    def __await__(self) -> Generator[Any, Any, T]:
        self._attach()
        return super().__await__()

    def _combine(self) -> None:
        self._attach()
        super()._combine()

    def _attach(self) -> None:
        """Journal that the handler waits for it, the first time."""
        if self._index == UNATTACHED:
            self._index = request_attachment(self._execution, self._promise_id)

    def cancel(self) -> None:
        """Nothing: the promise is not this handler's alone."""

    def resolve(self, value: T) -> Durable[Verdict]:
        """Resolve it. Awaiting returns the verdict: accepted, duplicate, conflict or late.

        Raises:
            HandlerMisuse: The value does not fit the declared type.
        """
        try:
            answer = self._promise.codec.resolution(value)
        except BaseException as error:  # the user's serializers and validators may raise anything
            raise self._execution.misuse(
                f"promise {self._promise.name!r}: the value does not fit its type: {explain(error)}"
            ) from error
        return self._settle(answer)

    def reject(self, reason: str, *, code: int = 500, details: Any = None) -> Durable[Verdict]:
        """Reject it: who awaits it gets `Rejected`. Awaiting returns the verdict, as `resolve`."""
        return self._settle(rejection_of(TerminalError(reason, code=code, details=details)))

    def _settle(self, answer: Resolution | Rejection) -> Durable[Verdict]:
        return self._context._settle(self._promise_id, answer, promise=self._promise.name)

    def peek(self) -> Durable[T | None]:
        """Look at it without waiting: its value, or None if it is not settled, and if the run has left it.

        Awaiting raises `Rejected` if the promise was rejected.
        """
        execution, name = self._execution, self._promise.name
        index, _ = execution.ask(PromisePeeked(name=name))
        given = execution.replay.input
        execution.waits[index] = StateWait(
            index=index, service=given.service, key=given.key or "", name=name, promise_id=self._promise_id
        )
        execution.unawaited[index] = f"ctx.promise({name!r}).peek()"
        read = self._read

        def peeked(outcome: Outcome) -> T | None:
            is_absent = isinstance(outcome, Resolution) and outcome.is_absent
            return None if is_absent else read(outcome)

        return Durable(execution, index, peeked)


def _reader(execution: Execution, promise: PromiseName[Any], promise_id_: str) -> Callable[[Outcome], Any]:
    def read(outcome: Outcome) -> Any:
        if not isinstance(outcome, Resolution):
            value_of(outcome, promise_id_)
        return read_answer(execution, promise_id_, promise.codec, outcome)

    return read


def promise_of(context: SharedContext, execution: Execution, promise: PromiseName[T]) -> DurablePromise[T]:
    """What `ctx.promise` returns."""
    if not isinstance(promise, PromiseName):
        raise execution.misuse(f"ctx.promise takes what Workflow.promise(…) returned, not {excerpt(promise)}")
    service = execution.replay.input.service
    if promise.of != service:
        raise execution.misuse(
            f"ctx.promise: {promise.name!r} was declared by {promise.of!r}; a handler of {service!r} can't "
            f"use it: call a handler of {promise.of!r} instead"
        )
    return DurablePromise(context, execution, promise)
