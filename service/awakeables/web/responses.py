"""Responses shared by several routes."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw

from awakeables.core.invocations import Invocation, stalled_reason
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.core.replies import Begun
from awakeables.web.problems import Problem
from awakeables.web.request import JSON, Headers, Response, response
from awakeables.web.views import NotYetView, View

INVOCATION_ID = b"invocation-id"
"""The header that names the invocation."""

ATTACHED = b"awakeables-attached"
"""The header that says that the call began nothing: it has joined an older invocation."""

RETRY_AFTER_PAUSED = b"60"
"""Retry-After for a paused invocation, in seconds: it waits for a person."""

_encode = msgspec.json.Encoder().encode


def as_json(shape: View, *, status: int = 200, headers: Headers = ()) -> Response:
    return response(_encode(shape), status=status, headers=headers)


def attached(begun: Begun) -> Headers:
    """The header that a call has joined an older invocation, if it has."""
    return () if begun.created else ((ATTACHED, b"true"),)


def of_result(invocation_id: str, outcome: Outcome, headers: Headers = ()) -> Response:
    """Respond with an invocation's result, unchanged.

    Args:
        invocation_id: The invocation.
        outcome: Its result.
        headers: Those of the response, besides the invocation's ID.

    Raises:
        Problem: The invocation failed.
    """
    headers = ((INVOCATION_ID, invocation_id.encode()), *headers)
    match outcome:
        case Resolution():
            media_type = JSON if outcome.is_json else b"application/octet-stream"
            return response(outcome.content, media_type, headers=headers)
        case Rejection():
            details = None if outcome.details is UNSET else outcome.details
            raise _failed(invocation_id, outcome.reason, outcome.code, details, headers)
        case Expiry():
            raise _failed(invocation_id, "timed out", 408, None, headers)
        case Cancellation():
            raise _failed(invocation_id, outcome.reason, 409, None, headers)


def not_yet(row: Invocation, *, retry_after: bytes, headers: Headers = ()) -> Response:
    """Respond that an invocation has not ended, why if it is held up, and where to poll.

    A paused invocation is answered 202, too: it was accepted, and a caller that took this for a failure
    and called again would repeat its work.
    """
    shape = NotYetView(invocation_id=row.id, status=row.status, reason=stalled_reason(row) or UNSET)
    retry_after = RETRY_AFTER_PAUSED if row.status == "paused" else retry_after
    return as_json(shape, status=202, headers=(*ask_later(row.id, retry_after), *headers))


def ask_later(invocation_id: str, retry_after: bytes) -> Headers:
    """The headers that say where and when to poll for the result."""
    raw_id = invocation_id.encode()
    return (
        (b"location", b"/invocations/%b/output" % raw_id),
        (b"retry-after", retry_after),
        (INVOCATION_ID, raw_id),
    )


def _failed(invocation_id: str, reason: str, code: int, details: Raw | None, headers: Headers) -> Problem:
    return Problem(
        code if 400 <= code <= 599 else 500,
        "handler-failed",
        "The handler failed",
        reason,
        members={"reason": reason, "code": code, "details": details, "invocation_id": invocation_id},
        headers=headers,
    )
