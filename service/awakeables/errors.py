"""Every error of the project, sorted by who must act.

AwakeablesError
├── TerminalError            ends an invocation; its caller gets reason, code, details
│   ├── Rejected             the answer was a rejection
│   ├── TimedOut             the time was up
│   ├── QuorumFailed         too many of a combinator's parts failed
│   ├── Cancelled            the wait was cancelled
│   └── PayloadError         bytes that a custom serde could not decode
├── CallerError              the caller must change the request; never retried
│   ├── MalformedId          not an ID that this project ever issued
│   ├── NotFound             no such invocation, awakeable, service or handler
│   │   └── RunNotBegun      the workflow has no run of this key yet
│   ├── InvalidInput         a body that does not fit the handler's input
│   ├── IdempotencyConflict  the key was used before with another body
│   ├── QueueIsFull          too many calls of that key of an object are open
│   └── NotPossible          it exists, but its state does not allow this
├── OwnershipLost            nobody must act: another owner has the work, drop it
├── OperatorError            the operator must act; work waits and is retried
│   ├── StoreUnavailable     the store can't be reached or written
│   ├── StoreRefused         the store can't hold this data
│   ├── StoreLocked          another process has the file open
│   ├── StoreTooNew          the file was written by a newer release
│   ├── StoreOfAnotherApp    the file has the rows of another app
│   ├── ValueSealed          a stored value can't be opened
│   │   └── KeyMissing       its key is not in the key ring
│   ├── BrokerUnavailable    Kafka can't be reached
│   │   ├── BrokerRefused    Kafka refuses us, or we refuse it
│   │   └── TopicMissing     there is no such topic (yet)
│   ├── PublishRefused       Kafka will never accept this record
│   ├── Overloaded           a bound was reached; try again later
│   └── MissingDependency    an extra is not installed
└── AuthorError              the handler's author must act; the invocation is paused
    ├── ReplayMismatch       the code's operations differ from its journal
    ├── HandlerMisuse        the code used the context in a way that can't be replayed
    ├── UnsupportedVersion   the code no longer supports, or does not know yet, what the invocation has
    ├── ValueRefused         an accepted value that the current code can't decode
    ├── Unwritable           a value that can't be encoded, or could not be decoded again
    │   └── ResultMisfit     a result that is not of its declared type
    └── DeclarationError     an app, service or worker that can't be served

Suspended(BaseException)     control flow: the attempt ends here, a later one goes on
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

T = TypeVar("T")


class AwakeablesError(Exception):
    """Base class of every error that this project raises deliberately."""


class TerminalError(AwakeablesError):
    """A final failure: raised in a handler, it ends the invocation without a retry.

    Attributes:
        reason: What happened, for people.
        code: Like an HTTP status; from 400 to 599 it is the status of the caller's response.
        details: Any value that JSON can represent, for programs.
    """

    default_code = 500

    def __init__(self, reason: str, *, code: int | None = None, details: Any = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = self.default_code if code is None else code
        self.details = details

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason!r}, code={self.code}, details={self.details!r})"


class Rejected(TerminalError):
    """The awakeable was rejected."""


class QuorumFailed(TerminalError):
    """Too many of a combinator's parts failed.

    Attributes:
        errors: Their failures, in the order in which they came.
    """

    default_code = 424

    def __init__(
        self,
        reason: str,
        *,
        code: int | None = None,
        details: Any = None,
        errors: Sequence[TerminalError] = (),
    ) -> None:
        super().__init__(reason, code=code, details=details)
        self.errors = tuple(errors)


class TimedOut(TerminalError, TimeoutError):
    """The time was up before what is awaited was over.

    Attributes:
        kind: `deadline`: the awakeable's own; `heartbeat`: its worker has sent no heartbeat for too long;
            `block`: that of an `async with ctx.timeout(...)`.
    """

    default_code = 408

    _read_progress: Callable[[Any], Any] | None = None
    """Reads the progress of the awakeable's last heartbeat, if there was one, as a type."""

    def __init__(
        self,
        reason: str,
        *,
        code: int | None = None,
        details: Any = None,
        kind: Literal["deadline", "heartbeat", "block"] = "deadline",
    ) -> None:
        super().__init__(reason, code=code, details=details)
        self.kind = kind

    @overload
    def progress(self, type: type[T], /) -> T | None: ...
    @overload
    def progress(self, type: Any = None, /) -> Any: ...

    def progress(self, type: Any = None, /) -> Any:
        """What the awakeable's worker has reported last, with a heartbeat; None: nothing.

        Args:
            type: What it is read as; None: any JSON.

        Raises:
            ValueError: It is something else.
        """
        return None if self._read_progress is None else self._read_progress(type)


class Cancelled(TerminalError):
    """The invocation was cancelled, or what it waits for was.

    Attributes:
        own: The invocation itself was cancelled; False: an awakeable or a call that it awaits.
    """

    default_code = 409

    def __init__(
        self, reason: str, *, code: int | None = None, details: Any = None, own: bool = False
    ) -> None:
        super().__init__(reason, code=code, details=details)
        self.own = own


class PayloadError(TerminalError):
    """A custom serde could not decode the bytes that settled the awakeable."""

    default_code = 422


class CallerError(AwakeablesError):
    """The request is wrong: it must be changed, and repeating it does not help."""


class MalformedId(CallerError):
    """The text is not an ID: cut short, mistyped, or of another kind."""


class NotFound(CallerError):
    """No invocation, awakeable, service, handler or other object has this name or ID."""


class RunNotBegun(NotFound):
    """A handler of a workflow was called for a key that has no run; nothing was begun."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} has not begun: call its run first")


class InvalidInput(CallerError):
    """The body does not fit the handler's input type."""


class IdempotencyConflict(CallerError):
    """The idempotency key was used before for a different request."""


class QueueIsFull(CallerError):
    """The key of a virtual object has too many calls in its queue already; nothing was begun."""

    def __init__(self, where: str, length: int) -> None:
        many = f"{length:,} calls in its queue already"
        super().__init__(f"{where} has {many}, as many as its object allows")


class NotPossible(CallerError):
    """The object exists, but its state does not allow the request."""


class OwnershipLost(AwakeablesError):
    """Another owner has the work: the request is dropped, and nothing was changed."""


class OperatorError(AwakeablesError):
    """Something that the service depends on is not available; work waits for it."""


class StoreUnavailable(OperatorError):
    """The store can't be reached or written now; the commit may or may not have happened."""


class StoreRefused(OperatorError):
    """The store can't hold this data; the rest of its batch is not at fault."""


class StoreLocked(OperatorError):
    """Another process has this store open."""


class StoreTooNew(OperatorError):
    """The store was written by a newer release than this one."""


class StoreOfAnotherApp(OperatorError):
    """The store belongs to another app, whose invocations this one would time out and pause."""


class ValueSealed(OperatorError):
    """A stored value can't be opened: it is not what was written there. What needs it waits."""


class KeyMissing(ValueSealed):
    """A stored value can't be opened, because its key is not in the key ring. What needs it waits."""


class BrokerUnavailable(OperatorError):
    """Kafka can't be reached now."""


class BrokerRefused(BrokerUnavailable):
    """Kafka refuses our credentials, certificate or access, or we its certificate: waiting does not help."""


class TopicMissing(BrokerUnavailable):
    """There is no such topic (yet)."""


class PublishRefused(OperatorError):
    """Kafka permanently refuses this record: too large, forbidden, or no such topic."""


class Overloaded(OperatorError):
    """A limit was reached; the request was not started."""


class MissingDependency(OperatorError):
    """A library from an optional extra is not installed."""


class AuthorError(AwakeablesError):
    """The handler's code must change; its invocation is paused, and nothing is lost."""


class ReplayMismatch(AuthorError):
    """The handler's operations differ from its journal."""


class HandlerMisuse(AuthorError):
    """The handler used the context in a way that can't be replayed."""


class UnsupportedVersion(AuthorError):
    """An invocation has a version of a part of its code that the current code does not support."""


class ValueRefused(AuthorError):
    """The current code refuses a value that was accepted earlier; the value is kept."""


class Unwritable(AuthorError, ValueError):
    """A value that JSON can't represent, or that could not be decoded again as its type.

    A handler may catch it where it publishes or settles; uncaught, it pauses the invocation at once.
    """


class ResultMisfit(Unwritable):
    """A result that can't be encoded as its declared type, or could not be decoded again as it.

    It is not retried: that would only repeat the side effects.
    """


class FunctionLimitExceeded(AuthorError):
    """An action took longer than the function that executes it may: that is work for an awakeable.

    With `retry=` it is a failed attempt of the action. Without, it is not begun again by itself: it would
    take as long again, and may have been done.
    """


class DeclarationError(AuthorError):
    """An app, service, handler or worker whose declaration is invalid."""


class Suspended(BaseException):
    """Raised at an await to end the attempt; the invocation goes on later from its journal.

    It is a `BaseException`, so that `except Exception` in a handler can't swallow it. `finally` blocks
    and context managers of the handler run as it passes: keep side effects in `ctx.run`.
    """
