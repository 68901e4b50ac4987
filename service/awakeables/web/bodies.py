"""Reading bodies: the limit, the content types, JSON that is kept to the letter."""

from __future__ import annotations

from awakeables.handlers.serde import decode_json
from awakeables.web.problems import ClientGone, Problem, bad_request
from awakeables.web.request import Request

FORM = "application/x-www-form-urlencoded"
"""What curl's `-d` says about any body, so it says nothing."""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; empty if there is none.

    Raises:
        Problem: It is too large (413), or compressed (415).
        ClientGone: The connection was closed before its end.
    """
    encoding = request.header(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise unsupported(f"content-encoding {encoding[:60]!r} is not supported; send the body as it is")
    declared = request.header(b"content-length")
    if declared is not None and declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    message = await request.receive()
    if message["type"] != "http.request":
        raise ClientGone
    first: bytes = message.get("body", b"")
    if len(first) > max_bytes:
        raise _too_large(max_bytes)
    if not message.get("more_body", False):
        return first
    return await _rest(request, bytearray(first), max_bytes)


async def _rest(request: Request, body: bytearray, max_bytes: int) -> bytes:
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def is_json_type(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def json_of(request: Request, body: bytes) -> bytes:
    """The body as JSON text, exactly as it was written; an absent body is null.

    JSON by content type; with curl's form type, or none, whatever is JSON.

    Raises:
        Problem: It is no JSON (400), or says that it is something else (415).
    """
    if not body:
        return b"null"
    media_type = request.media_type
    if not is_json_type(media_type):
        if media_type and media_type != FORM:
            raise unsupported(f"content-type {media_type[:60]!r} is not JSON; send application/json")
        if media_type == FORM and _json_error(body) is not None:
            raise unsupported(
                "the body is no JSON and its content-type says it is a form; send JSON as application/json"
            )
    return checked_json(body)


def checked_json(text: bytes) -> bytes:
    """The text, stripped, if every reader can decode it as JSON.

    Raises:
        Problem: 400: no JSON, NaN, bad UTF-8, or nested too deep.
    """
    error = _json_error(text)
    if error is not None:
        raise malformed(f"the body is no JSON: {error}")
    return text.strip()


def malformed(detail: str) -> Problem:
    return bad_request(detail, type="malformed-body", title="The body can't be read")


def unsupported(detail: str) -> Problem:
    return Problem(415, "unsupported-media-type", "The body's type is not supported here", detail)


def _json_error(text: bytes) -> str | None:
    try:
        decode_json(text)
    except ValueError as error:
        return str(error)
    return None


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, "too-large", "The body is too large", f"a body has at most {max_bytes:,} bytes here")
