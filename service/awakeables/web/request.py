"""An HTTP request and its response: the part of ASGI that routes need.

Starlette's own classes search a list of all headers for each header; a call, which reads seven, would
spend as much on that as on everything else here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from starlette.types import Receive

from awakeables.web.tokenfile import Holder

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""As ASGI has them: names in lower case."""

JSON = b"application/json"


class Response(NamedTuple):
    """A complete response."""

    status: int
    headers: Headers
    body: bytes


Route: TypeAlias = Callable[["HttpRequest"], Awaitable[Response]]


class HttpRequest:
    """A request that has been matched to its route.

    Attributes:
        names: The values of the variable path segments, decoded, in order.
        query: The query parameters that the route accepts.
        holder: The holder of its token; None if no token is needed.
        hides_payloads: It must see sizes instead of what the app seals: its token lacks the scope `payloads`.
        by: Who sent it, for people: the token's name, or without one where the request comes from.
        raw_headers: The headers as received, in order.
        headers: The headers by name; the last one if repeated.
        held: Bytes of its body that count against the total (see `Bodies`).
    """

    __slots__ = (
        "by",
        "headers",
        "held",
        "hides_payloads",
        "holder",
        "names",
        "query",
        "raw_headers",
        "receive",
    )

    def __init__(
        self,
        receive: Receive,
        raw_headers: Headers,
        headers: Mapping[bytes, bytes],
        names: Sequence[str],
        *,
        query: Mapping[str, str],
        holder: Holder | None,
        by: str,
        hides_payloads: bool = False,
    ) -> None:
        self.receive = receive
        self.raw_headers = raw_headers
        self.headers = headers
        self.names = names
        self.query = query
        self.holder = holder
        self.by = by
        self.hides_payloads = hides_payloads
        self.held = 0

    def header(self, name: bytes) -> str | None:
        """A header's value, the last one if repeated; `name` is in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def text(self, name: bytes) -> str | None:
        """A header's value as text to store: UTF-8, as most clients send it, or else Latin-1."""
        value = self.headers.get(name)
        if value is None:
            return None
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.decode("latin-1")

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case; empty if there is none."""
        return (self.header(b"content-type") or "").partition(";")[0].strip().lower()


def response(body: bytes, media_type: bytes = JSON, *, status: int = 200, headers: Headers = ()) -> Response:
    """Make a response with content type and length."""
    return Response(
        status, [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *headers], body
    )
