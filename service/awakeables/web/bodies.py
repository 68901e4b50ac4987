"""Reading bodies: the limits, the content types, JSON that is kept as it was written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from awakeables.core.bounds import has_more_json_values
from awakeables.core.jsontext import decode_json
from awakeables.errors import Overloaded
from awakeables.web.problems import ClientGone, Problem, bad_request
from awakeables.web.request import Request
from awakeables.web.settings import WebSettings

FORM = "application/x-www-form-urlencoded"
"""What curl's `-d` says about any body, so it says nothing."""

UNCOUNTED_BYTES: Final = 64 * 1024
"""A body up to this size is small: the server buffers as much for each connection anyway."""


class Bodies:
    """Reads the bodies of one server's requests, within bounds for each and for all of them together."""

    def __init__(self, settings: WebSettings) -> None:
        self._settings = settings
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, empty if there is none; it counts as held until the context is left.

        Small ones do not count, so that large ones keep none of them out. Counted is what has
        come, not what was declared: a client that declares much and sends nothing holds nothing.

        Raises:
            Problem: It is too large (413), or compressed (415), or too much is held already (503).
            ClientGone: The connection was closed before its end.
        """
        self._refuse_by_head(request)
        parts: list[bytes] = []
        size = held = 0
        more = True
        try:
            while more:
                message = await request.receive()
                if message["type"] != "http.request":
                    raise ClientGone
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)
                size += len(parts[-1])
                if size > self._settings.max_body_bytes:
                    raise _too_large(self._settings.max_body_bytes)
                if size > UNCOUNTED_BYTES:
                    held += self._hold(size - held)
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            yield body
        finally:
            self._held -= held

    def _refuse_by_head(self, request: Request) -> None:
        encoding = request.header(b"content-encoding")
        if encoding is not None and encoding.strip().lower() not in ("", "identity"):
            raise unsupported(f"content-encoding {encoding[:60]!r} is not supported; send the body as it is")
        declared = request.header(b"content-length")
        if (
            declared is not None
            and declared.isdecimal()
            and int(declared[:20]) > self._settings.max_body_bytes
        ):
            raise _too_large(self._settings.max_body_bytes)

    def _hold(self, size: int) -> int:
        if self._held + size > self._settings.max_bodies_bytes:
            raise Overloaded(
                f"the bodies that are being read have {self._settings.max_bodies_bytes:,} bytes together "
                "(AWAKEABLES_MAX_BODIES_BYTES); try again later"
            )
        self._held += size
        return size

    def json_of(self, request: Request, body: bytes) -> bytes:
        """The body as JSON text, exactly as it was written; an absent body is null.

        JSON by content type; with curl's form type, or none, any body that is JSON.

        Raises:
            Problem: It is no JSON (400), has too many values (413), or says that it is something
                else (415).
        """
        if not body:
            return b"null"
        media_type = request.media_type
        if not is_json_type(media_type):
            if media_type and media_type != FORM:
                raise unsupported(f"content-type {media_type[:60]!r} is not JSON; send application/json")
            if media_type == FORM and self._json_error(body) is not None:
                raise unsupported(
                    "the body is no JSON and its content-type says it is a form; "
                    "send JSON as application/json"
                )
        return self.checked_json(body)

    def checked_json(self, text: bytes) -> bytes:
        """The text, stripped, if every reader can decode it as JSON.

        Raises:
            Problem: 400: no JSON, NaN, bad UTF-8, or nested too deep; 413: too many values.
        """
        error = self._json_error(text)
        if error is not None:
            raise malformed(f"the body is no JSON: {error}")
        return text.strip()

    def _json_error(self, text: bytes) -> str | None:
        most = self._settings.max_json_values
        if has_more_json_values(text, most):
            raise _too_many_values(most)
        try:
            decode_json(text)
        except ValueError as error:
            return str(error)
        return None


def is_json_type(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def malformed(detail: str) -> Problem:
    return bad_request(detail, type="malformed-body", title="The body can't be read")


def unsupported(detail: str) -> Problem:
    return Problem(415, "unsupported-media-type", "The body's type is not supported here", detail)


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, "too-large", "The body is too large", f"a body has at most {max_bytes:,} bytes here")


def _too_many_values(most: int) -> Problem:
    detail = f"JSON has at most {most:,} values here, of objects and arrays together"
    return Problem(413, "too-many-values", "The body has too many values", detail)
