"""One HTTP request and its answer: what a route needs of ASGI, and no more.

Starlette's own classes look for each header in a list of all; on the path of a call, which looks for seven,
that costs as much as everything else here.
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
    """A whole answer: what is sent for a request."""

    status: int
    headers: Headers
    body: bytes


Route: TypeAlias = Callable[["HttpRequest"], Awaitable[Response]]


class HttpRequest:
    """A request on its way through its route.

    Attributes:
        names: What stood in the variable segments of the path, decoded, in order.
        query: The query's parameters, of those that the route takes.
        holder: Whose token it has; None where none is asked for.
        by: Whose request it is, for people: the token's name, or where it comes from without one.
        raw_headers: As received, in order.
        headers: The same by name; of several of one name the last.
        held: How many bytes of its body count as held (see `Bodies`).
    """

    __slots__ = ("by", "headers", "held", "holder", "names", "query", "raw_headers", "receive")

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
    ) -> None:
        self.receive = receive
        self.raw_headers = raw_headers
        self.headers = headers
        self.names = names
        self.query = query
        self.holder = holder
        self.by = by
        self.held = 0

    def header(self, name: bytes) -> str | None:
        """A header's value; the last of several; `name` in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def text(self, name: bytes) -> str | None:
        """A header's value as a text to keep: UTF-8, as most clients write it, or else Latin-1."""
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
    """Make an answer, with the headers that say what its body is."""
    return Response(
        status, [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *headers], body
    )
