"""The answers that several routes give."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw
from starlette.responses import Response

from awakeables.core.invocations import Invocation, hold_up
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.web.problems import Problem
from awakeables.web.shapes import NotYet, Shape

INVOCATION_ID = "invocation-id"
"""The header that says which invocation an answer is about."""

AFTER_A_PERSON = "60"
"""Seconds until it is worth asking again for what only a person makes go on."""

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


def not_yet(row: Invocation, *, retry_after: str) -> Response:
    """It has not ended: why, if it doesn't get on, and where to ask later.

    Also what is paused is answered 202: it was accepted, and a caller that took it for a failure
    and called again would do its work twice.
    """
    headers = {
        "location": output_path(row.id),
        "retry-after": AFTER_A_PERSON if row.status == "paused" else retry_after,
        INVOCATION_ID: row.id,
    }
    answer = NotYet(invocation_id=row.id, status=row.status, reason=hold_up(row) or UNSET)
    return as_json(answer, status=202, headers=headers)


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
