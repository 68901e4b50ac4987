"""The answers that several routes give."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw
from starlette.responses import Response

from awakeables.core.invocations import Status
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.web.problems import Problem
from awakeables.web.shapes import NotYet, Shape

INVOCATION_ID = "invocation-id"
"""The header that says which invocation an answer is about."""

_encode = msgspec.json.Encoder().encode


def as_json(shape: Shape, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(shape), status_code=status, headers=headers, media_type="application/json")


def of_result(invocation_id: str, outcome: Outcome) -> Response:
    """The end of an invocation: its value as it is.

    Raises:
        Problem: It failed.
    """
    headers = {INVOCATION_ID: invocation_id}
    match outcome:
        case Resolution():
            media_type = "application/json" if outcome.is_json else "application/octet-stream"
            return Response(outcome.content, headers=headers, media_type=media_type)
        case Rejection():
            details = None if outcome.details is UNSET else outcome.details
            raise _failed(invocation_id, outcome.reason, outcome.code, details)
        case Expiry():
            raise _failed(invocation_id, "time ran out", 408, None)
        case Cancellation():
            raise _failed(invocation_id, outcome.reason, 409, None)


def not_yet(invocation_id: str, status: Status, *, retry_after: str) -> Response:
    """It goes on: where to ask later."""
    headers = {
        "location": output_path(invocation_id),
        "retry-after": retry_after,
        INVOCATION_ID: invocation_id,
    }
    return as_json(NotYet(invocation_id=invocation_id, status=status), status=202, headers=headers)


def output_path(invocation_id: str) -> str:
    return f"/invocations/{invocation_id}/output"


def _failed(invocation_id: str, reason: str, code: int, details: Raw | None) -> Problem:
    return Problem(
        code if 400 <= code <= 599 else 500,
        "handler-failed",
        "The handler failed",
        reason,
        members={"reason": reason, "code": code, "details": details, "invocation_id": invocation_id},
        headers={INVOCATION_ID: invocation_id},
    )
