"""Every error of the project, sorted by who must act.

AwakeablesError
├── TerminalError            ends an invocation; its caller is told reason, code, details
│   ├── Rejected             the outside said no
│   ├── TimedOut             the awakeable's deadline passed
│   ├── Cancelled            somebody called the wait off
│   └── PayloadError         bytes that a custom serde could not decode
├── CallerError              the caller must change the request; never retried
│   ├── MalformedId          not an ID that this project ever issued
│   ├── NotFound             no such invocation, awakeable, service or handler
│   ├── InvalidInput         a body that does not fit the handler's input
│   ├── IdempotencyConflict  the key was used before with another body
│   └── NotPossible          the thing exists, its state does not allow this
├── OwnershipLost            nobody must act: another owner has the work, drop it
├── OperatorError            the operator must act; work waits and is retried
│   ├── StoreUnavailable     the store can't be reached or written
│   ├── StoreRefused         the store refuses this very data
│   ├── StoreLocked          another process has the file open
│   ├── StoreTooNew          the file was written by a newer release
│   ├── StoreOfAnotherApp    the file has the rows of another app
│   ├── BrokerUnavailable    Kafka can't be reached
│   │   ├── BrokerRefused    Kafka refuses us, or we refuse it
│   │   └── TopicMissing     there is no such topic (yet)
│   ├── PublishRefused       Kafka will never take this record
│   ├── Overloaded           a bound was reached; try again later
│   └── MissingDependency    an extra is not installed
└── AuthorError              the handler's author must act; the invocation is parked
    ├── ReplayMismatch       the code asks for something else than its journal tells
    ├── HandlerMisuse        the code used the context in a way that can't be replayed
    ├── ValueRefused         an accepted value that today's code can't decode
    ├── Unwritable           a value that can't be written, or not be read again
    │   └── ResultMisfit     a result that is not of its declared type
    └── DeclarationError     an app, service or worker that can't be served

Suspended(BaseException)     control flow: the attempt ends here, the journal goes on
"""

from __future__ import annotations

from typing import Any


class AwakeablesError(Exception):
    """Whatever this project raises on purpose."""


class TerminalError(AwakeablesError):
    """A failure that is final: raised in a handler it ends the invocation without a retry.

    Attributes:
        reason: What happened, for people.
        code: An HTTP-like number; the caller's answer has it when it lies in 400 to 599.
        details: Anything that JSON can say, for programs.
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
    """The outside answered with a rejection."""


class TimedOut(TerminalError):
    """The awakeable's deadline passed without an answer."""

    default_code = 408


class Cancelled(TerminalError):
    """The wait was called off."""

    default_code = 409


class PayloadError(TerminalError):
    """A custom serde could not decode the bytes that settled the awakeable."""

    default_code = 422


class CallerError(AwakeablesError):
    """The request is wrong and stays wrong; changing it helps, repeating it doesn't."""


class MalformedId(CallerError):
    """The text is not an ID: cut short, mistyped, or of another kind."""


class NotFound(CallerError):
    """There is no such thing here."""


class InvalidInput(CallerError):
    """The body can't be what the handler takes."""


class IdempotencyConflict(CallerError):
    """The idempotency key was used before for another request."""


class NotPossible(CallerError):
    """The thing exists, but not in a state that allows what was asked."""


class OwnershipLost(AwakeablesError):
    """Another owner has the work: what was asked for is dropped, nothing was changed."""


class OperatorError(AwakeablesError):
    """Something that the service stands on is not there; work waits for it."""


class StoreUnavailable(OperatorError):
    """The store can't be reached or written now; nothing is known to have been committed."""


class StoreRefused(OperatorError):
    """The store will never take this data; the rest of its batch is not to blame."""


class StoreLocked(OperatorError):
    """Another process has this store open."""


class StoreTooNew(OperatorError):
    """The store was written by a newer release than this one."""


class StoreOfAnotherApp(OperatorError):
    """The store has the rows of another app, which this one would time out and pause."""


class BrokerUnavailable(OperatorError):
    """Kafka can't be reached now."""


class BrokerRefused(BrokerUnavailable):
    """Kafka refuses our credentials, certificate or access, or we its certificate: waiting won't help."""


class TopicMissing(BrokerUnavailable):
    """There is no such topic (yet)."""


class PublishRefused(OperatorError):
    """Kafka will never take this record: too large, forbidden, or no such topic."""


class Overloaded(OperatorError):
    """A bound was reached; what was asked for was not begun."""


class MissingDependency(OperatorError):
    """A library of an optional extra is not installed."""


class AuthorError(AwakeablesError):
    """The handler's code must change; its invocation is parked, nothing is lost."""


class ReplayMismatch(AuthorError):
    """The handler asked for something else than its journal tells."""


class HandlerMisuse(AuthorError):
    """The handler used the context in a way that can't be replayed."""


class ValueRefused(AuthorError):
    """A value that was accepted at the edge is refused by today's code; it is kept."""


class Unwritable(AuthorError, ValueError):
    """A value that JSON can't say, or that could not be read again as what it is.

    A handler may catch it where it publishes or answers; uncaught it parks the invocation at once.
    """


class ResultMisfit(Unwritable):
    """What code returned can't be written as the declared type, or not be read back as it.

    Trying again would only repeat the side effects, so nothing is tried again.
    """


class DeclarationError(AuthorError):
    """An app, service, handler or worker that can't be served as it is declared."""


class Suspended(BaseException):
    """The attempt ends at this await; the invocation goes on later from its journal.

    A `BaseException`, so that `except Exception` in a handler can't swallow it. `finally`
    blocks and context managers of the handler run when it passes: keep side effects in
    `ctx.run`.
    """
