"""The answers that many routes share: what they are refused with, and the headers of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from awakeables.web import shapes
from awakeables.web.problems import MEDIA_TYPE as PROBLEM

REQUEST_ID: Final = "x-request-id"
INVOCATION_ID: Final = "invocation-id"
LOCATION: Final = "location"
RETRY_AFTER: Final = "retry-after"
CHALLENGE: Final = "www-authenticate"

HEADERS: Final[dict[str, tuple[str, bool, Any]]] = {
    REQUEST_ID: ("The request's own, or a new one; stands in the log.", True, {"type": "string"}),
    INVOCATION_ID: ("What the answer is about.", True, msgspec.json.schema(shapes.InvocationId)),
    LOCATION: ("Where the result will be.", True, {"type": "string", "format": "uri-reference"}),
    RETRY_AFTER: ("Seconds until it is worth to ask again.", True, {"type": "integer", "minimum": 1}),
    CHALLENGE: ("What kind of token is wanted.", False, {"type": "string"}),
}
"""By name: what it says, whether it is always there, its schema."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered: its bodies by media type, as shapes or JSON Schemas, and its headers."""

    description: str
    content: Mapping[str, Any]
    headers: tuple[str, ...] = ()


def _problem(description: str, *headers: str, shape: Any = shapes.Problem) -> Answer:
    return Answer(description, {PROBLEM: shape}, headers)


_COMPLETION = shapes.RefusedCompletion

REFUSALS: Final[dict[str, Answer]] = {
    "BadRequest": _problem("Path, query, headers, an ID or the body can't be read."),
    "Unauthorized": _problem("A token is needed, or it is not known.", CHALLENGE),
    "Forbidden": _problem("The token has not the scope, or another site's page sent this.", CHALLENGE),
    "NotFound": _problem("There is no such thing here."),
    "TooSlow": _problem("The request took too long to come in."),
    "NotPossible": _problem("The state does not allow this."),
    "TooLarge": _problem("The body is larger than AWAKEABLES_MAX_BODY_BYTES."),
    "UriTooLong": _problem("Path and query are too long."),
    "UnsupportedMediaType": _problem("The body's type, or its encoding, is not supported here."),
    "Misdirected": _problem("The request is for another host name than AWAKEABLES_ALLOWED_HOSTS has."),
    "Unfit": _problem("The body does not fit, the idempotency key was used, or the store refuses it."),
    "HeadersTooLarge": _problem("The headers are too many or too large."),
    "Failed": _problem("An error that should not happen; the log tells which."),
    "Unavailable": _problem("The store is down, too much is under way, or the service stops.", RETRY_AFTER),
    "Unknown": _problem("No such awakeable was issued.", shape=_COMPLETION),
    "Conflict": _problem("The awakeable has another answer already.", shape=_COMPLETION),
    "Late": _problem("The awakeable timed out, was cancelled or is purged.", shape=_COMPLETION),
    "Invalid": _problem(
        "The value does not fit, the awakeable still waits; or the store refuses it.",
        shape={"anyOf": [_COMPLETION, shapes.Problem]},
    ),
}
"""By the names that they have in the document."""

ALWAYS: Final = {
    "400": "BadRequest",
    "408": "TooSlow",
    "414": "UriTooLong",
    "421": "Misdirected",
    "431": "HeadersTooLarge",
    "500": "Failed",
    "503": "Unavailable",
}
WITH_TOKENS: Final = {"401": "Unauthorized", "403": "Forbidden"}
OF_BODIES: Final = {"413": "TooLarge", "415": "UnsupportedMediaType", "422": "Unfit"}
OF_VERDICTS: Final = {"404": "Unknown", "409": "Conflict", "410": "Late", "422": "Invalid"}

_FAILURE = _problem(
    "The handler failed: its code if that is one of HTTP's, else 500.", shape=shapes.HandlerFailed
)
FAILED: Final = {"4XX": _FAILURE, "5XX": _FAILURE}
