"""Reading request bodies: size limits, content types, and JSON that is kept as written."""

from __future__ import annotations

from typing import Final

from awakeables.core.bounds import has_more_json_values
from awakeables.core.jsontext import decode_json
from awakeables.core.texts import excerpt
from awakeables.errors import Overloaded
from awakeables.web.problems import ClientGone, Problem, bad_request
from awakeables.web.request import JSON, HttpRequest
from awakeables.web.settings import WebSettings

FORM = "application/x-www-form-urlencoded"
"""curl's `-d` sends this with any body, so it says nothing about the body."""

UNCOUNTED_BYTES: Final = 64 * 1024
"""A body up to this size is not counted: the server buffers that much per connection anyway."""


class Bodies:
    """Reads request bodies, bounded each and in total."""

    def __init__(self, settings: WebSettings) -> None:
        self._settings = settings
        self._held = 0

    async def read(self, request: HttpRequest) -> bytes:
        """Read the whole body. A large one counts against the total until `release`.

        Small bodies are not counted, so that large ones can't starve them. Bytes are counted when
        received, not when declared: a client that declares much and sends nothing uses no budget.

        Raises:
            Problem: The body is too large (413) or compressed (415), or the total is used up (503).
            ClientGone: The connection was closed before the end of the body.
        """
        headers, most = request.headers, self._settings.max_body_bytes
        if b"content-encoding" in headers:
            _refuse_encoded(request)
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > most:
            raise _too_large(most)
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await request.receive()
            if message["type"] != "http.request":
                raise ClientGone
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
            size += len(parts[-1])
            if size > most:
                raise _too_large(most)
            if size > UNCOUNTED_BYTES:
                self._hold(request, size)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _hold(self, request: HttpRequest, size: int) -> None:
        if self._held + size - request.held > self._settings.max_bodies_bytes:
            raise Overloaded(
                f"request bodies in memory have reached {self._settings.max_bodies_bytes:,} bytes in total "
                "(AWAKEABLES_MAX_BODIES_BYTES); try again later"
            )
        self._held += size - request.held
        request.held = size

    def release(self, request: HttpRequest) -> None:
        """Take a body off the total."""
        self._held -= request.held
        request.held = 0

    def json_of(self, request: HttpRequest, body: bytes) -> bytes:
        """Return the body as JSON text, exactly as written; an absent body is null.

        Accepted are JSON content types, and, with curl's form type or none, any body that is JSON.

        Raises:
            Problem: The body is not JSON (400), has too many values (413), or has another content
                type (415).
        """
        if not body:
            return b"null"
        if request.headers.get(b"content-type") == JSON:
            return self.checked_json(body)
        media_type = request.media_type
        if media_type and media_type != FORM and not is_json_type(media_type):
            raise unsupported(f"content-type {excerpt(media_type)} is not JSON; send application/json")
        try:
            return self.checked_json(body)
        except Problem as problem:
            if media_type == FORM and problem.status == 400:
                raise unsupported(
                    "the body is not JSON, and its content-type is that of a form; "
                    "send JSON as application/json"
                ) from None
            raise

    def checked_json(self, text: bytes) -> bytes:
        """Return the text, stripped, if every JSON parser can decode it.

        Raises:
            Problem: 400 for invalid JSON, NaN, bad UTF-8 or too deep nesting; 413 for too many values.
        """
        most = self._settings.max_json_values
        # Each value but the first has a character of its own before it.
        if len(text) >= most and has_more_json_values(text, most):
            raise _too_many_values(most)
        try:
            decode_json(text)
        except ValueError as error:
            raise malformed(f"the body is not JSON: {error}") from None
        return text.strip()


def _refuse_encoded(request: HttpRequest) -> None:
    encoding = request.header(b"content-encoding") or ""
    if encoding.strip().lower() not in ("", "identity"):
        raise unsupported(
            f"content-encoding {excerpt(encoding)} is not supported; send the body uncompressed"
        )


def is_json_type(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def malformed(detail: str) -> Problem:
    return bad_request(detail, type="malformed-body", title="The body can't be read")


def unsupported(detail: str) -> Problem:
    return Problem(415, "unsupported-media-type", "The body's type is not supported here", detail)


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, "too-large", "The body is too large", f"the limit is {max_bytes:,} bytes")


def _too_many_values(most: int) -> Problem:
    detail = f"the limit is {most:,} JSON values, counting the members of all objects and arrays"
    return Problem(413, "too-many-values", "The body has too many values", detail)
