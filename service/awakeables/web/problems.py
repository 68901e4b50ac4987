"""Errors as problem details (RFC 9457): one table from error class to status, type and title.

`type` is a short relative reference (`handler-failed`) for programs to compare; `detail` is for people.
A problem never contains a stack trace.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from awakeables import errors
from awakeables.errors import CallerError
from awakeables.web import request
from awakeables.web.request import Headers, Response

MEDIA_TYPE: Final = b"application/problem+json"

_TABLE: Final[dict[type[Exception], tuple[int, str, str]]] = {
    errors.MalformedId: (400, "malformed-id", "The ID is malformed"),
    errors.NotFound: (404, "not-found", "Not found"),
    errors.RunNotBegun: (404, "not-begun", "The workflow has no run of this key"),
    errors.InvalidInput: (422, "invalid-input", "The input is invalid"),
    errors.IdempotencyConflict: (
        422,
        "idempotency-conflict",
        "The key was used with another input",
    ),
    errors.QueueIsFull: (429, "queue-full", "The queue of the object's key is full"),
    errors.NotPossible: (409, "not-possible", "The current state does not allow this"),
    errors.CallerError: (400, "bad-request", "The request is invalid"),
    errors.OwnershipLost: (503, "try-again", "Another process took over this work"),
    errors.StoreRefused: (422, "store-refused", "The store can't keep this data"),
    errors.StoreUnavailable: (503, "store-unavailable", "The store can't be reached"),
    errors.Overloaded: (503, "overloaded", "The service is overloaded"),
    errors.OperatorError: (503, "unavailable", "The service can't do this now"),
}
_INTERNAL: Final = (500, "internal-error", "Internal error")
_INTERNAL_DETAIL: Final = "an unexpected error; the service's log has it under this request ID"


class Problem(CallerError):
    """A problem that is sent as it is.

    Attributes:
        members: Additional members of the document.
        headers: Additional response headers.
    """

    def __init__(
        self,
        status: int,
        type: str,
        title: str,
        detail: str,
        *,
        members: dict[str, Any] | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.type = type
        self.title = title
        self.members = members or {}
        self.headers = headers


class ClientGone(Exception):
    """The client closed the connection before its request was read."""


def bad_request(detail: str, *, type: str = "bad-request", title: str = "The request is invalid") -> Problem:
    return Problem(400, type, title, detail)


def in_doubt(detail: str) -> Problem:
    """The store did not answer in time, so the outcome of the request is unknown."""
    return Problem(503, "in-doubt", "The store did not answer in time", detail)


def is_expected(error: Exception) -> bool:
    """Whether the table has a row for this error."""
    return isinstance(error, Problem) or _row(error) is not _INTERNAL


def response_to(error: Exception, *, retry_after: bytes = b"1", request_id: str | None = None) -> Response:
    """Make the problem document for an error, with this request ID."""
    if isinstance(error, Problem):
        problem = error
    else:
        row = _row(error)
        status, type_, title = row
        problem = Problem(status, type_, title, _INTERNAL_DETAIL if row is _INTERNAL else str(error))
    document = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": str(problem),
        **problem.members,
    }
    if request_id is not None:
        document["request_id"] = request_id
    retry = ((b"retry-after", retry_after),) if problem.status in (429, 503) else ()
    return request.response(
        msgspec.json.encode(document),
        MEDIA_TYPE,
        status=problem.status,
        headers=(*problem.headers, *retry),
    )


def _row(error: Exception) -> tuple[int, str, str]:
    for kind in type(error).__mro__:
        if kind in _TABLE:
            return _TABLE[kind]
    return _INTERNAL
